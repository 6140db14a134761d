// Stacks that one thread switches between, without the kernel's help.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <functional>

namespace cuda_emulator {

class Fiber {
 public:
  /// The stack of whoever constructs it.
  Fiber() = default;
  /// A stack of its own: `body` begins there at the first switch to it, and must never return.
  explicit Fiber(std::function<void()> body);
  /// Also of one that waits in switch_to(): what lies on its stack is forgotten, no destructor runs.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// From this fiber, on which the call is made, to another; returns when somebody switches back.
  void switch_to(Fiber& next);

 private:
  static void begin();
  void arrive();

  std::function<void()> body_;
  void* memory_ = nullptr;  // a page that must not be touched, then the stack
  bool begun_ = true;
  ucontext_t entry_{};
#if defined(__clang__) && !defined(__x86_64__)
  jmp_buf context_{};
#else
  void* context_[5];  // of the compiler's own setjmp, several times as fast
#endif
  // What AddressSanitizer is told of a stack.
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  void* fake_stack_ = nullptr;
};

}  // namespace cuda_emulator
