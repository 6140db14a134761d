#include "io/tensor_file.h"

#include "io/testing.h"

namespace megalodon::io {
namespace {

using testing::error_of;
using testing::view;

TEST(TensorFile, DtypesHaveNamesAndSizes) {
  for (int i = 0; i <= static_cast<int>(Dtype::C64); ++i) {
    const auto dtype = static_cast<Dtype>(i);
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(parse_dtype("F8_E5M2"), std::nullopt);
  EXPECT_EQ(parse_dtype(""), std::nullopt);
  EXPECT_STREQ(dtype_name(Dtype::BF16), "BF16");
  EXPECT_EQ(dtype_size(Dtype::Bool), 1u);
  EXPECT_EQ(dtype_size(Dtype::BF16), 2u);
  EXPECT_EQ(dtype_size(Dtype::F32), 4u);
  EXPECT_EQ(dtype_size(Dtype::C64), 8u);
}

TEST(TensorFile, ByteSizeRefusesWhatOverflows) {
  constexpr int64_t kBig = int64_t{1} << 40;
  const auto size = [](std::vector<int64_t> shape) { return byte_size(shape, Dtype::F32); };
  EXPECT_EQ(size({}), 4u);
  EXPECT_EQ(size({2, 3}), 24u);
  EXPECT_EQ(size({2, 0, 3}), 0u);
  EXPECT_EQ(size({-1}), std::nullopt);
  EXPECT_EQ(size({kBig, kBig}), std::nullopt);
  EXPECT_EQ(size({kBig, kBig, 0}), std::nullopt);
  EXPECT_EQ(size({0, kBig, kBig}), std::nullopt);
  EXPECT_EQ(size({INT64_MAX}), std::nullopt);
}

TEST(TensorFile, ShapeText) {
  EXPECT_EQ(shape_text(std::vector<int64_t>{2, 3}), "[2, 3]");
  EXPECT_EQ(shape_text({}), "[]");
}

TEST(TensorFile, FindsByName) {
  const std::vector<float> data = {1, 2};
  const TensorFile file({view("b", Dtype::F32, {2}, data), view("a", Dtype::F32, {1, 2}, data)}, {{"k", "v"}}, {});
  ASSERT_NE(file.find("a"), nullptr);
  EXPECT_EQ(file.find("a")->shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(file.find("b"), &file.tensors()[0]);
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
  EXPECT_EQ(file.metadata().at("k"), "v");
}

TEST(TensorFile, RefusesInvalidTensors) {
  const std::vector<float> data = {1, 2};
  const std::vector<uint8_t> bools = {0, 1, 2};
  const auto error = [](std::vector<TensorView> tensors) {
    return error_of([&] { TensorFile(std::move(tensors), {}, {}); });
  };
  EXPECT_EQ(error({view("a", Dtype::F32, {2}, data), view("a", Dtype::F32, {2}, data)}), "two tensors are named 'a'");
  EXPECT_EQ(error({view("a", Dtype::F32, {3}, data)}), "tensor 'a': F32 [3] needs 12 bytes, got 8");
  EXPECT_EQ(error({view("a", Dtype::F32, {INT64_MAX}, data)}),
            "tensor 'a': F32 [9223372036854775807] needs more than 2^63 bytes, got 8");
  EXPECT_EQ(error({view("a", Dtype::Bool, {3}, bools)}), "tensor 'a' is BOOL but has bytes other than 0 and 1");
  EXPECT_EQ(error({view("a\n", Dtype::F32, {2}, data)}),
            "tensor name 'a\\n' must be valid UTF-8 without control characters");
  EXPECT_NE(error({view("\xff", Dtype::F32, {2}, data)}), "no error");
  EXPECT_NE(error({view(std::string("a\0", 2), Dtype::F32, {2}, data)}), "no error");
}

}  // namespace
}  // namespace megalodon::io
