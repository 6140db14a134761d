#include "infer/batch_states.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace megalodon::batch_states_test {
namespace {

std::vector<State> example(int64_t rows) {
  return {{torch::randint(100, {rows}, torch::kInt64), torch::randn({rows, 3}, torch::kFloat64), Tensor()},
          {},
          {torch::randn({rows, 5, 3}, torch::kComplexFloat), torch::randn({rows, 7}), torch::empty({rows, 0, 2})}};
}

void expect_equal(const std::vector<State>& got, const std::vector<State>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t slot = 0; slot < got.size(); ++slot) {
    ASSERT_EQ(got[slot].size(), expected[slot].size());
    for (size_t i = 0; i < got[slot].size(); ++i) {
      const Tensor &t = got[slot][i], &e = expected[slot][i];
      ASSERT_EQ(t.defined(), e.defined());
      if (!t.defined()) continue;
      EXPECT_EQ(t.scalar_type(), e.scalar_type());
      EXPECT_TRUE(torch::equal(t, e)) << slot << "." << i;
    }
  }
}

TEST(BatchStates, GoIntoOnePieceAndComeBack) {
  for (const int64_t rows : {1, 3, 64}) {
    const std::vector<State> slots = example(rows);
    const BatchStates batch(slots, rows);
    const Tensor piece = torch::full({batch.layout()->words()}, -1, torch::kInt32);
    batch.copy_to(piece);
    const BatchStates again(batch.layout(), piece, rows);
    expect_equal(again.slots(), slots);
    const Tensor other = torch::empty_like(piece);
    again.copy_to(other);
    EXPECT_TRUE(torch::equal(other, piece));
    for (const State& state : again.slots())
      for (const Tensor& t : state)
        if (t.defined() && t.numel() > 0) {
          EXPECT_EQ((static_cast<char*>(t.data_ptr()) - static_cast<char*>(piece.data_ptr())) % 256, 0);
        }
  }
}

TEST(BatchStates, LayoutsAreEqualWhereShapesAndTypesAre) {
  EXPECT_EQ(StateLayout(example(2)), StateLayout(example(2)));
  EXPECT_NE(StateLayout(example(2)), StateLayout(example(3)));
  std::vector<State> other = example(2);
  other[0][1] = other[0][1].to(torch::kFloat32);
  EXPECT_NE(StateLayout(other), StateLayout(example(2)));
  other = example(2);
  other[0][2] = torch::zeros({2});
  EXPECT_NE(StateLayout(other), StateLayout(example(2)));
}

TEST(BatchStates, NarrowTypesAreRefused) {
  EXPECT_THROW(StateLayout({{torch::zeros({2}, torch::kBFloat16)}}), Error);
}

}  // namespace
}  // namespace megalodon::batch_states_test
