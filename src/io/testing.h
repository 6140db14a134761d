// What the tests of this folder share.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/temporary_folder.h"
#include "base/testing.h"
#include "io/bytes.h"
#include "io/tensor_file.h"

namespace megalodon::io::testing {

/// `values` must outlive the view.
template <class T>
TensorView view(std::string name, Dtype dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  return {std::move(name), dtype, std::move(shape), std::as_bytes(std::span(values))};
}

template <class T>
std::vector<T> values(const TensorView& tensor) {
  std::vector<T> out(tensor.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

inline void expect_equal(const TensorView& actual, const TensorView& expected) {
  EXPECT_EQ(actual.name, expected.name);
  EXPECT_EQ(actual.dtype, expected.dtype) << actual.name;
  EXPECT_EQ(actual.shape, expected.shape) << actual.name;
  EXPECT_EQ(as_text(actual.bytes), as_text(expected.bytes)) << actual.name;
}

/// Bytes in memory of exactly their size, so that a sanitizer sees any read past them.
inline std::shared_ptr<const std::vector<std::byte>> exact(std::string_view text) {
  const std::span<const std::byte> bytes = as_bytes(text);
  return std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
}

template <class Function>
std::string error_of(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// How much more memory than now the process has at its peak while `function` runs: in a child, for peaks stay.
template <class Function>
size_t peak_growth(const Function& function) {
  const auto peak = [](const auto& body) {
    const pid_t child = fork();
    if (child == 0) {
      body();
      _exit(0);
    }
    rusage usage = {};
    int status = 0;
    check(child > 0 && wait4(child, &status, 0, &usage) == child && status == 0, "the child ended with {}", status);
    return static_cast<size_t>(usage.ru_maxrss) * 1024;
  };
  const size_t before = peak([] {}), after = peak(function);
  return after > before ? after - before : 0;
}

/// Hands `parse` many damaged versions of `text`. It may succeed or throw Error; anything else fails the test or trips
/// a sanitizer. Returns how many were refused.
template <class Parse>
int damage(const std::string& text, int rounds, Parse&& parse) {
  std::mt19937 random(7);
  const auto below = [&](size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random); };
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string damaged = text;
    if (round % 8 == 0) damaged.resize(below(text.size() + 1));
    for (size_t flips = below(4) + (round % 8 != 0); flips > 0 && !damaged.empty(); --flips) {
      // Small values and extremes hit lengths and counts more often than arbitrary ones.
      constexpr unsigned char kTelling[] = {0, 1, 0x7f, 0x80, 0xff};
      damaged[below(damaged.size())] = static_cast<char>(below(2) ? kTelling[below(5)] : below(256));
    }
    const auto bytes = exact(damaged);
    try {
      parse(bytes);
    } catch (const Error&) {
      ++refused;
    }
  }
  return refused;
}

}  // namespace megalodon::io::testing
