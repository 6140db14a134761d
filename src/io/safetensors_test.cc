#include "io/safetensors.h"

#include <fmt/format.h>

#include "io/testing.h"
#include "io/zip.h"

namespace megalodon::io::safetensors_test {
namespace {

using testing::exact;
using testing::expect_equal;
using testing::view;

std::string file_of(const std::string& header, size_t data_bytes) {
  std::string file;
  append(file, static_cast<uint64_t>(header.size()));
  return file + header + std::string(data_bytes, '\1');
}

TensorFile parse(const std::string& file) {
  const auto bytes = exact(file);
  return parse_safetensors(*bytes, bytes);
}

std::string error_of(const std::string& header, size_t data_bytes) {
  return testing::error_of([&] { parse(file_of(header, data_bytes)); });
}

TEST(Safetensors, MatchesTheTestVector) {
  const std::vector<float> data = {1.5F};
  const TensorView tensor = view("w", Dtype::F32, {1}, data);
  const TensorView* tensors[] = {&tensor};
  const std::string expected =
      std::string("\x38\0\0\0\0\0\0\0", 8) + R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  )";
  const std::string header = safetensors_header(tensors, {});
  EXPECT_EQ(header, expected);
  const std::string file = header + std::string("\0\0\xc0\x3f", 4);
  EXPECT_EQ(file.size(), 68u);
  const TensorFile parsed = parse(file);
  ASSERT_EQ(parsed.tensors().size(), 1u);
  expect_equal(parsed.tensors()[0], tensor);
  EXPECT_TRUE(parsed.metadata().empty());
}

TEST(Safetensors, RoundTripsThroughAFile) {
  const std::vector<float> f32 = {1, 2, 3, 4, 5, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<uint16_t> bf16 = {0x3f80};
  const std::vector<int64_t> i64 = {-7};
  const std::vector<uint8_t> bools = {1, 0, 1};
  const std::vector<double> none;
  const std::vector<TensorView> tensors = {view("bool", Dtype::Bool, {3}, bools),
                                           view("b \"quoted\" é", Dtype::F32, {2, 3}, f32),
                                           view("half", Dtype::BF16, {1, 1, 1}, bf16),
                                           view("scalar", Dtype::I64, {}, i64),
                                           view("a", Dtype::F32, {6}, f32),
                                           view("empty", Dtype::F64, {0, 4}, none)};
  const TemporaryFolder folder;
  write_safetensors(folder / "x.safetensors", tensors, {{"note", "tab\t"}});
  const TensorFile file = read_safetensors(folder / "x.safetensors");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"note", "tab\t"}, {"format", "pt"}}));
  std::vector<std::string> order;
  for (const TensorView& tensor : file.tensors()) {
    order.push_back(tensor.name);
    // The mapping starts at a page, so the place in memory tells the place in the file.
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % dtype_size(tensor.dtype), 0u) << tensor.name;
  }
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.tensors()[0].bytes.data()) % 64, 0u) << "where the data begins";
  EXPECT_EQ(order, (std::vector<std::string>{"empty", "scalar", "a", "b \"quoted\" é", "half", "bool"}));
  for (const TensorView& tensor : tensors) {
    ASSERT_NE(file.find(tensor.name), nullptr) << tensor.name;
    expect_equal(*file.find(tensor.name), tensor);
  }
}

TEST(Safetensors, AnEmptyFileOfTensors) {
  const TemporaryFolder folder;
  write_safetensors(folder / "x.safetensors", {});
  EXPECT_TRUE(read_safetensors(folder / "x.safetensors").tensors().empty());
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors().empty());
}

TEST(Safetensors, TensorsMayLieAnywhere) {
  const TensorFile file = parse(file_of(R"({"b":{"shape":[1],"data_offsets":[1,5],"dtype":"F32"},)"
                                        R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                        R"("none":{"dtype":"F32","shape":[0],"data_offsets":[1,1]}}   )",
                                        5));
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(testing::values<uint32_t>(*file.find("b")), std::vector<uint32_t>{0x01010101});
}

TEST(Safetensors, WriterRefusesWhatReadersWould) {
  const TemporaryFolder folder;
  const std::vector<float> data = {1};
  const auto error = [&](std::vector<TensorView> tensors, std::map<std::string, std::string> metadata = {}) {
    return testing::error_of([&] { write_safetensors(folder / "x.safetensors", tensors, metadata); });
  };
  EXPECT_TRUE(error({view("a", Dtype::F32, {1}, data), view("a", Dtype::F32, {1}, data)}).ends_with("named 'a'"));
  EXPECT_TRUE(error({view("a", Dtype::F32, {2}, data)}).ends_with("needs 8 bytes, got 4"));
  EXPECT_NE(error({view("__metadata__", Dtype::F32, {1}, data)}), "no error");
  EXPECT_NE(error({}, {{"k", "\xff"}}), "no error");
  EXPECT_FALSE(fs::exists(folder / "x.safetensors"));
}

TEST(Safetensors, RefusesBadFraming) {
  const auto error = [](const std::string& file) { return testing::error_of([&] { parse(file); }); };
  EXPECT_NE(error(""), "no error");
  EXPECT_NE(error("1234567"), "no error");
  EXPECT_NE(error(file_of("", 8)), "no error");
  std::string file = file_of("{}", 0);
  file[0] = 3;  // 8 + n > file size
  EXPECT_NE(error(file), "no error");
  std::string large;
  append(large, uint64_t{100'000'001});
  EXPECT_EQ(error(large.append(100'000'001, ' ')),
            "the header's length 100000001 is above the limit of 100000000: not a safetensors file?");
  for (const uint64_t length : {uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    std::string huge;
    append(huge, length);
    EXPECT_NE(error(huge + "{}"), "no error");
  }
}

TEST(Safetensors, RefusesBadJson) {
  for (const std::string header : {" {}", "[]", "{", "{}{}", "{} x", "null", "{\"\xff\":1}", "\xef\xbb\xbf{}",
                                   "{\"a\":}", "{\"\\ud800\":{}}", "{\"a\":NaN}", "{\"a\":1e400}"}) {
    EXPECT_NE(error_of(header, 0), "no error") << header;
  }
  using namespace std::string_literals;
  EXPECT_EQ(error_of("{\"a\0b\":{}}"s, 0), "the header has a zero byte at 3");
  EXPECT_EQ(error_of("{}\0 and more"s, 0), "the header has a zero byte at 2");
  EXPECT_NE(error_of("{\"a\":" + std::string(100000, '['), 0), "no error");
  EXPECT_NE(error_of("{\"a\":" + std::string(100000, '{'), 0), "no error");
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  EXPECT_NE(error_of(deep, 0), "no error");
}

struct Refusal {
  std::string header;
  size_t data_bytes;
  std::string error;  // its begin
};

TEST(Safetensors, RefusesEveryOtherRuleBroken) {
  const auto f32 = [](std::string_view shape, std::string_view offsets) {
    return fmt::format(R"({{"dtype":"F32","shape":[{}],"data_offsets":[{}]}})", shape, offsets);
  };
  const std::string one = f32("1", "0,4"), two = f32("1", "4,8");
  const std::vector<Refusal> refusals = {
      {R"({"a":)" + one + R"(,"a":)" + two + "}", 8, "two tensors are named 'a'"},
      {R"({"a":)" + one + R"(,"\u0061":)" + two + "}", 8, "two tensors are named 'a'"},
      {R"({"a":)" + f32("1", "1,5") + "}", 5, "tensor 'a' begins at 1 of the data where the one before ends at 0"},
      {R"({"a":)" + one + R"(,"b":)" + f32("1", "5,9") + "}", 9, "tensor 'b' begins at 5"},
      {R"({"a":)" + one + R"(,"b":)" + f32("1", "3,7") + "}", 7, "tensor 'b' begins at 3"},
      {R"({"a":)" + one + R"(,"b":)" + one + "}", 4, "tensor 'b' begins at 0"},
      {R"({"a":)" + one + "}", 5, "the tensors end at 4 of 5 bytes"},
      {"{}", 1, "the tensors end at 0 of 1 bytes"},
      {R"({"a":)" + one + "}", 3, "tensor 'a': data_offsets [0, 4] must"},
      {R"({"a":)" + f32("1", "4,0") + "}", 4, "tensor 'a': data_offsets [4, 0] must"},
      {R"({"a":)" + f32("2", "0,4") + "}", 4, "tensor 'a': F32 [2] needs 8 bytes, got 4"},
      {R"({"a":)" + f32("", "0,8") + "}", 8, "tensor 'a': F32 [] needs 4 bytes, got 8"},
      {R"({"a":)" + f32("4294967296,4294967296", "0,0") + "}", 0,
       "tensor 'a': F32 [4294967296, 4294967296] needs more"},
      {R"({"a":)" + f32("4611686018427387904", "0,0") + "}", 0, "tensor 'a': F32 [4611686018427387904] needs more"},
      {R"({"a":)" + f32("9223372036854775808", "0,0") + "}", 0, "tensor 'a': size 9223372036854775808 is too large"},
      {R"({"a":)" + f32("18446744073709551616", "0,0") + "}", 0, "tensor 'a': unexpected"},
      {R"({"a":)" + f32("1", "0,9223372036854775808") + "}", 4, "tensor 'a': data_offsets"},
      {R"({"a":)" + f32("1", "18446744073709551612,18446744073709551615") + "}", 4, "tensor 'a': data_offsets"},
      {R"({"a":)" + f32("-1", "0,4") + "}", 4, "tensor 'a': unexpected"},
      {R"({"a":)" + f32("1.0", "0,4") + "}", 4, "tensor 'a': unexpected"},
      {R"({"a":)" + f32("\"1\"", "0,4") + "}", 4, "tensor 'a': unexpected"},
      {R"({"a":)" + f32("[1]", "0,4") + "}", 4, "tensor 'a': unexpected"},
      {R"({"a":)" + f32("1", "0") + "}", 4, "tensor 'a': expected 2 data_offsets, got 1"},
      {R"({"a":)" + f32("1", "") + "}", 4, "tensor 'a': expected 2 data_offsets, got 0"},
      {R"({"a":)" + f32("1", "0,4,8") + "}", 4, "tensor 'a': unexpected"},
      {R"({"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}})", 1, "tensor 'a': unknown dtype 'F8_E5M2'"},
      {R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a': unexpected"},
      {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a': needs dtype"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor 'a': needs dtype"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor 'a': needs dtype"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
       "tensor 'a': unexpected or repeated"},
      {R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4,
       "tensor 'a': unexpected or repeated"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})", 4,
       "tensor 'a': unexpected or"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":null}})", 4, "tensor 'a': unexpected"},
      {R"({"a":{}})", 0, "tensor 'a': needs dtype"},
      {R"({"a":1})", 0, "tensor 'a': unexpected"},
      {R"({"a":null})", 0, "tensor 'a': unexpected"},
      {R"({"a":true})", 0, "tensor 'a': unexpected"},
      {R"({"a":[]})", 0, "tensor 'a': unexpected"},
      {R"({"a\u0000b":)" + one + "}", 4, "tensor name 'a\\x00b' must be"},
      {R"({"__metadata__":{"k":1}})", 0, "metadata: unexpected"},
      {R"({"__metadata__":{"k":{}}})", 0, "metadata: unexpected"},
      {R"({"__metadata__":{"k":["v"]}})", 0, "metadata: unexpected"},
      {R"({"__metadata__":"x"})", 0, "metadata: unexpected"},
      {R"({"__metadata__":{"k":"v","k":"w"}})", 0, "metadata key 'k' appears twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "metadata: unexpected or repeated"},
  };
  for (const Refusal& refusal : refusals) {
    const std::string error = error_of(refusal.header, refusal.data_bytes);
    EXPECT_TRUE(error.starts_with(refusal.error)) << refusal.header << "\n  " << error;
  }
}

// Each would take several times the file's size, or quadratic time, in a reader without bounds.
std::vector<std::string> hostile_headers() {
  constexpr size_t kSize = size_t{24} << 20;
  const auto repeated = [](std::string begin, std::string_view part) {
    while (begin.size() < kSize) begin += part;
    return begin;
  };
  std::string names = "{", keys = R"({"__metadata__":{)";
  for (int i = 0; names.size() < kSize; ++i) {
    names += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", i ? "," : "", i);
  }
  for (int i = 0; keys.size() < kSize; ++i) keys += fmt::format(R"({}"{}":"")", i ? "," : "", i);
  return {names + "}",
          keys + "}}",
          repeated(R"({"a":{"dtype":"U8","shape":[0)", ",0"),
          repeated(R"({"a":{"dtype":"U8","data_offsets":[0)", ",0"),
          repeated("{\"", "a"),
          repeated(R"({"__metadata__":{"k":")", "\\u00e9"),
          repeated("{", R"("a":{"x":)"),
          repeated("{\"a\":", "["),
          repeated("{\"a\":", "1")};
}

TEST(Safetensors, HostileHeadersAreRefusedInBoundedMemory) {
  for (const std::string& header : hostile_headers()) {
    const std::string file = file_of(header, 0);
    const std::string_view what = std::string_view(header).substr(0, 40);
    EXPECT_NE(testing::error_of([&] { parse_safetensors(as_bytes(file), nullptr); }), "no error") << what;
    if (!kMeasuresMemory) continue;
    // The file itself counts once already.
    const size_t growth =
        testing::peak_growth([&] { testing::error_of([&] { parse_safetensors(as_bytes(file), nullptr); }); });
    EXPECT_LE(growth, file.size() + (size_t{64} << 20)) << what;
  }
}

TEST(Safetensors, AFileOfAnotherFormatBesidesIsRefused) {
  std::string zip;
  ZipWriter writer([&](std::string_view bytes) { zip += bytes; });
  writer.add("x/data.pkl", as_bytes("\x80\2}."));
  writer.finish();
  const std::string one = file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
  EXPECT_EQ(testing::error_of([&] { parse(one); }), "no error");
  EXPECT_TRUE(testing::error_of([&] { parse(one + zip); }).starts_with("the tensors end at 1 of "));
  EXPECT_NE(testing::error_of([&] { parse(zip + one); }), "no error");
  EXPECT_NE(error_of("{}" + zip, 0), "no error");
}

TEST(Safetensors, ManyOverlappingEntriesAreRefused) {
  std::string header = "{";
  for (int i = 0; i < 20000; ++i) {
    header += fmt::format(R"({}"{}":{{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}})", i ? "," : "", i);
  }
  EXPECT_TRUE(error_of(header + "}", 4000).starts_with("tensor '1' begins at 0 of the data where the one before ends"));
}

TEST(Safetensors, ErrorsNameTheFile) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "bad.safetensors", file_of("{}", 1));
  EXPECT_EQ(
      testing::error_of([&] { read_safetensors(folder / "bad.safetensors"); }),
      fmt::format("[safetensors] {}: the tensors end at 0 of 1 bytes of data", (folder / "bad.safetensors").string()));
  EXPECT_NE(testing::error_of([&] { read_safetensors(folder / "missing.safetensors"); }), "no error");
}

TEST(Safetensors, DamagedFilesAreRefusedOrRead) {
  const std::vector<float> f32 = {1, 2, 3, 4};
  const std::vector<uint8_t> bools = {1, 0};
  const TemporaryFolder folder;
  write_safetensors(
      folder / "x.safetensors",
      std::vector<TensorView>{view("layers.0.weight", Dtype::F32, {2, 2}, f32),
                              view("layers.0.bias", Dtype::F32, {4}, f32), view("mask", Dtype::Bool, {2}, bools)},
      {{"note", "text"}});
  const std::string file = read_file(folder / "x.safetensors");
  const int refused = testing::damage(file, 5000, [](const auto& bytes) {
    const TensorFile parsed = parse_safetensors(*bytes, bytes);
    for (const TensorView& tensor : parsed.tensors()) testing::values<uint8_t>(tensor);  // every byte can be read
  });
  EXPECT_GT(refused, 2500);  // most of the file is header
  EXPECT_LT(refused, 5000);  // but values may be anything
}

}  // namespace
}  // namespace megalodon::io::safetensors_test
