#include "data/examples.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/testing.h"
#include "data/tokenizer.h"
#include "io/safetensors.h"

namespace megalodon::data {
namespace {

using Metadata = std::map<std::string, std::string>;

/// What a test damages: the tensors of a file and its metadata.
struct Parts {
  std::vector<int64_t> ends = {2, 3, 6};
  std::vector<int32_t> labels = {1, 0, 1};
  std::vector<uint8_t> values = {10, 20, 30, 40, 50, 60};
  std::vector<int64_t> shape = {6};
  io::Dtype type = io::Dtype::U8;
  Metadata metadata = {
      {"format", "megalodon.cpp examples"}, {"format_version", "1"}, {"input", "vectors"}, {"classes", "2"}};
};

class Examples : public FolderTest {
 protected:
  fs::path put_parts(const Parts& parts, const char* left_out = "") const {
    const fs::path path = folder_ / "set.safetensors";
    std::vector<io::TensorView> tensors = {
        {"ends", io::Dtype::I64, {static_cast<int64_t>(parts.ends.size())}, std::as_bytes(std::span(parts.ends))},
        {"labels", io::Dtype::I32, {static_cast<int64_t>(parts.labels.size())}, std::as_bytes(std::span(parts.labels))},
        {"values", parts.type, parts.shape, std::as_bytes(std::span(parts.values))}};
    std::erase_if(tensors, [&](const io::TensorView& tensor) { return tensor.name == left_out; });
    io::write_safetensors(path, tensors, parts.metadata);
    return path;
  }
  std::string refusal(const std::function<void(Parts&)>& damage, const char* left_out = "") const {
    Parts parts;
    damage(parts);
    put_parts(parts, left_out);
    const std::string message = error_of([&] { ExampleFile file(folder_ / "set"); });
    expect_contains(message, {"[examples] '", "set.safetensors'"});
    return message;
  }
};

TEST_F(Examples, PairsOfTokens) {
  ExampleWriter writer(folder_ / "set", ByteTokenizer());
  const std::vector<std::vector<int32_t>> sequences = {{7, 200}, {1}, {2, 3, 4}, {5, 6}};
  for (size_t i = 0; i < 4; ++i) {
    writer.add_tokens(sequences[i]);
    if (i % 2 == 1) writer.end_example(i == 1 ? 2 : 0);
  }
  EXPECT_FALSE(fs::exists(folder_ / "set.safetensors"));
  writer.finish({3, {"a", "b", "c"}});
  EXPECT_EQ(names(), std::set<std::string>{"set.safetensors"});
  for (const char* name : {"set", "set.safetensors"}) {
    const ExampleFile file(folder_ / name);
    EXPECT_EQ(file.size(), 2);
    EXPECT_EQ(file.sequences(), 2);
    EXPECT_TRUE(file.holds_tokens());
    EXPECT_EQ(file.width(), 1);
    EXPECT_EQ(file.classes(), 3);
    EXPECT_EQ(file.class_names(), (std::vector<std::string>{"a", "b", "c"}));
    EXPECT_EQ(file.label(0), 2);
    EXPECT_EQ(file.label(1), 0);
    EXPECT_EQ(file.length(1, 0), 3);
    EXPECT_EQ(file.steps(), 8);
    EXPECT_EQ(file.longest(), 3);
    EXPECT_EQ(tokens_of(file, 0, 0), (std::vector<int64_t>{7, 200}));
    EXPECT_EQ(tokens_of(file, 1, 1), (std::vector<int64_t>{5, 6}));
    EXPECT_EQ(file.tokenizer(), ByteTokenizer().describe());
    EXPECT_EQ(file.largest_token(), 200);
    std::vector<int64_t> first(1);
    file.read_tokens(1, 0, first);
    EXPECT_EQ(first[0], 2);
    std::vector<int64_t> beyond(4);
    expect_contains(error_of([&] { file.read_tokens(1, 0, beyond); }), {"has 3 steps, cannot read 4"});
    expect_contains(error_of([&] { file.read_tokens(2, 0, first); }), {"example in [0, 2)", "got 2 and 0"});
    std::vector<float> numbers(1);
    expect_contains(error_of([&] { file.read_vectors(0, 0, numbers); }), {"holds tokens"});
  }
}

TEST_F(Examples, VectorsOfEveryType) {
  const auto write = [&]<class T>(io::Dtype type, int64_t width, const std::vector<T>& numbers) {
    ExampleWriter writer(folder_ / "set", type, width);
    writer.add_vectors(std::span(numbers));
    writer.end_example(0);
    writer.finish({1});
    const ExampleFile file(folder_ / "set");
    EXPECT_FALSE(file.holds_tokens());
    EXPECT_EQ(file.width(), width);
    EXPECT_EQ(file.length(0, 0), static_cast<int64_t>(numbers.size()) / width);
    EXPECT_TRUE(file.tokenizer().is_null());
    EXPECT_TRUE(file.class_names().empty());
    return vectors_of(file, 0);
  };
  EXPECT_EQ(write(io::Dtype::U8, 1, std::vector<uint8_t>{0, 51, 255}), (std::vector<float>{0, 0.2F, 1}));
  EXPECT_EQ(write(io::Dtype::I16, 2, std::vector<int16_t>{-32768, 16384}), (std::vector<float>{-1, 0.5F}));
  EXPECT_EQ(write(io::Dtype::F32, 3, std::vector<float>{1e9F, -2, 0.25F}), (std::vector<float>{1e9F, -2, 0.25F}));
  expect_contains(error_of([&] { ExampleWriter(folder_ / "set", io::Dtype::I32, 1); }), {"U8, I16 or F32", "I32"});
}

TEST_F(Examples, RefusesWhatIsNotFinite) {
  ExampleWriter writer(folder_ / "set", io::Dtype::F32, 2);
  writer.add_vectors(std::span<const float>(std::vector<float>{0, 1, 2, std::numeric_limits<float>::infinity()}));
  writer.end_example(0);
  writer.finish({1});
  const ExampleFile file(folder_ / "set");
  std::vector<float> one(2), two(4), half(3);
  file.read_vectors(0, 0, one);
  expect_contains(error_of([&] { file.read_vectors(0, 0, two); }), {"vector 1", "finite", "inf"});
  expect_contains(error_of([&] { file.read_vectors(0, 0, half); }), {"whole vectors of 2"});
}

TEST_F(Examples, WriterRefusesWhatNoReaderWouldTake) {
  ExampleWriter writer(folder_ / "set", ByteTokenizer());
  const std::vector<int32_t> token = {1}, beyond = {256};
  expect_contains(error_of([&] { writer.finish({1}); }), {"no example"});
  expect_contains(error_of([&] { writer.end_example(0); }), {"0 sequences", "1 or 2"});
  expect_contains(error_of([&] { writer.add_tokens({}); }), {"one at least"});
  expect_contains(error_of([&] { writer.add_tokens(beyond); }), {"[0, 256)", "256"});
  writer.add_tokens(token);
  expect_contains(error_of([&] { writer.end_example(-1); }), {"label", "-1"});
  writer.end_example(1);
  expect_contains(error_of([&] { writer.end_example(0); }), {"example 1 has 0 sequences, expected 1"});
  expect_contains(error_of([&] { writer.finish({1}); }), {"labels must be in [0, 1), got 1"});
  expect_contains(error_of([&] { writer.finish({2, {"a"}}); }), {"2 classes", "got 1"});
  expect_contains(error_of([&] { writer.finish({2, {"a", "a"}}); }), {"same name"});
  expect_contains(error_of([&] { writer.finish({2, {"a", "\xFF"}}); }), {"valid UTF-8"});
  writer.add_tokens(token);
  expect_contains(error_of([&] { writer.finish({2}); }), {"lacks its end"});
  EXPECT_FALSE(fs::exists(folder_ / "set.safetensors"));
}

TEST_F(Examples, PartsAppearTogetherAndReplaceThoseOfAnOlderSet) {
  const auto write = [&](const std::vector<std::string>& parts, int64_t label) {
    std::vector<std::unique_ptr<ExampleWriter>> writers;
    std::vector<ExampleWriter*> all;
    for (const std::string& part : parts) {
      writers.push_back(std::make_unique<ExampleWriter>(folder_ / part, io::Dtype::U8, 1));
      all.push_back(writers.back().get());
      all.back()->add_stored("x");
      all.back()->end_example(0);
      const int64_t places[] = {label};
      all.back()->relabel(places);
    }
    ExampleWriter::finish_together(all, {3}, folder_);
  };
  write({"train", "valid", "test"}, 0);
  EXPECT_EQ(names(), (std::set<std::string>{"train.safetensors", "valid.safetensors", "test.safetensors"}));
  expect_contains(error_of([&] { write({"train", "test"}, 3); }), {"[0, 3), got 3"});
  EXPECT_EQ(names().size(), 3U);
  write({"train", "test"}, 2);
  EXPECT_EQ(names(), (std::set<std::string>{"train.safetensors", "test.safetensors"}));
  EXPECT_EQ(ExampleFile(folder_ / "test").label(0), 2);
  put("valid.safetensors", "of another kind");
  write({"train"}, 1);
  EXPECT_EQ(names(), (std::set<std::string>{"train.safetensors", "valid.safetensors"}));
}

TEST_F(Examples, LongSetsPassThroughATemporaryFile) {
  const size_t size = (size_t{64} << 20) + 5;
  std::string one(size, 'a'), other = "bcd";
  ExampleWriter writer(folder_ / "set", io::Dtype::U8, 1);
  for (const std::string* sequence : {&one, &other}) {
    writer.add_stored(*sequence);
    writer.end_example(0);
  }
  writer.finish({1});
  EXPECT_EQ(names(), std::set<std::string>{"set.safetensors"});
  const ExampleFile file(folder_ / "set");
  EXPECT_EQ(file.longest(), static_cast<int64_t>(size));
  std::vector<float> first(size), second(3);
  file.read_vectors(0, 0, first);
  file.read_vectors(1, 0, second);
  EXPECT_TRUE(std::all_of(first.begin(), first.end(), [](float value) { return value == 97 / 255.0F; }));
  EXPECT_EQ(second[2], 100 / 255.0F);
}

TEST_F(Examples, RefusesDamagedFiles) {
  put_parts({});
  EXPECT_EQ(vectors_of(ExampleFile(folder_ / "set"), 1), std::vector<float>{30 / 255.0F});
  expect_contains(refusal([](Parts& p) { p.metadata["format"] = "pt"; }), {"examples", "\"pt\""});
  expect_contains(refusal([](Parts& p) { p.metadata["format_version"] = "2"; }), {"format_version 1, got 2"});
  expect_contains(refusal([](Parts& p) { p.metadata["input"] = "sound"; }), {"tokens or vectors", "sound"});
  expect_contains(refusal([](Parts& p) { p.metadata.erase("classes"); }), {"lack \"classes\""});
  for (const char* classes : {"-1", "2147483648", "1.5", "{}", "null"})
    expect_contains(refusal([&](Parts& p) { p.metadata["classes"] = classes; }), {"classes", classes});
  for (const char* classes : {"0", "[]"})
    expect_contains(refusal([&](Parts& p) { p.metadata["classes"] = classes; }), {"a class at least"});
  expect_contains(refusal([](Parts& p) { p.metadata["classes"] = R"(["a", 1])"; }), {"texts", "1"});
  expect_contains(refusal([](Parts& p) { p.metadata["classes"] = R"(["a", "a"])"; }), {"same name"});
  expect_contains(refusal([](Parts& p) { p.metadata["classes"] = "["; }), {"classes"});
  for (const char* name : {"ends", "labels", "values"})
    expect_contains(refusal([](Parts&) {}, name), {"no tensor", name});
  expect_contains(refusal([](Parts& p) { p.type = io::Dtype::I8; }), {"U8, I16 or F32", "I8"});
  expect_contains(refusal([](Parts& p) { p.shape = {6, 1, 1}; }), {"[T, I]", "[6, 1, 1]"});
  expect_contains(refusal([](Parts& p) { p.shape = {2, 3}; }), {"rise up to 2", "got 3 after 2 at 1"});
  expect_contains(refusal([](Parts& p) { p.ends = {2, 2, 6}; }), {"rise", "got 2 after 2 at 1"});
  expect_contains(refusal([](Parts& p) { p.ends = {-1, 3, 6}; }), {"rise", "got -1 after 0 at 0"});
  expect_contains(refusal([](Parts& p) { p.ends = {2, 3, 5}; }), {"at 6, got 5"});
  expect_contains(refusal([](Parts& p) { p.ends = {}; }), {"at 6, got 0"});
  expect_contains(refusal([](Parts& p) { p.labels = {1, 0}; }), {"2 labels of 3 sequences"});
  expect_contains(refusal([](Parts& p) { p.labels = {}; }), {"0 labels of 3 sequences"});
  expect_contains(refusal([](Parts& p) { p.labels[2] = 2; }), {"label 2", "[0, 2), got 2"});
  expect_contains(refusal([](Parts& p) { p.labels[0] = -1; }), {"label 0", "got -1"});
  put("set.safetensors", "nonsense");
  expect_contains(error_of([&] { ExampleFile file(folder_ / "set"); }), {"set.safetensors"});
  EXPECT_FALSE(is_example_file(folder_ / "set"));
  EXPECT_FALSE(is_example_file(folder_ / "nothing"));
}

TEST_F(Examples, RefusesDamagedTokens) {
  const auto tokens = [](Parts& p) {
    p.metadata.insert({"tokenizer", R"({"type": "bytes"})"});
    p.metadata.insert({"largest_token", "40"});
    p.metadata["input"] = "tokens";
  };
  Parts parts;
  tokens(parts);
  put_parts(parts);
  EXPECT_TRUE(is_example_file(folder_ / "set"));
  const ExampleFile file(folder_ / "set");
  EXPECT_EQ(tokens_of(file, 1), std::vector<int64_t>{30});
  expect_contains(error_of([&] { tokens_of(file, 2); }), {"token 4", "[0, 40]", "got 50"});
  const auto refused = [&](const std::function<void(Parts&)>& damage) {
    return refusal([&](Parts& p) { damage(p), tokens(p); });
  };
  expect_contains(refused([](Parts& p) { p.type = io::Dtype::I8; }), {"U8, U16 or I32", "I8"});
  expect_contains(refused([](Parts& p) { p.shape = {3, 2}; }), {"[T], got [3, 2]"});
  expect_contains(refused([](Parts& p) { p.metadata["tokenizer"] = "[]"; }), {"tokenizer must be an object"});
  for (const char* largest : {"", "-1", "1e3", "2147483648", "99999999999999999999"})
    expect_contains(refused([&](Parts& p) { p.metadata["largest_token"] = largest; }), {"largest_token", largest});
}

TEST_F(Examples, FingerprintTellsWhatMatters) {
  std::set<std::string> seen;
  const auto add = [&](const std::function<void(Parts&)>& change) {
    Parts parts;
    change(parts);
    put_parts(parts);
    return seen.insert(ExampleFile(folder_ / "set").fingerprint()).second;
  };
  EXPECT_TRUE(add([](Parts&) {}));
  EXPECT_FALSE(add([](Parts&) {}));
  EXPECT_TRUE(add([](Parts& p) { p.values[5] = 61; }));
  EXPECT_TRUE(add([](Parts& p) { p.ends[0] = 1; }));
  EXPECT_TRUE(add([](Parts& p) { p.labels[0] = 0; }));
  EXPECT_TRUE(add([](Parts& p) { p.metadata["classes"] = "3"; }));
  EXPECT_TRUE(add([](Parts& p) { p.metadata["classes"] = R"(["a", "b"])"; }));
  EXPECT_FALSE(add([](Parts& p) { p.metadata["note"] = "more"; }));
}

}  // namespace
}  // namespace megalodon::data
