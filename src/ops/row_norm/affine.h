// The affine part of the norms, outside the vector code: 1 + weight and bias as plain arrays, and their gradients
// summed over rows in an order that does not depend on threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace megalodon::ops {

/// 1 + weight and bias; missing ones become 1 and 0, so that the kernels have one path.
struct Affine {
  std::vector<float> scale, shift;

  Affine(const float* weight, const float* bias, int64_t size)
      : scale(static_cast<size_t>(size), 1.0f), shift(static_cast<size_t>(size), 0.0f) {
    if (weight != nullptr)
      for (int64_t i = 0; i < size; ++i) scale[i] += weight[i];
    if (bias != nullptr) std::copy(bias, bias + size, shift.begin());
  }
};

/// Sums of dscale and dshift over one task's rows: `parts` x `size` doubles each.
class AffinePartials {
 public:
  AffinePartials(int64_t parts, int64_t size)
      : dscale_(static_cast<size_t>(parts * size)),
        dshift_(static_cast<size_t>(parts * size)),
        parts_(parts),
        size_(size) {}

  double* dscale(int64_t part, int64_t feature = 0) { return dscale_.data() + part * size_ + feature; }
  double* dshift(int64_t part, int64_t feature = 0) { return dshift_.data() + part * size_ + feature; }

  /// Adds the parts up in order; either target may be null.
  void sum(float* dweight, float* dbias) const {
    if (dweight != nullptr) sum(dscale_, dweight);
    if (dbias != nullptr) sum(dshift_, dbias);
  }

 private:
  void sum(const std::vector<double>& partial, float* result) const {
    std::vector<double> total(static_cast<size_t>(size_));
    for (int64_t part = 0; part < parts_; ++part)
      for (int64_t i = 0; i < size_; ++i) total[i] += partial[part * size_ + i];
    for (int64_t i = 0; i < size_; ++i) result[i] = static_cast<float>(total[i]);
  }

  std::vector<double> dscale_, dshift_;
  int64_t parts_, size_;
};

/// Where one task adds its rows: dscale and dshift are null where these gradients are not wanted.
struct AffineTotals {
  double *dscale = nullptr, *dshift = nullptr;
};

/// Sums rows for one task. The vector code adds in float32; after kRows rows the sums move to the float64 totals, so
/// that the error does not grow with the length of the sequence.
class AffineGradient {
 public:
  AffineGradient(AffineTotals totals, int64_t size)
      : totals_(totals), size_(totals.dscale != nullptr ? size : 0), recent_(static_cast<size_t>(2 * size_)) {}

  bool wanted() const { return totals_.dscale != nullptr; }
  float* dscale() { return recent_.data(); }
  float* dshift() { return recent_.data() + size_; }

  void row_done() {
    if (++rows_ == kRows) flush();
  }

  void flush() {
    for (int64_t i = 0; i < size_; ++i) totals_.dscale[i] += recent_[i];
    for (int64_t i = 0; i < size_; ++i) totals_.dshift[i] += recent_[size_ + i];
    std::fill(recent_.begin(), recent_.end(), 0.0f);
    rows_ = 0;
  }

 private:
  static constexpr int kRows = 32;  // an error of at most 32 · 2^-24; the flush costs a thirtieth of the rows' own work

  AffineTotals totals_;
  int64_t size_;
  std::vector<float> recent_;
  int rows_ = 0;
};

/// Work below this many elements is done by the calling thread: waking the others takes as long (a few microseconds).
constexpr int64_t kSerialElements = 1 << 15;

}  // namespace megalodon::ops
