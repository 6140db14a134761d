// Work spread over threads whose results come out in the order in which it went in.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace megalodon {

/// The threads' common ground: items wait for a worker in `todo`, for the consumer in `order`, which is bounded.
template <class Item, class Result>
class OrderedQueue {
 public:
  struct Ticket {
    std::optional<Item> item;
    std::optional<Result> result;
    std::exception_ptr error;
    bool done = false;
  };
  using TicketPointer = std::shared_ptr<Ticket>;

  explicit OrderedQueue(size_t in_flight) : in_flight_(in_flight) {}

  /// False where the consumer has given up.
  bool put(TicketPointer ticket) {
    std::unique_lock lock(mutex_);
    space_.wait(lock, [&] { return stopped_ || order_.size() < in_flight_; });
    if (stopped_) return false;
    if (!ticket->done) todo_.push_back(ticket);
    order_.push_back(std::move(ticket));
    work_.notify_one();
    ready_.notify_one();
    return true;
  }
  void end() {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
    work_.notify_all();
    ready_.notify_all();
  }
  void stop() {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
    space_.notify_all();
    work_.notify_all();
  }
  /// For a worker; null at the end.
  TicketPointer take() {
    std::unique_lock lock(mutex_);
    work_.wait(lock, [&] { return stopped_ || ended_ || !todo_.empty(); });
    if (stopped_ || todo_.empty()) return nullptr;
    TicketPointer ticket = std::move(todo_.front());
    todo_.pop_front();
    return ticket;
  }
  void finished(Ticket& ticket) {
    const std::scoped_lock lock(mutex_);
    ticket.done = true;
    ready_.notify_one();
  }
  /// For the consumer: the next in order, once it is done; null at the end.
  TicketPointer next() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return order_.empty() ? ended_ : order_.front()->done; });
    if (order_.empty()) return nullptr;
    TicketPointer ticket = std::move(order_.front());
    order_.pop_front();
    space_.notify_one();
    return ticket;
  }

 private:
  const size_t in_flight_;
  std::mutex mutex_;
  std::condition_variable space_, work_, ready_;
  std::deque<TicketPointer> todo_, order_;
  bool ended_ = false, stopped_ = false;
};

/// produce() gives items on a thread of its own until it returns std::nullopt, work(item) runs on `threads` threads,
/// and consume(result) on the caller's, in the order of production. So do errors, whichever thread met them: the first
/// in that order is thrown, after every thread has ended. At most `in_flight` items wait at a time, besides those in
/// the hands of a thread. With one thread the caller's does everything.
template <class Produce, class Work, class Consume>
void ordered_pipeline(int threads, size_t in_flight, Produce&& produce, Work&& work, Consume&& consume) {
  using Item = typename std::invoke_result_t<Produce>::value_type;
  using Result = std::invoke_result_t<Work, Item>;
  if (threads <= 1) {
    while (std::optional<Item> item = produce()) consume(work(std::move(*item)));
    return;
  }
  using Queue = OrderedQueue<Item, Result>;
  Queue queue(in_flight);
  std::vector<std::jthread> pool;
  // Declared after the pool, so that it runs before the threads are joined, however this function ends.
  const std::unique_ptr<Queue, void (*)(Queue*)> stop_at_the_end(&queue, [](Queue* q) { q->stop(); });
  pool.emplace_back([&] {
    auto ticket = std::make_shared<typename Queue::Ticket>();
    try {
      while ((ticket->item = produce())) {
        if (!queue.put(std::exchange(ticket, std::make_shared<typename Queue::Ticket>()))) return;
      }
    } catch (...) {
      ticket->error = std::current_exception();
      ticket->done = true;
      if (!queue.put(ticket)) return;
    }
    queue.end();
  });
  for (int i = 0; i < threads; ++i) {
    pool.emplace_back([&] {
      while (const auto ticket = queue.take()) {
        try {
          ticket->result.emplace(work(std::move(*ticket->item)));
        } catch (...) {
          ticket->error = std::current_exception();
        }
        ticket->item.reset();
        queue.finished(*ticket);
      }
    });
  }
  while (const auto ticket = queue.next()) {
    if (ticket->error) std::rethrow_exception(ticket->error);
    consume(std::move(*ticket->result));
  }
}

}  // namespace megalodon
