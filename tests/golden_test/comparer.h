// Compares tensors and keeps the books: what was compared, what was out of tolerance, and where each tensor was worst.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/compat.h"

namespace megalodon::golden {

/// |got − expected| <= max(relative · max|expected|, absolute), elementwise.
struct Tolerance {
  double relative = 0, absolute = 0;
};

class Comparer {
 public:
  /// NaN fails, and so does another shape.
  void near(const std::string& name, const Tensor& got, const Tensor& expected, Tolerance tolerance);
  /// For integers, booleans and bitwise promises.
  void equal(const std::string& name, const Tensor& got, const Tensor& expected);
  /// Values that the data calls informative: shape, and that they are finite. What the difference is goes into a note.
  void inform(const std::string& name, const Tensor& got, const Tensor& expected);

  /// Something was checked that is no tensor.
  void require(bool condition, const std::string& name, const std::string& problem);
  void fail(std::string problem) { problems_.push_back({std::move(problem), kNotNumeric}); }
  void note(std::string text) { notes_.push_back(std::move(text)); }

  bool passed() const { return problems_.empty(); }
  bool compared(const std::string& name) const { return names_.count(name) > 0; }
  size_t count() const { return names_.size(); }
  const std::vector<std::string>& notes() const { return notes_; }
  /// One line: the worst problem and how many more there are, or how near the tolerances the comparisons came.
  std::string summary() const;

 private:
  static constexpr double kNotNumeric = 1e300;  // sorts before every numerical difference
  struct Problem {
    std::string text;
    double severity;  // difference / tolerance
  };
  bool same_shape(const std::string& name, const Tensor& got, const Tensor& expected);

  std::set<std::string> names_;
  std::vector<Problem> problems_;
  std::vector<std::string> notes_;
  /// Per kind of tensor (out, grad, out64, …): the one that passed with the largest difference / tolerance.
  std::map<std::string, std::pair<double, std::string>> nearest_;
};

}  // namespace megalodon::golden
