// Errors. Library code throws; only main() prints and exits. A message says what, where, expected and got, with the
// name of the thing in brackets first: "[rotary] head_dim must be even, got 7".
#pragma once

#include <fmt/format.h>

#include <stdexcept>

namespace megalodon {

/// Something the caller gave is wrong or the environment failed: exit code 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A command line or run file that cannot be understood: exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

/// Always on: for whatever a user or a file can get wrong.
template <class... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    fail(format, std::forward<Args>(args)...);
}

}  // namespace megalodon
