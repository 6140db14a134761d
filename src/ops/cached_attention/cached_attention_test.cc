#include "ops/cached_attention/cached_attention.h"

#include "base/check.h"
#include "ops/attention/attention.h"
#include "ops/testing.h"

namespace megalodon::ops::cached_attention_test {
namespace {

using megalodon::testing::close;

struct Shape {
  int64_t H, G, K, V, C;
};

// A head of keys for each of queries, for three, and for more than the kernel takes at a time.
const std::vector<Shape> kShapes = {{1, 1, 8, 12, 16},    {3, 3, 6, 10, 64}, {2, 2, 64, 200, 300},
                                    {1, 1, 130, 70, 520}, {6, 2, 8, 12, 40}, {20, 2, 6, 10, 300}};

KeyValueCache make_cache(const Shape& s, torch::ScalarType type) {
  // What lies beyond the steps that were written must not matter.
  const auto poisoned = [&](int64_t width) { return torch::full({s.C, s.G, width}, NAN, type); };
  return {poisoned(s.K), poisoned(s.V)};
}

/// Two chunks and a half of one stream.
struct Stream {
  explicit Stream(const Shape& s)
      : chunk(s.C),
        length(5 * s.C / 2),
        q(torch::randn({1, length, s.H, s.K}) / std::sqrt(static_cast<double>(s.K))),
        k(torch::randn({1, length, s.G, s.K})),
        v(torch::randn({1, length, s.G, s.V})) {}
  /// As it would be in float64 with keys and values rounded to `type`.
  Tensor expected(torch::ScalarType type, const Tensor& slope_H = {}) const {
    const auto wide = [&](const Tensor& t) { return t.to(type).to(torch::kFloat64); };
    AttentionOptions options;
    options.chunk_size = chunk, options.slope_H = slope_H;
    return ref::attention(q.to(torch::kFloat64), wide(k), wide(v), options);
  }
  int64_t chunk, length;
  Tensor q, k, v;
};

Tensor steps(const Tensor& t, int64_t at, int64_t count) {
  return t.narrow(1, at, count);
}

class CachedAttention : public ::testing::TestWithParam<torch::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Caches, CachedAttention, ::testing::Values(torch::kFloat32, torch::kBFloat16),
                         [](const auto& info) { return c10::toString(info.param); });

TEST_P(CachedAttention, IsTheChunksAttentionHoweverTheStepsArrive) {
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(c10::str("H ", s.H, " G ", s.G, " K ", s.K, " V ", s.V, " C ", s.C));
    const Stream stream(s);
    const Tensor expected = stream.expected(GetParam());
    for (const int64_t most : {1, 3, 8, 9, 70, 1000}) {
      const KeyValueCache cache = make_cache(s, GetParam());
      std::vector<Tensor> parts;
      for (int64_t at = 0; at < stream.length; at += most) {
        const int64_t n = std::min(most, stream.length - at);
        parts.push_back(cached_attention(steps(stream.q, at, n), steps(stream.k, at, n), steps(stream.v, at, n),
                                         {{cache}, {at % s.C}}, {}, Precision::kFloat32));
      }
      EXPECT_TRUE(close(torch::cat(parts, 1), expected, 2e-6)) << most << " steps at a time";
      const int64_t open = stream.length % s.C;
      const auto last = [&](const Tensor& t) { return t[0].narrow(0, stream.length - open, open).to(GetParam()); };
      EXPECT_TRUE(torch::equal(cache.k_CGK.narrow(0, 0, open), last(stream.k)));
      EXPECT_TRUE(torch::equal(cache.v_CGV.narrow(0, 0, open), last(stream.v)));
    }
  }
}

TEST_P(CachedAttention, SlopesAreAlibis) {
  for (const Shape& s : kShapes) {
    const Stream stream(s);
    const Tensor slope_H = torch::exp2(-torch::arange(1, s.H + 1, torch::kFloat32));
    const Tensor expected = stream.expected(GetParam(), slope_H);
    for (const int64_t most : {1, 7, 30}) {
      const KeyValueCache cache = make_cache(s, GetParam());
      std::vector<Tensor> parts;
      for (int64_t at = 0; at < stream.length; at += most) {
        const int64_t n = std::min(most, stream.length - at);
        parts.push_back(cached_attention(steps(stream.q, at, n), steps(stream.k, at, n), steps(stream.v, at, n),
                                         {{cache}, {at % s.C}}, slope_H, Precision::kFloat32));
      }
      EXPECT_TRUE(close(torch::cat(parts, 1), expected, 1e-5)) << most << " steps at a time, H " << s.H;
    }
  }
}

/// Bit for bit: who decodes greedily must not get another text because of a neighbour.
TEST_P(CachedAttention, NeitherNeighboursNorThreadsChangeARow) {
  const std::vector<int64_t> position = {299, 0, 17, 255, 256};
  const auto run = [&](const Shape& s, const std::vector<size_t>& rows) {
    KeyValueRows held;
    std::vector<Tensor> q, k, v;
    for (const size_t row : rows) {
      torch::manual_seed(row);
      const Stream stream(s);
      const int64_t p = position[row];
      held.caches.push_back(make_cache(s, GetParam()));
      held.caches.back().k_CGK.narrow(0, 0, p).copy_(stream.k[0].narrow(0, 0, p));
      held.caches.back().v_CGV.narrow(0, 0, p).copy_(stream.v[0].narrow(0, 0, p));
      q.push_back(steps(stream.q, p, 1)), k.push_back(steps(stream.k, p, 1)), v.push_back(steps(stream.v, p, 1));
      held.position.push_back(p);
    }
    return cached_attention(torch::cat(q), torch::cat(k), torch::cat(v), held, {}, Precision::kFloat32);
  };
  const int threads = at::get_num_threads();
  for (const Shape& s : {kShapes[2], kShapes[5]}) {
    const Tensor together = run(s, {0, 1, 2, 3, 4});
    for (const int count : {1, 3}) {
      at::set_num_threads(count);
      for (size_t row = 0; row < position.size(); ++row)
        EXPECT_TRUE(torch::equal(run(s, {row})[0], together[static_cast<int64_t>(row)])) << "H " << s.H << ", " << row;
    }
    at::set_num_threads(threads);
  }
}

TEST_P(CachedAttention, StaysRightWhereScoresAreLarge) {
  const Shape s = kShapes[3];
  Stream stream(s);
  stream.q = stream.q * 300;  // exponentials of all but the best few keys are 0
  const KeyValueCache cache = make_cache(s, GetParam());
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < stream.length; ++at)
    parts.push_back(cached_attention(steps(stream.q, at, 1), steps(stream.k, at, 1), steps(stream.v, at, 1),
                                     {{cache}, {at % s.C}}, {}, Precision::kFloat32));
  EXPECT_TRUE(close(torch::cat(parts, 1), stream.expected(GetParam()), 2e-4));
}

/// For a GPU's kernel; any other reads it too.
TEST(CachedAttentionTables, SayWhereRowsLieAndStand) {
  const Shape s = kShapes[1];
  const Stream stream(s);
  std::vector<KeyValueRows> layers;
  for (int layer = 0; layer < 2; ++layer)
    layers.push_back({{make_cache(s, torch::kFloat32), make_cache(s, torch::kFloat32)}, {0, 2}});
  for (KeyValueRows& rows : layers) rows.caches[1].k_CGK.zero_(), rows.caches[1].v_CGV.zero_();
  const Tensor tables = key_value_tables(layers);
  EXPECT_EQ(tables.sizes(), torch::IntArrayRef({2, 2, 3}));
  EXPECT_EQ(layers[1].room(), s.C);
  // The table is what counts, and the other layer's caches stay as they are.
  KeyValueRows other = layers[0];
  other.table_B3 = tables[1];
  const auto both = [&](const Tensor& t) { return torch::cat({steps(t, 0, 3), steps(t, 3, 3)}); };
  const Tensor q = both(stream.q), k = both(stream.k), v = both(stream.v);
  const Tensor y = cached_attention(q, k, v, other, {}, Precision::kFloat32);
  EXPECT_TRUE(layers[0].caches[0].k_CGK.isnan().all().item<bool>());
  EXPECT_TRUE(torch::equal(layers[1].caches[0].k_CGK.narrow(0, 0, 3), k[0]));
  EXPECT_TRUE(torch::equal(y, cached_attention(q, k, v, layers[0], {}, Precision::kFloat32)));

  const auto positions = [&](const KeyValueRows& rows, int64_t count) {
    return step_positions(rows, count, torch::kCPU);
  };
  KeyValueRows rows = {layers[0].caches, {s.C - 2, 5}};
  const Tensor expected =
      torch::tensor({s.C - 2, s.C - 1, int64_t{0}, int64_t{5}, int64_t{6}, int64_t{7}}).view({2, 3});
  for (const bool with_table : {false, true}) {
    if (with_table) rows.table_B3 = key_value_tables({rows})[0];
    EXPECT_TRUE(torch::equal(positions(rows, 3), expected));
    EXPECT_TRUE(torch::equal(positions(rows, 1), expected.narrow(1, 0, 1)));
  }
}

TEST(CachedAttentionArguments, SaysWhatDoesNotFit) {
  const Shape s = kShapes[0];
  const Stream stream(s);
  const auto run = [&](const std::vector<KeyValueCache>& caches, const std::vector<int64_t>& position) {
    return cached_attention(steps(stream.q, 0, 2), steps(stream.k, 0, 2), steps(stream.v, 0, 2), {caches, position}, {},
                            Precision::kFloat32);
  };
  const KeyValueCache good = make_cache(s, torch::kFloat32);
  EXPECT_NO_THROW(run({good}, {s.C - 1}));
  EXPECT_THROW(run({good}, {s.C}), Error) << "a chunk that is full is no open one";
  EXPECT_THROW(run({good}, {-1}), Error);
  EXPECT_THROW(run({good, good}, {0, 0}), Error);
  EXPECT_THROW(run({good}, {}), Error);
  EXPECT_THROW(run({make_cache(s, torch::kFloat64)}, {0}), Error);
  EXPECT_THROW(run({make_cache(kShapes[1], torch::kFloat32)}, {0}), Error);
  EXPECT_THROW(run({{good.k_CGK, good.v_CGV.to(torch::kBFloat16)}}, {0}), Error);
  EXPECT_THROW(cached_attention(steps(stream.q, 0, 2), steps(stream.k, 0, 2), steps(stream.v, 0, 2),
                                {{good}, {0}, torch::zeros({1, 3}, torch::kInt32)}, {}, Precision::kFloat32),
               Error);
  // Three heads of keys serve six of queries, and not four.
  const auto heads = [&](int64_t H) {
    const Shape grouped = {H, 3, s.K, s.V, s.C};
    const Tensor k = torch::zeros({1, 2, 3, s.K}), v = torch::zeros({1, 2, 3, s.V});
    return cached_attention(torch::zeros({1, 2, H, s.K}), k, v, {{make_cache(grouped, torch::kFloat32)}, {0}}, {},
                            Precision::kFloat32);
  };
  EXPECT_NO_THROW(heads(6));
  EXPECT_THROW(heads(4), Error);
  EXPECT_THROW(cached_attention(steps(stream.q, 0, 2), steps(stream.k, 0, 2), steps(stream.v, 0, 2), {{good}, {0}},
                                torch::ones({2}), Precision::kFloat32),
               Error);
  EXPECT_THROW(key_value_tables({{{good}, {0}}, {{good}, {}}}), Error);
}

}  // namespace
}  // namespace megalodon::ops::cached_attention_test
