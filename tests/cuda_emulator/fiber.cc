// longjmp() between stacks is what its fortified form takes for an error.
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

#if !defined(__SANITIZE_ADDRESS__) && defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

constexpr size_t kStack = size_t{kAddressSanitizer ? 512 : 128} << 10;

// The two ends of the switch under way.
Fiber *from = nullptr, *to = nullptr;

}  // namespace

Fiber::Fiber(std::function<void()> body) : body_(std::move(body)), begun_(false), size_(kStack) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  memory_ = mmap(nullptr, page + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory_ == MAP_FAILED) throw std::runtime_error("cuda_emulator: no memory for a thread's stack");
  mprotect(memory_, page, PROT_NONE);
  bottom_ = static_cast<const char*>(memory_) + page;
  getcontext(&entry_);
  entry_.uc_stack.ss_sp = static_cast<char*>(memory_) + page;
  entry_.uc_stack.ss_size = kStack;
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
  if (_setjmp(context_) == 0) {
    if (next.begun_) _longjmp(next.context_, 1);
    next.begun_ = true;
    setcontext(&next.entry_);
  }
  arrive();
}

}  // namespace cuda_emulator
