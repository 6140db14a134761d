// Arithmetic on all groups of one step of timestep_norm at once: G groups of K neighbouring features each. Highway
// "-inl" header: compiled once per CPU target, included by timestep_norm_cpu.cc only.
//
// Sums: a group's features are added up to one vector, and N such vectors become one with the sums of N groups, in N −
// 1 steps that each add the even lanes of two vectors to the odd ones: three instructions a group, where SumOfLanes
// takes three a halving. The order of additions depends on K alone.
//
// What follows from the sums is then a few vectors for all groups; and the pass over features takes whole vectors
// whatever K is, looking up for every lane what its group has.
#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(MEGALODON_GROUP_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGALODON_GROUP_MATH_INL_H_
#undef MEGALODON_GROUP_MATH_INL_H_
#else
#define MEGALODON_GROUP_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr auto kMostLanes = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<float>()));

/// Entries of an array with one number per group, so that a vector may begin at any of them.
inline int64_t padded_groups(int64_t groups) {
  return (groups + kMostLanes - 1) / kMostLanes * kMostLanes + kMostLanes;
}

/// Calls body(tag) with the widest tag of at most `size` lanes.
template <class Body>
HWY_INLINE void with_lanes(int64_t size, const Body& body) {
  if (size >= kMostLanes)
    body(hn::ScalableTag<float>());
  else if (size >= 8)
    body(hn::CappedTag<float, 8>());
  else if (size >= 4)
    body(hn::CappedTag<float, 4>());
  else if (size >= 2)
    body(hn::CappedTag<float, 2>());
  else
    body(hn::CappedTag<float, 1>());
}

/// What one pass over a group adds up, a number a lane.
template <class V>
struct Sums {
  V g, gc, c;  // of g = dy · scale and c = x − mean: Σ g, Σ g c, Σ c
};

template <class D, class V>
HWY_INLINE V add(D /*d*/, V a, V b) {
  return hn::Add(a, b);
}
template <class D, class V>
HWY_INLINE Sums<V> add(D /*d*/, Sums<V> a, Sums<V> b) {
  return {hn::Add(a.g, b.g), hn::Add(a.gc, b.gc), hn::Add(a.c, b.c)};
}

#if HWY_TARGET != HWY_SCALAR  // where a lane has no neighbour
/// The sums of neighbouring lanes: of a in the lower half, of b in the upper.
template <class D, class V>
HWY_INLINE V pair_sums(D d, V a, V b) {
  return hn::Add(hn::ConcatEven(d, b, a), hn::ConcatOdd(d, b, a));
}
template <class D, class V>
HWY_INLINE Sums<V> pair_sums(D d, Sums<V> a, Sums<V> b) {
  return {pair_sums(d, a.g, b.g), pair_sums(d, a.gc, b.gc), pair_sums(d, a.c, b.c)};
}
#endif

/// Lane i: the sum of the lanes of parts(first + i).
template <int64_t kGroups, class D, class Parts>
HWY_INLINE auto lane_sums(D d, const Parts& parts, int64_t first) {
  if constexpr (kGroups == 1)
    return parts(first);
  else
    return pair_sums(d, lane_sums<kGroups / 2>(d, parts, first), lane_sums<kGroups / 2>(d, parts, first + kGroups / 2));
}

/// Calls part(i, only) for vectors that make up [begin, end) of a group of at least as many features; only(v) is 0 in
/// lanes that another part has too: the last vector ends where the group does.
template <class D, class Part>
HWY_INLINE void for_each_part(D d, int64_t begin, int64_t end, const Part& part) {
  constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(D()));
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) part(i, [](auto v) HWY_ATTR { return v; });
  if (i == end) return;
  const auto had = hn::FirstN(d, static_cast<size_t>(kLanes - (end - i)));
  part(end - kLanes, [&](auto v) HWY_ATTR { return hn::IfThenZeroElse(had, v); });
}

/// Calls store(g, sums) for every vector of groups, where sums are those of parts(group, begin, end) over the group's
/// features. Spans of at most 32 vectors: what a lane adds up in float32 stays short, also where vectors are narrow.
template <class D, class Total, class Parts, class Store>
HWY_INLINE void for_each_sums(D d, int64_t groups, int64_t K, Total zero, const Parts& parts, const Store& store) {
  constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(D()));
  for (int64_t g = 0; g < groups; g += kLanes) {
    auto sums = zero;
    for (int64_t begin = 0; begin < K; begin += 32 * kLanes) {
      const int64_t end = std::min(K, begin + 32 * kLanes);
      const auto of_group = [&](int64_t i) HWY_ATTR { return parts(std::min(i, groups - 1), begin, end); };
      sums = add(d, sums, lane_sums<kLanes>(d, of_group, g));
    }
    store(g, sums);
  }
}

/// Means of the groups, summed in float64: float32 would leave an error of |mean| · 2^-24 a step in the running
/// statistics.
HWY_INLINE void group_means(const float* x, int64_t groups, int64_t K, double* mean) {
  with_lanes(K, [&](auto floats) HWY_ATTR {
    const hn::CappedTag<double, hn::MaxLanes(decltype(floats)())> d;
    const hn::Rebind<float, decltype(d)> narrow;
    const auto parts = [&](int64_t g, int64_t begin, int64_t end) HWY_ATTR {
      auto sum = hn::Zero(d);
      for_each_part(d, begin, end, [&](int64_t i, const auto& only) HWY_ATTR {
        sum = hn::Add(sum, only(hn::PromoteTo(d, hn::LoadU(narrow, x + g * K + i))));
      });
      return sum;
    };
    const auto size = hn::Set(d, static_cast<double>(K));
    for_each_sums(d, groups, K, hn::Zero(d), parts,
                  [&](int64_t g, auto sums) HWY_ATTR { hn::StoreU(hn::Div(sums, size), d, mean + g); });
  });
}

/// Σ (x − center)² of the groups.
HWY_INLINE void group_squares(const float* x, int64_t groups, int64_t K, const float* center, float* squares) {
  with_lanes(K, [&](auto d) HWY_ATTR {
    const auto parts = [&](int64_t g, int64_t begin, int64_t end) HWY_ATTR {
      const auto middle = hn::Set(d, center[g]);
      auto sum = hn::Zero(d);
      for_each_part(d, begin, end, [&](int64_t i, const auto& only) HWY_ATTR {
        const auto c = only(hn::Sub(hn::LoadU(d, x + g * K + i), middle));
        sum = hn::MulAdd(c, c, sum);
      });
      return sum;
    };
    for_each_sums(d, groups, K, hn::Zero(d), parts,
                  [&](int64_t g, auto sums) HWY_ATTR { hn::StoreU(sums, d, squares + g); });
  });
}

/// Sums of the groups' gradients, about `center`.
HWY_INLINE void group_gradient_sums(const float* x, const float* dy, const float* scale, int64_t groups, int64_t K,
                                    const float* center, Sums<float*> out) {
  with_lanes(K, [&](auto d) HWY_ATTR {
    using V = hn::Vec<decltype(d)>;
    const V zero = hn::Zero(d);
    const auto parts = [&](int64_t g, int64_t begin, int64_t end) HWY_ATTR {
      const V middle = hn::Set(d, center[g]);
      Sums<V> sums{zero, zero, zero};
      for_each_part(d, begin, end, [&](int64_t i, const auto& only) HWY_ATTR {
        const V gradient = only(hn::Mul(hn::LoadU(d, dy + g * K + i), hn::LoadU(d, scale + g * K + i)));
        const V c = only(hn::Sub(hn::LoadU(d, x + g * K + i), middle));
        sums = {hn::Add(sums.g, gradient), hn::MulAdd(gradient, c, sums.gc), hn::Add(sums.c, c)};
      });
      return sums;
    };
    for_each_sums(d, groups, K, Sums<V>{zero, zero, zero}, parts, [&](int64_t g, Sums<V> sums) HWY_ATTR {
      hn::StoreU(sums.g, d, out.g + g);
      hn::StoreU(sums.gc, d, out.gc + g);
      hn::StoreU(sums.c, d, out.c + g);
    });
  });
}

/// For every lane of a vector of features, how many groups after the first lane's its own is, by where in its group the
/// first lane is.
class GroupTable {
 public:
  explicit GroupTable(int64_t K) : K_(K), group_(static_cast<size_t>(K + kMostLanes)) {
    for (size_t i = static_cast<size_t>(K); i < group_.size(); ++i) group_[i] = group_[i - static_cast<size_t>(K)] + 1;
  }
  int64_t K() const { return K_; }
  const int32_t* at(int64_t place) const { return &group_[place]; }

 private:
  int64_t K_;
  std::vector<int32_t> group_;
};

/// Walks over vectors of features, beginning at feature `begin`.
template <class D>
class GroupsOfLanes {
 public:
  GroupsOfLanes(const GroupTable& table, int64_t begin)
      : table_(table.at(0)), K_(table.K()), group_(begin / K_), place_(begin % K_) {}

  /// The features' own of an array of padded_groups().
  HWY_INLINE hn::Vec<D> of(const float* per_group) const {
    const D d;
    const hn::Rebind<int32_t, D> integers;
    const auto lanes = hn::IndicesFromVec(d, hn::LoadU(integers, table_ + place_));
    return hn::TableLookupLanes(hn::LoadU(d, per_group + group_), lanes);
  }

  HWY_INLINE void next() {
    constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(D()));
    place_ += kLanes;
    for (; place_ >= K_; place_ -= K_) ++group_;
  }

 private:
  const int32_t* table_;
  int64_t K_, group_, place_;
};

/// The same where a vector lies in one group.
template <class D>
class OneGroup {
 public:
  explicit OneGroup(int64_t group) : group_(group) {}
  HWY_INLINE hn::Vec<D> of(const float* per_group) const { return hn::Set(D(), per_group[group_]); }
  HWY_INLINE void next() {}

 private:
  int64_t group_;
};

/// Calls body(tag, begin, end, lanes) for spans of whole vectors that make up a step's features; lanes.of(array) are
/// the numbers that the first vector's features have in an array of groups, after lanes.next() the second's.
template <class Body>
HWY_INLINE void for_each_vectors(const GroupTable& table, int64_t groups, const Body& body) {
  const int64_t K = table.K();
  if (K < kMostLanes) {
    for_each_span<float>(groups * K, [&](auto d, int64_t begin, int64_t end)
                                         HWY_ATTR { body(d, begin, end, GroupsOfLanes<decltype(d)>(table, begin)); });
    return;
  }
  for (int64_t g = 0; g < groups; ++g) {
    for_each_span<float>(K, [&](auto d, int64_t begin, int64_t end)
                                HWY_ATTR { body(d, g * K + begin, g * K + end, OneGroup<decltype(d)>(g)); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
