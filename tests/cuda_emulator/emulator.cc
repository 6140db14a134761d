// Launches, and whose turn it is within a block.
#include "emulator.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

namespace cuda_emulator {
namespace {

constexpr unsigned kWarp = 32, kMostThreads = 1024, kMostWarps = kMostThreads / kWarp;
constexpr size_t kSharedLimit = size_t{48} << 10, kRaisedSharedLimit = size_t{227} << 10;

const char* name_of(Wait wait) {
  switch (wait) {
    case Wait::kNothing:
      return "nothing";
    case Wait::kThreads:
      return "__syncthreads";
    case Wait::kWarp:
      return "__syncwarp";
    case Wait::kBallot:
      return "__ballot_sync";
    case Wait::kShuffle:
      return "__shfl_sync";
    case Wait::kShuffleUp:
      return "__shfl_up_sync";
    case Wait::kShuffleDown:
      return "__shfl_down_sync";
    case Wait::kShuffleXor:
      return "__shfl_xor_sync";
    case Wait::kSleep:
      return "__nanosleep";
  }
  return "";
}

bool is_shuffle(Wait wait) {
  return wait >= Wait::kShuffle && wait <= Wait::kShuffleXor;
}

unsigned bit(unsigned i) {
  return 1u << i;
}
unsigned lowest(unsigned bits) {
  return static_cast<unsigned>(__builtin_ctz(bits));
}

std::string text_of(const uint3& at) {
  return std::string("(") + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

/// Who is next: MEGALODON_CUDA_EMULATOR_ORDER, for one launch.
class Order {
 public:
  Order() {
    static uint64_t launches = 0;
    const char* text = std::getenv("MEGALODON_CUDA_EMULATOR_ORDER");
    if (text == nullptr || std::strcmp(text, "forward") == 0) return;
    if (std::strcmp(text, "backward") == 0) {
      kind_ = kBackward;
      return;
    }
    char* end = nullptr;
    const uint64_t seed = std::strtoull(text, &end, 10);
    if (end == text || *end != '\0')
      throw std::runtime_error("MEGALODON_CUDA_EMULATOR_ORDER must be forward, backward or a number, got " +
                               std::string(text));
    kind_ = kRandom;
    random_.seed(static_cast<uint32_t>(seed + 0x9E3779B9 * ++launches));
  }

  /// One of the bits that are set.
  unsigned pick(unsigned bits) {
    if (kind_ == kForward) return lowest(bits);
    if (kind_ == kBackward) return 31 - static_cast<unsigned>(__builtin_clz(bits));
    const auto begin = static_cast<unsigned>(random_() >> 8) % 32;
    const unsigned turned = begin == 0 ? bits : bits >> begin | bits << (32 - begin);
    return (lowest(turned) + begin) % 32;
  }

  /// Calls use(i) for all numbers below `count`, until it says false. In random order: in steps of equal size.
  template <class Use>
  void for_each(uint64_t count, const Use& use) {
    uint64_t at = 0, step = 1;
    if (kind_ == kBackward) at = count - 1, step = count - 1;
    if (kind_ == kRandom) {
      at = random_() % count, step = random_() % count;
      while (std::gcd(step, count) != 1) ++step;
    }
    for (uint64_t done = 0; done < count && use(at); ++done) at = (at + step) % count;
  }

 private:
  enum { kForward, kBackward, kRandom } kind_ = kForward;
  std::minstd_rand random_;
};

struct Thread;

/// A stack on which threads run, one after the other as long as they do not have to wait.
struct Worker {
  Thread* thread;
  std::unique_ptr<Fiber> fiber;
};

struct Thread {
  uint3 index;
  Worker* worker;  // null: it has not begun
  Wait wait;
  unsigned mask, source;  // of a meeting of lanes
  uint64_t bits;          // what it brings, then what it takes away
};

/// Lanes of a warp, as bits. Those that exist and are in none of the others run or wait for all threads.
struct Warp {
  unsigned existing = 0, ready = 0, meeting = 0, sleeping = 0, ended = 0;
};

/// The multiprocessor: it has one block at a time.
class Multiprocessor {
 public:
  /// Runs `body` for each thread; returns what went wrong.
  std::string run_block(const std::function<void()>& body, Order& order);

  void meet_threads();
  uint64_t meet_lanes(Wait wait, unsigned mask, uint64_t bits, unsigned source);
  void sleep();
  unsigned lane() const { return number_of(*current_) % kWarp; }

 private:
  unsigned number_of(const Thread& thread) const { return static_cast<unsigned>(&thread - threads_.data()); }
  Warp& warp_of(const Thread& thread) { return warps_[number_of(thread) / kWarp]; }
  bool has_ended(const Thread& thread) { return (warp_of(thread).ended & bit(number_of(thread) % kWarp)) != 0; }
  Thread& lane_of(const Warp& warp, unsigned lane) {
    return threads_[static_cast<size_t>(&warp - warps_.data()) * kWarp + lane];
  }

  void make_ready(size_t warp, unsigned lanes) {
    warps_[warp].ready |= lanes;
    if (warps_[warp].ready != 0) ready_ |= bit(static_cast<unsigned>(warp));
  }
  bool wake_sleepers();
  Thread* pick();
  Worker& take_worker(Thread& thread);
  void work(Worker& self);
  void wait();
  __attribute__((noinline)) void complete(Warp& warp);
  [[noreturn]] void stop();
  std::string describe(const Thread& waiting, const Thread& missing);
  std::string describe_standstill();

  const std::function<void()>* body_ = nullptr;
  Order* order_ = nullptr;
  std::array<Thread, kMostThreads> threads_;
  std::array<Warp, kMostWarps> warps_;
  unsigned size_ = 0, ended_ = 0, in_barrier_ = 0;
  unsigned ready_ = 0;                        // warps with a lane that may go on
  unsigned warp_ = 0;                         // the last one whose turn it was
  uint64_t events_ = 0, events_at_wake_ = 0;  // whatever a sleeper might have waited for
  int naps_ = 0;                              // of all sleepers together since the last event
  std::string failure_;

  Thread* current_ = nullptr;
  Fiber main_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
};

std::string Multiprocessor::run_block(const std::function<void()>& body, Order& order) {
  body_ = &body, order_ = &order;
  size_ = blockDim.x * blockDim.y * blockDim.z;
  ended_ = in_barrier_ = ready_ = 0;
  naps_ = 0;
  failure_.clear();
  for (unsigned i = 0; i < size_; ++i)
    threads_[i] = {
        {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y}, nullptr, Wait::kNothing, 0, 0, 0};
  for (unsigned w = 0; w * kWarp < size_; ++w) {
    const unsigned lanes = size_ - w * kWarp;
    warps_[w] = {};
    warps_[w].existing = lanes < kWarp ? bit(lanes) - 1 : ~0u;
    make_ready(w, warps_[w].existing);
  }
  warp_ = order.pick(ready_);
  main_.switch_to(*take_worker(*pick()).fiber);
  if (failure_.empty() && ended_ < size_) failure_ = describe_standstill();
  if (!failure_.empty()) idle_.clear(), workers_.clear();  // they are in the middle of something
  return failure_;
}

/// Lets sleepers look again, unless they have looked often while nothing happened.
bool Multiprocessor::wake_sleepers() {
  constexpr int kMostNaps = 1000;
  if (events_ != events_at_wake_) naps_ = 0;
  events_at_wake_ = events_;
  if (++naps_ > kMostNaps) return false;
  for (size_t w = 0; w * kWarp < size_; ++w) {
    make_ready(w, warps_[w].sleeping);
    warps_[w].sleeping = 0;
  }
  return ready_ != 0;
}

/// Whose turn it is; null: nobody can go on.
Thread* Multiprocessor::pick() {
  if (ready_ == 0 && !wake_sleepers()) return nullptr;
  // One warp as long as it can go on: its stacks stay in the cache.
  if ((ready_ & bit(warp_)) == 0) warp_ = order_->pick(ready_);
  const unsigned w = warp_, lane = order_->pick(warps_[w].ready);
  warps_[w].ready &= ~bit(lane);
  if (warps_[w].ready == 0) ready_ &= ~bit(w);
  return &threads_[w * kWarp + lane];
}

/// The thread's own, or an idle one to begin it.
Worker& Multiprocessor::take_worker(Thread& thread) {
  if (thread.worker != nullptr) return *thread.worker;
  if (idle_.empty()) {
    workers_.push_back(std::make_unique<Worker>());
    Worker& made = *workers_.back();
    made.fiber = std::make_unique<Fiber>([this, &made] { work(made); });
    idle_.push_back(&made);
  }
  Worker& worker = *idle_.back();
  idle_.pop_back();
  worker.thread = &thread;
  return worker;
}

void Multiprocessor::work(Worker& self) {
  for (;;) {
    Thread& thread = *self.thread;
    thread.worker = &self;
    current_ = &thread, threadIdx = thread.index;
    (*body_)();
    warp_of(thread).ended |= bit(number_of(thread) % kWarp);
    ++ended_, ++events_;
    Thread* next = pick();
    if (next != nullptr && next->worker == nullptr) {
      self.thread = next;
      continue;
    }
    idle_.push_back(&self);
    self.fiber->switch_to(next != nullptr ? *next->worker->fiber : main_);
  }
}

/// Runs others until somebody has made the current thread ready.
void Multiprocessor::wait() {
  Thread& self = *current_;
  Thread* next = pick();
  if (next == &self) return;
  self.worker->fiber->switch_to(next != nullptr ? *take_worker(*next).fiber : main_);
  current_ = &self, threadIdx = self.index;
}

void Multiprocessor::meet_threads() {
  Thread& self = *current_;
  self.wait = Wait::kThreads;
  if (++in_barrier_ < size_) return wait();
  in_barrier_ = 0;
  ++events_;
  for (unsigned i = 0; i < size_; ++i) threads_[i].wait = Wait::kNothing;
  for (size_t w = 0; w * kWarp < size_; ++w) make_ready(w, warps_[w].existing);
  warp_ = order_->pick(ready_);
  wait();
}

uint64_t Multiprocessor::meet_lanes(Wait wait_in, unsigned mask, uint64_t bits, unsigned source) {
  Thread& self = *current_;
  Warp& warp = warp_of(self);
  self.wait = wait_in, self.mask = mask, self.bits = bits, self.source = source;
  if ((mask & bit(lane())) == 0 || (mask & ~warp.existing) != 0) {
    failure_ = "thread " + text_of(self.index) + " is in " + name_of(wait_in) +
               ((mask & bit(lane())) == 0 ? " with a mask that lacks its own lane"
                                          : " with a mask of lanes that the block lacks");
    stop();
  }
  warp.meeting |= bit(lane());
  if ((warp.meeting & mask) == mask)
    complete(warp);
  else
    wait();
  return self.bits;
}

/// All lanes that the current one waits for have come.
void Multiprocessor::complete(Warp& warp) {
  const Thread& self = *current_;
  uint64_t bits[kWarp];
  unsigned ballot = 0;
  for (unsigned rest = self.mask; rest != 0; rest &= rest - 1) {
    const Thread& other = lane_of(warp, lowest(rest));
    if (other.wait != self.wait || other.mask != self.mask) {
      failure_ = describe(self, other);
      stop();
    }
    bits[lowest(rest)] = other.bits;
    if (other.bits != 0) ballot |= bit(lowest(rest));
  }
  const Wait wait = self.wait;
  const unsigned mask = self.mask;
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    Thread& other = lane_of(warp, lowest(rest));
    if (is_shuffle(wait)) {
      if ((mask & bit(other.source)) == 0) {
        failure_ = "thread " + text_of(other.index) + " reads from lane " + std::to_string(other.source) + " in " +
                   name_of(wait) + ", whose mask lacks it";
        stop();
      }
      other.bits = bits[other.source];
    } else {
      other.bits = ballot;
    }
    other.wait = Wait::kNothing;
  }
  warp.meeting &= ~mask;
  ++events_;
  make_ready(static_cast<size_t>(&warp - warps_.data()), mask & ~bit(lane()));
}

void Multiprocessor::sleep() {
  current_->wait = Wait::kSleep;
  warp_of(*current_).sleeping |= bit(lane());
  Thread& self = *current_;
  wait();
  self.wait = Wait::kNothing;
}

/// Ends the block: nothing of it is ever run again, not even destructors.
void Multiprocessor::stop() {
  current_->worker->fiber->switch_to(main_);
  std::abort();
}

std::string Multiprocessor::describe(const Thread& waiting, const Thread& missing) {
  std::string text = "thread " + text_of(waiting.index) + " waits in " + name_of(waiting.wait) + " for thread " +
                     text_of(missing.index);
  if (has_ended(missing)) return text + ", which has ended";
  text += std::string(", which is in ") + name_of(missing.wait);
  return missing.wait == waiting.wait ? text + " with another mask" : text;
}

/// Why nobody can go on.
std::string Multiprocessor::describe_standstill() {
  const auto all = [&](const auto& is) {
    for (unsigned i = 0; i < size_; ++i)
      if (is(threads_[i])) return &threads_[i];
    return static_cast<Thread*>(nullptr);
  };
  if (const Thread* sleeper = all([](const Thread& x) { return x.wait == Wait::kSleep; }))
    return "thread " + text_of(sleeper->index) +
           " sleeps in __nanosleep for what no thread of its block does; it may " +
           "wait for blocks that began before its own, and for no other";
  const Thread& waiting = *all([&](const Thread& x) { return !has_ended(x); });
  const Warp& warp = warp_of(waiting);
  const Thread* missing = all([&](const Thread& x) {
    if (waiting.wait == Wait::kThreads) return x.wait != waiting.wait;
    if (&warp_of(x) != &warp || (waiting.mask & bit(number_of(x) % kWarp)) == 0) return false;
    return has_ended(x) || x.wait != waiting.wait || x.mask != waiting.mask;
  });
  return describe(waiting, *missing);
}

Multiprocessor multiprocessor;

std::map<const void*, size_t>& shared_limits() {
  static std::map<const void*, size_t> limits;
  return limits;
}

/// What a GPU would say before it begins.
cudaError_t check_limits(const void* kernel, const dim3& grid, const dim3& block, size_t shared) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
    return fail(cudaErrorInvalidConfiguration, "a grid of (%u, %u, %u) blocks; the most are (2147483647, 65535, 65535)",
                grid.x, grid.y, grid.z);
  if (block.x == 0 || block.y == 0 || block.z == 0 || block.x > 1024 || block.y > 1024 || block.z > 64 ||
      uint64_t{block.x} * block.y * block.z > kMostThreads)
    return fail(cudaErrorInvalidConfiguration,
                "a block of (%u, %u, %u) threads; the most are (1024, 1024, 64), 1024 in all", block.x, block.y,
                block.z);
  const auto raised = shared_limits().find(kernel);
  const size_t limit = raised != shared_limits().end() ? raised->second : kSharedLimit;
  if (shared > limit)
    return fail(cudaErrorInvalidValue, "%zu bytes of dynamic shared memory; the most are %zu", shared, limit);
  return cudaSuccess;
}

/// Dynamic shared memory, as large as asked for and no larger.
struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
std::unique_ptr<void, Free> shared_memory;

}  // namespace

cudaError_t launch(const void* kernel, const dim3& grid, const dim3& block, size_t shared,
                   const std::function<void()>& thread) {
  if (const cudaError_t status = check_limits(kernel, grid, block, shared); status != cudaSuccess) return status;
  gridDim = grid, blockDim = block;
  void* memory = nullptr;
  if (shared > 0 && posix_memalign(&memory, 16, shared) != 0) return fail(cudaErrorMemoryAllocation, "out of memory");
  shared_memory.reset(memory);
  Order order;
  std::string failure;
  order.for_each(uint64_t{grid.x} * grid.y * grid.z, [&](uint64_t i) {
    blockIdx = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                static_cast<unsigned>(i / grid.x / grid.y)};
    if (shared > 0) std::memset(memory, 0xff, shared);
    failure = multiprocessor.run_block(thread, order);
    return failure.empty();
  });
  shared_memory.reset();
  if (failure.empty()) return cudaSuccess;
  return fail(cudaErrorLaunchFailure, "block %s, %s", text_of(blockIdx).c_str(), failure.c_str());
}

void* dynamic_shared() {
  return shared_memory.get();
}

cudaError_t set_shared_limit(const void* kernel, size_t bytes) {
  if (bytes > kRaisedSharedLimit)
    return fail(cudaErrorInvalidValue, "%zu bytes of dynamic shared memory; the most are %zu", bytes,
                kRaisedSharedLimit);
  shared_limits()[kernel] = bytes;
  return cudaSuccess;
}

void meet_threads() {
  multiprocessor.meet_threads();
}
uint64_t meet_lanes(Wait wait, unsigned mask, uint64_t bits, unsigned source) {
  return multiprocessor.meet_lanes(wait, mask, bits, source);
}
unsigned lane() {
  return multiprocessor.lane();
}
void sleep() {
  multiprocessor.sleep();
}

}  // namespace cuda_emulator
