// System calls as programs mean them.
#pragma once

#include <cerrno>

namespace megalodon {

/// Repeats a call that a signal interrupted.
template <class Call>
auto retry(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace megalodon
