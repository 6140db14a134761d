#include "io/torch_file.h"

#include <fmt/format.h>

#include <fstream>

#include "io/pickle.h"
#include "io/testing.h"
#include "io/zip.h"

namespace megalodon::io::torch_file_test {
namespace {

using testing::error_of;
using testing::exact;
using testing::expect_equal;
using testing::values;
using testing::view;

/// An archive around any pickle, with correct checksums.
std::string archive(const std::string& pickle, const std::vector<std::pair<std::string, std::string>>& more) {
  std::string file;
  ZipWriter zip([&](std::string_view bytes) { file += bytes; });
  zip.add("run/data.pkl", as_bytes(pickle));
  for (const auto& [name, data] : more) zip.add("run/" + name, as_bytes(data));
  zip.finish();
  return file;
}

std::string floats(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) append(out, std::bit_cast<uint32_t>(static_cast<float>(i)));
  return out;
}

TensorFile parse(const std::vector<PickledTensor>& tensors, const std::string& storage = floats(24)) {
  const auto bytes = exact(archive(write_pickle(tensors), {{"data/0", storage}}));
  return parse_torch_file(*bytes, bytes);
}

TEST(TorchFile, RoundTrip) {
  const std::vector<float> f32 = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> bf16 = {0x3f80, 0x4000};
  const std::vector<int64_t> i64 = {-7};
  const std::vector<uint8_t> bools = {1, 0, 1};
  const std::vector<double> none;
  const std::vector<TensorView> tensors = {
      view("w", Dtype::F32, {2, 3}, f32),      view("layers.0.é", Dtype::BF16, {2}, bf16),
      view("step", Dtype::I64, {}, i64),       view("mask", Dtype::Bool, {3}, bools),
      view("empty", Dtype::F64, {0, 4}, none), view("c", Dtype::C64, {3}, f32)};
  const TemporaryFolder folder;
  write_torch_file(folder / "x.pth", tensors);
  const TensorFile file = read_torch_file(folder / "x.pth");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) expect_equal(file.tensors()[i], tensors[i]);
}

TEST(TorchFile, TiedTensorsShareTheirStorage) {
  const std::vector<float> shared = {1, 2, 3, 4}, other = {1, 2, 3, 4};
  const TemporaryFolder folder;
  write_torch_file(folder / "x.pth", std::vector<TensorView>{view("embed", Dtype::F32, {2, 2}, shared),
                                                             view("copy", Dtype::F32, {4}, other),
                                                             view("output", Dtype::F32, {4}, shared)});
  const TensorFile file = read_torch_file(folder / "x.pth");
  EXPECT_EQ(file.find("embed")->bytes.data(), file.find("output")->bytes.data());
  EXPECT_NE(file.find("embed")->bytes.data(), file.find("copy")->bytes.data());
  EXPECT_EQ(values<float>(*file.find("output")), shared);
  EXPECT_EQ(values<float>(*file.find("copy")), shared);
}

TEST(TorchFile, StridedTensorsComeOutRowMajor) {
  // One storage of 24 floats 0, 1, …, seen through several windows.
  const TensorFile file = parse({{"all", "0", Dtype::F32, 24, 0, {2, 3, 4}, {12, 4, 1}},
                                 {"transposed", "0", Dtype::F32, 24, 0, {4, 6}, {1, 4}},
                                 {"tied", "0", Dtype::F32, 24, 0, {4, 6}, {1, 4}},
                                 {"slice", "0", Dtype::F32, 24, 9, {2, 2}, {12, 2}},
                                 {"row", "0", Dtype::F32, 24, 4, {1, 4}, {INT64_MAX, 1}},
                                 {"column", "0", Dtype::F32, 24, 1, {2, 1}, {4, INT64_MAX}},
                                 {"last", "0", Dtype::F32, 24, 23, {}, {}},
                                 {"repeated", "0", Dtype::F32, 24, 5, {3}, {0}},
                                 {"empty", "0", Dtype::F32, 24, 1000, {0, 3}, {-5, 1}}});
  EXPECT_EQ(file.find("all")->bytes.size(), 96u);
  EXPECT_EQ(values<float>(*file.find("transposed")),
            (std::vector<float>{0, 4, 8, 12, 16, 20, 1, 5, 9, 13, 17, 21, 2, 6, 10, 14, 18, 22, 3, 7, 11, 15, 19, 23}));
  EXPECT_EQ(file.find("tied")->bytes.data(), file.find("transposed")->bytes.data());
  EXPECT_EQ(values<float>(*file.find("slice")), (std::vector<float>{9, 11, 21, 23}));
  EXPECT_EQ(values<float>(*file.find("row")), (std::vector<float>{4, 5, 6, 7}));
  EXPECT_EQ(file.find("row")->bytes.data(), file.find("all")->bytes.data() + 16);  // a view, not a copy
  EXPECT_EQ(values<float>(*file.find("column")), (std::vector<float>{1, 5}));
  EXPECT_EQ(values<float>(*file.find("last")), std::vector<float>{23});
  EXPECT_EQ(values<float>(*file.find("repeated")), (std::vector<float>{5, 5, 5}));
  EXPECT_TRUE(file.find("empty")->bytes.empty());
}

TEST(TorchFile, ViewsOutliveTheReader) {
  const TensorFile moved = [] {
    TensorFile file = parse({{"t", "0", Dtype::F32, 24, 0, {4, 6}, {1, 4}}});
    return TensorFile(std::move(file));
  }();
  EXPECT_EQ(values<float>(moved.tensors()[0])[1], 4);
}

TEST(TorchFile, RefusesWindowsThatLeaveTheStorage) {
  const auto error = [](const PickledTensor& tensor) { return error_of([&] { parse({tensor}); }); };
  constexpr int64_t kBig = int64_t{1} << 62;
  const std::vector<PickledTensor> leaving = {{"t", "0", Dtype::F32, 24, 0, {25}, {1}},
                                              {"t", "0", Dtype::F32, 24, 24, {}, {}},
                                              {"t", "0", Dtype::F32, 24, 1, {4, 6}, {6, 1}},
                                              {"t", "0", Dtype::F32, 24, 0, {2, 2}, {23, 1}},
                                              {"t", "0", Dtype::F32, 24, 23, {2}, {-1}},
                                              {"t", "0", Dtype::F32, 24, 0, {3}, {kBig}},
                                              {"t", "0", Dtype::F32, 24, 0, {2, 2, 2}, {kBig, kBig, 1}},
                                              {"t", "0", Dtype::F32, 24, INT64_MAX, {2}, {1}}};
  for (const PickledTensor& tensor : leaving) {
    EXPECT_NE(error(tensor).find("leaves its storage of 24 elements"), std::string::npos) << error(tensor);
  }
  const std::vector<PickledTensor> impossible = {{"t", "0", Dtype::F32, 24, 0, {-1}, {1}},
                                                 {"t", "0", Dtype::F32, 24, -1, {1}, {1}},
                                                 {"t", "0", Dtype::F32, 24, 0, {2}, {}},
                                                 {"t", "0", Dtype::F32, 24, 0, {2}, {1, 1}},
                                                 {"t", "0", Dtype::F32, 24, 0, {kBig, kBig}, {0, 0}}};
  for (const PickledTensor& tensor : impossible) {
    EXPECT_TRUE(error(tensor).ends_with("are impossible")) << error(tensor);
  }
  EXPECT_NE(error({"t", "0", Dtype::F32, 24, 0, {1000000}, {0}}).find("larger than the file"), std::string::npos);
}

TEST(TorchFile, RefusesWrongStorages) {
  const auto error = [](const PickledTensor& tensor) { return error_of([&] { parse({tensor}); }); };
  EXPECT_EQ(error({"t", "1", Dtype::F32, 24, 0, {1}, {1}}), "tensor 't': the archive has no 'run/data/1'");
  EXPECT_EQ(error({"t", "../0", Dtype::F32, 24, 0, {1}, {1}}), "tensor 't': the archive has no 'run/data/../0'");
  for (const int64_t size : {int64_t{23}, int64_t{25}, int64_t{-1}, INT64_MAX}) {
    EXPECT_EQ(error({"t", "0", Dtype::F32, size, 0, {1}, {1}}),
              fmt::format("tensor 't': 'run/data/0' must hold {} F32 elements, has 96 bytes", size));
  }
  EXPECT_NE(error({"t", "0", Dtype::F64, 24, 0, {1}, {1}}), "no error");
  EXPECT_EQ(error({"t", "0", Dtype::F64, 12, 0, {1}, {1}}), "no error");
}

TEST(TorchFile, RefusesOtherFiles) {
  const auto error = [](const std::string& file) {
    return error_of([&] {
      const auto bytes = exact(file);
      parse_torch_file(*bytes, bytes);
    });
  };
  const std::string empty = write_pickle({});
  EXPECT_EQ(error(archive(empty, {})), "no error");
  EXPECT_EQ(error(archive(empty, {{"byteorder", "little"}})), "no error");
  EXPECT_EQ(error(archive(empty, {{"byteorder", "big"}})), "the storages are not little-endian: 'big'");
  EXPECT_NE(error("\x80\2\x8a\x0al\xfc\x9c").find("before 1.6"), std::string::npos);
  EXPECT_EQ(error(std::string(100, 'x')), "no end record of a zip archive");
  EXPECT_EQ(error(""), "too short for a zip archive: 0 bytes");
  EXPECT_NE(error(archive("", {})), "no error");
  std::string damaged =
      archive(write_pickle(std::vector<PickledTensor>{{"t", "0", Dtype::F32, 1, 0, {1}, {1}}}), {{"data/0", "abcd"}});
  damaged[damaged.find("abcd")] = 'A';
  EXPECT_TRUE(error(damaged).starts_with("zip entry 'run/data/0' is damaged")) << error(damaged);
  const TemporaryFolder folder;
  write_file_atomically(folder / "x.pth", archive("\x80\2cos\nsystem\n.", {}));
  EXPECT_EQ(error_of([&] { read_torch_file(folder / "x.pth"); }),
            fmt::format("[torch file] {}: pickle offset 2: 'os.system' is not allowed in a state dict, which holds "
                        "tensors and nothing else",
                        (folder / "x.pth").string()));
}

TEST(TorchFile, RefusesASparseFileWithoutReadingIt) {
  // 64 GiB that take no room on the disk, in the 64-bit form: one storage that is nearly all of the file.
  constexpr uint64_t kHole = uint64_t{64} << 30;
  const std::string pickle = write_pickle(std::vector<PickledTensor>{{"t", "0", Dtype::F32, 4, 0, {4}, {1}}});
  std::string begin;
  ZipWriter zip([&](std::string_view bytes) { begin += bytes; }, /*zip64_from=*/0);
  zip.add("run/data.pkl", as_bytes(pickle));
  zip.add("run/data/0", as_bytes(floats(4)));
  const size_t data_end = begin.size();
  zip.finish();
  std::string end = begin.substr(data_end);
  begin.resize(data_end);
  const auto grow = [&](size_t at) {  // a number of the directory that counts the hole
    uint64_t value = 0;
    std::memcpy(&value, end.data() + at, sizeof value);
    value += kHole;
    std::memcpy(end.data() + at, &value, sizeof value);
  };
  const size_t record = end.find("PK\6\6"), locator = end.find("PK\6\7");
  for (const size_t at : {record - 24, record - 16, record + 48, locator + 8}) grow(at);  // sizes; places
  const TemporaryFolder folder;
  const fs::path path = folder / "x.pth";
  {
    std::ofstream file(path, std::ios::binary);
    file << begin;
    file.seekp(static_cast<std::streamoff>(data_end + kHole));
    file << end;
  }
  EXPECT_TRUE(error_of([&] { read_torch_file(path); }).ends_with("must hold 4 F32 elements, has 68719476752 bytes"))
      << error_of([&] { read_torch_file(path); });
}

TEST(TorchFile, WriterRefusesWhatReadersWould) {
  const std::vector<float> data = {1};
  const TemporaryFolder folder;
  const auto error = [&](std::vector<TensorView> tensors) {
    return error_of([&] { write_torch_file(folder / "x.pth", tensors); });
  };
  EXPECT_TRUE(error({view("a", Dtype::F32, {1}, data), view("a", Dtype::F32, {1}, data)}).ends_with("named 'a'"));
  EXPECT_TRUE(error({view("a", Dtype::F32, {2}, data)}).ends_with("needs 8 bytes, got 4"));
  EXPECT_TRUE(error({view("a", Dtype::U32, {1}, data)}).ends_with("PyTorch has no U32"));
  EXPECT_FALSE(fs::exists(folder / "x.pth"));
}

TEST(TorchFile, DamagedFilesAreRefusedOrRead) {
  const std::string pickle = write_pickle(std::vector<PickledTensor>{
      {"t", "0", Dtype::F32, 24, 0, {4, 6}, {1, 4}}, {"s", "0", Dtype::F32, 24, 9, {2, 1, 2}, {12, 7, 2}}});
  const auto read_all = [](const auto& bytes) {
    const TensorFile file = parse_torch_file(*bytes, bytes);
    for (const TensorView& tensor : file.tensors()) values<uint8_t>(tensor);  // every byte can be read
  };
  const int refused = testing::damage(archive(pickle, {{"data/0", floats(24)}}), 3000, read_all);
  EXPECT_GT(refused, 1000);
  EXPECT_LT(refused, 3000);
  // The checksum of the archive would hide the pickle's own checks: damage the pickle and seal it again.
  const int refused_pickles = testing::damage(pickle, 1000, [&](const auto& bytes) {
    read_all(exact(archive(std::string(as_text(*bytes)), {{"data/0", floats(24)}})));
  });
  EXPECT_GT(refused_pickles, 500);
  EXPECT_LT(refused_pickles, 1000);
}

}  // namespace
}  // namespace megalodon::io::torch_file_test
