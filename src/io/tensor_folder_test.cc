#include "io/tensor_folder.h"

#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "io/testing.h"

namespace megalodon::io {
namespace {

using testing::expect_equal;
using testing::view;
using Json = nlohmann::json;

constexpr const char* kIndex = "model.safetensors.index.json";

class TensorFolder : public ::testing::Test {
 protected:
  std::vector<FileSum> write(uint64_t max_shard_bytes) const {
    return write_tensors(folder_ / "", "model", tensors_, max_shard_bytes);
  }
  TensorFile read() const { return read_tensors(folder_ / "", "model"); }
  std::string error() const {
    return testing::error_of([&] { read(); });
  }
  Json index() const { return Json::parse(read_file(folder_ / kIndex)); }
  /// Without the syncing of write_file_atomically(), which many small files would wait for.
  void put_index(std::string_view text) const { std::ofstream(folder_ / kIndex, std::ios::binary) << text; }
  void put_tree(const Json& tree) const { put_index(tree.dump()); }
  /// The error for an index in which tensor "b" is in `file`.
  std::string error_for(const std::string& file) const {
    Json tree = index();
    tree["weight_map"]["b"] = file;
    put_tree(tree);
    return error();
  }
  static void expect_contains(const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }

  const std::vector<float> values_ = {1, 2, 3, 4};
  const std::vector<TensorView> tensors_ = {view("b", Dtype::F32, {4}, values_), view("a", Dtype::F32, {2, 2}, values_),
                                            view("c", Dtype::F32, {4}, values_)};
  const TemporaryFolder folder_;
};

TEST_F(TensorFolder, FitsOneFile) {
  const auto sums = write(48);
  ASSERT_EQ(sums.size(), 1U);
  EXPECT_EQ(sums[0].name, "model.safetensors");
  EXPECT_FALSE(fs::exists(folder_ / kIndex));
  EXPECT_EQ(read().tensors().size(), 3U);
}

TEST_F(TensorFolder, ShardsRoundTrip) {
  EXPECT_FALSE(has_tensors(folder_ / "", "model"));
  for (const auto& [limit, shards] : {std::pair<uint64_t, size_t>{47, 2}, {32, 2}, {31, 3}, {1, 3}}) {
    const auto sums = write(limit);
    EXPECT_EQ(sums.size(), shards + 1);
    const TensorFile file = read();
    ASSERT_EQ(file.tensors().size(), 3U);
    for (const TensorView& tensor : tensors_) expect_equal(*file.find(tensor.name), tensor);
    EXPECT_EQ(file.metadata().at("format"), "pt");
    EXPECT_EQ(index()["metadata"]["total_size"], 48);
    EXPECT_EQ(index()["weight_map"]["b"], fmt::format("model-00001-of-0000{}.safetensors", shards));
    write_manifest(folder_ / "", sums);
    EXPECT_NO_THROW(verify_manifest(folder_ / ""));
  }
  EXPECT_TRUE(has_tensors(folder_ / "", "model"));
}

TEST_F(TensorFolder, NeitherOrBothIsRefused) {
  expect_contains(error(), {"model.safetensors", kIndex});
  write(16);
  write(100);
  expect_contains(error(), {"both"});
}

TEST_F(TensorFolder, IndexNamesNothingButFilesOfItsFolder) {
  write(16);
  for (const std::string& name : {std::string("../model-00001-of-00003.safetensors"), std::string("/etc/passwd"),
                                  std::string("sub/x.safetensors"), std::string("."), std::string(".."),
                                  std::string(".hidden.safetensors"), std::string(".safetensors"), std::string(kIndex),
                                  std::string("a\0b.safetensors", 15), std::string(5000, 'x') + ".safetensors"})
    expect_contains(error_for(name), {kIndex, "no plain name"});
}

TEST_F(TensorFolder, LinksDevicesAndFoldersAreRefused) {
  write(16);
  fs::create_symlink(folder_ / "model-00001-of-00003.safetensors", folder_ / "link.safetensors");
  fs::create_symlink("loop.safetensors", folder_ / "loop.safetensors");
  fs::create_symlink("/dev/zero", folder_ / "device.safetensors");
  fs::create_directory(folder_ / "folder.safetensors");
  ASSERT_EQ(mkfifo((folder_ / "pipe.safetensors").c_str(), 0600), 0);
  for (const std::string name : {"link", "loop", "device", "folder", "pipe"})
    expect_contains(error_for(name + ".safetensors"), {name + ".safetensors: not a regular file"});
}

TEST_F(TensorFolder, EverythingOutOfPlaceIsListed) {
  write(16);
  Json tree = index();
  tree["weight_map"]["b"] = tree["weight_map"]["a"];  // is in another shard, whose other tensor is not listed
  tree["weight_map"]["d"] = tree["weight_map"]["c"];  // is nowhere
  tree["weight_map"]["e"] = "model-00009-of-00009.safetensors";
  put_tree(tree);
  expect_contains(error(), {"model-00002-of-00003.safetensors: lacks b", "model-00003-of-00003.safetensors: lacks d",
                            "model-00009-of-00009.safetensors: missing"});
  tree = index();
  tree["weight_map"].erase("e");
  tree["weight_map"].erase("d");
  tree["weight_map"]["b"] = "model-00001-of-00003.safetensors";
  tree["weight_map"].erase("a");
  tree["weight_map"]["x"] = "model-00002-of-00003.safetensors";
  put_tree(tree);
  expect_contains(error(), {"model-00002-of-00003.safetensors: lacks x",
                            "model-00002-of-00003.safetensors: a is not listed there"});
}

TEST_F(TensorFolder, ShardsThatHoldATensorTwiceAreRefused) {
  write(16);
  fs::copy(folder_ / "model-00001-of-00003.safetensors", folder_ / "copy.safetensors");
  Json tree = index();
  tree["weight_map"]["c"] = "copy.safetensors";
  put_tree(tree);
  expect_contains(error(), {"copy.safetensors: lacks c", "copy.safetensors: b is not listed there"});
}

TEST_F(TensorFolder, OtherIndexesAreRefused) {
  write(16);
  for (const char* text :
       {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})", R"({"weight_map": {"a": 1}})",
        R"({"weight_map": {"a": ""}})", R"({"weight_map": {"a": {"a": "b"}}})",
        R"({"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}})"}) {
    put_index(std::string_view(text));
    EXPECT_NE(error(), "no error") << text;
  }
  put_index(std::string_view(std::string(100'000, '[')));
  EXPECT_NE(error(), "no error");
  fs::remove(folder_ / kIndex);
  fs::create_symlink("/dev/zero", folder_ / kIndex);
  expect_contains(error(), {"regular file"});
}

TEST_F(TensorFolder, DamagedIndexesAreRefusedOrRead) {
  write(16);
  const std::string text = read_file(folder_ / kIndex);
  EXPECT_GT(testing::damage(text, 1000,
                            [&](const auto& bytes) {
                              put_index(as_text(*bytes));
                              read();
                            }),
            500);
}

}  // namespace
}  // namespace megalodon::io
