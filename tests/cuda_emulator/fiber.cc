// The fortified longjmp() takes a jump to another stack for an error.
#undef _FORTIFY_SOURCE
#include "fiber.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

namespace cuda_emulator {
namespace {

#ifdef __has_feature  // clang's way to say it
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(ADDRESS_SANITIZER)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

constexpr size_t kStack = size_t{kAddressSanitizer ? 512 : 128} << 10;

// The two ends of the switch under way.
Fiber *from = nullptr, *to = nullptr;

#if defined(__clang__) && !defined(__x86_64__)
#define SET_JUMP _setjmp
[[noreturn]] void jump(jmp_buf& context) {
  _longjmp(context, 1);
}
#else
#define SET_JUMP __builtin_setjmp
[[noreturn]] __attribute__((noinline)) void jump(void** context) {
  __builtin_longjmp(context, 1);
}
#endif

}  // namespace

Fiber::Fiber(std::function<void()> body) : body_(std::move(body)), begun_(false), size_(kStack) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  memory_ = mmap(nullptr, page + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory_ == MAP_FAILED) throw std::runtime_error("cuda_emulator: no memory for a thread's stack");
  mprotect(memory_, page, PROT_NONE);
  bottom_ = static_cast<const char*>(memory_) + page;
  getcontext(&entry_);
  entry_.uc_stack.ss_sp = static_cast<char*>(memory_) + page;
  // Stacks that all end at the same place in a page would fight for the same lines of the cache.
  static size_t count = 0;
  entry_.uc_stack.ss_size = kStack - count++ % 61 * 64;
  makecontext(&entry_, &Fiber::begin, 0);
}

Fiber::~Fiber() {
  if (memory_ == nullptr) return;
  ASAN_UNPOISON_MEMORY_REGION(bottom_, size_);
  munmap(memory_, static_cast<size_t>(static_cast<const char*>(bottom_) - static_cast<char*>(memory_)) + kStack);
}

void Fiber::begin() {
  to->arrive();
  to->body_();
}

void Fiber::arrive() {
  if constexpr (kAddressSanitizer) __sanitizer_finish_switch_fiber(fake_stack_, &from->bottom_, &from->size_);
}

void Fiber::switch_to(Fiber& next) {
  from = this, to = &next;
  if constexpr (kAddressSanitizer) __sanitizer_start_switch_fiber(&fake_stack_, next.bottom_, next.size_);
  // Not swapcontext(): it asks the kernel for the signal mask each time.
  if (SET_JUMP(context_) == 0) {
    if (next.begun_) jump(next.context_);
    next.begun_ = true;
    setcontext(&next.entry_);
  }
  arrive();
}

}  // namespace cuda_emulator
