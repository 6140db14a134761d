#include "tests/support/faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstring>

namespace megalodon::faults {
namespace {

std::atomic<bool> active = false;
std::atomic<int> unsynced = 0;  // how many live that want it so
std::atomic<int64_t> count = 0;
std::atomic<const char*> failed_call = nullptr;
Fault fault;  // changes only while inactive

enum class Effect { kNone, kFail, kShort };

bool is_of(int descriptor, const char* file) {
  if (*file == '\0') return true;
  std::array<char, 4096> path{};  // ends with a zero
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  return readlink(link.c_str(), path.data(), path.size() - 1) > 0 && std::strstr(path.data(), file) != nullptr;
}

/// What happens to this call; sets errno where it fails. Interrupts strike only calls that POSIX lets be interrupted.
Effect strike(const char* name, bool writes, bool interruptible, int descriptor = -1) {
  if (!active || !is_of(descriptor, fault.file)) return Effect::kNone;
  const int64_t number = count++;
  if (fault.at < 0 || (fault.lasting ? number < fault.at || !writes : number != fault.at)) return Effect::kNone;
  if (fault.error == EINTR && !interruptible) return Effect::kNone;
  const bool transfers = writes && interruptible && name[0] != 'o';  // write and pwrite
  if (fault.error == kShortWrite && !transfers) return Effect::kNone;
  const char* none = nullptr;
  failed_call.compare_exchange_strong(none, name);
  if (fault.error == kShortWrite) return Effect::kShort;
  errno = fault.error;
  return Effect::kFail;
}

template <class Function>
Function* next(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

NoSync::NoSync() {
  ++unsynced;
}

NoSync::~NoSync() {
  --unsynced;
}

Faults::Faults(Fault wanted) {
  fault = wanted;
  count = 0;
  failed_call = nullptr;
  active = true;
}

Faults::~Faults() {
  active = false;
}

int64_t Faults::calls() const {
  return count;
}

std::string Faults::failed() const {
  const char* name = failed_call;
  return name == nullptr ? "" : name;
}

}  // namespace megalodon::faults

// libc's function of the same name.
#define NEXT(name) static auto* const libc = megalodon::faults::next(&::name, #name)

using megalodon::faults::Effect;
using megalodon::faults::strike;
using megalodon::faults::unsynced;

extern "C" {

int open(const char* path, int flags, ...) {
  NEXT(open);
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  if (strike("open", (flags & O_CREAT) != 0, true) != Effect::kNone) return -1;
  return libc(path, flags, mode);
}

ssize_t write(int descriptor, const void* data, size_t bytes) {
  NEXT(write);
  const Effect effect = strike("write", true, true, descriptor);
  if (effect == Effect::kFail) return -1;
  return libc(descriptor, data, effect == Effect::kShort ? std::max<size_t>(bytes / 2, 1) : bytes);
}

ssize_t pwrite(int descriptor, const void* data, size_t bytes, off_t offset) {
  NEXT(pwrite);
  const Effect effect = strike("pwrite", true, true, descriptor);
  if (effect == Effect::kFail) return -1;
  return libc(descriptor, data, effect == Effect::kShort ? std::max<size_t>(bytes / 2, 1) : bytes, offset);
}

int ftruncate(int descriptor, off_t bytes) noexcept {
  NEXT(ftruncate);
  return strike("ftruncate", false, true, descriptor) == Effect::kNone ? libc(descriptor, bytes) : -1;
}

int fsync(int descriptor) {
  NEXT(fsync);
  if (strike("fsync", false, true, descriptor) != Effect::kNone) return -1;
  return unsynced > 0 ? 0 : libc(descriptor);
}

int close(int descriptor) {
  NEXT(close);
  const bool fails = strike("close", false, true, descriptor) != Effect::kNone;
  const int error = errno;
  const int result = libc(descriptor);  // closed in any case, as Linux does it
  if (!fails) return result;
  errno = error;
  return -1;
}

int rename(const char* from, const char* to) noexcept {
  NEXT(rename);
  return strike("rename", false, true) == Effect::kNone ? libc(from, to) : -1;
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  NEXT(renameat2);
  return strike("renameat2", false, true) == Effect::kNone ? libc(from_folder, from, to_folder, to, flags) : -1;
}

int mkdir(const char* path, mode_t mode) noexcept {
  NEXT(mkdir);
  return strike("mkdir", true, false) == Effect::kNone ? libc(path, mode) : -1;
}

int unlink(const char* path) noexcept {
  NEXT(unlink);
  return strike("unlink", false, false) == Effect::kNone ? libc(path) : -1;
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  NEXT(unlinkat);
  return strike("unlinkat", false, false) == Effect::kNone ? libc(folder, path, flags) : -1;
}

int rmdir(const char* path) noexcept {
  NEXT(rmdir);
  return strike("rmdir", false, false) == Effect::kNone ? libc(path) : -1;
}

}  // extern "C"
