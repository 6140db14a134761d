#include "base/ordered_pipeline.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>

namespace megalodon {
namespace {

/// Counts from 0; work squares them and takes unequally long; any stage may fail at a number.
struct Numbers {
  int count = 300, threads = 4;
  int produce_fails = -1, work_fails = -1, consume_fails = -1;
  std::vector<int> results;
  std::atomic<int> alive = 0;

  std::string error() {
    int next = 0;
    try {
      ordered_pipeline(
          threads, 5,
          [&]() -> std::optional<int> {
            if (next == produce_fails) throw std::runtime_error("produce");
            if (next == count) return std::nullopt;
            ++alive;
            return next++;
          },
          [&](int item) {
            EXPECT_LE(alive.load(), 5 + threads + 2);
            for (volatile int spin = 0; spin < item % 7 * 1000;) spin = spin + 1;
            if (item == work_fails) throw std::runtime_error("work");
            return item * item;
          },
          [&](int result) {
            --alive;
            if (consume_fails >= 0 && result == consume_fails * consume_fails) throw std::runtime_error("consume");
            results.push_back(result);
          });
    } catch (const std::exception& error) {
      return error.what();
    }
    return {};
  }
};

TEST(OrderedPipeline, KeepsTheOrderForAnyNumberOfThreads) {
  for (const int threads : {1, 2, 3, 8}) {
    Numbers numbers;
    numbers.threads = threads;
    EXPECT_EQ(numbers.error(), "");
    ASSERT_EQ(numbers.results.size(), 300U);
    for (int i = 0; i < 300; ++i) EXPECT_EQ(numbers.results[static_cast<size_t>(i)], i * i);
  }
}

TEST(OrderedPipeline, NothingToDo) {
  Numbers numbers;
  numbers.count = 0;
  EXPECT_EQ(numbers.error(), "");
  EXPECT_TRUE(numbers.results.empty());
}

TEST(OrderedPipeline, TheFirstErrorInOrderIsThrownAndWhatCameBeforeItIsConsumed) {
  for (const int threads : {1, 2, 8}) {
    for (const int at : {0, 1, 17, 299}) {
      Numbers producer, worker, consumer;
      producer.threads = worker.threads = consumer.threads = threads;
      producer.produce_fails = at;
      worker.work_fails = at;
      worker.produce_fails = at + 1;  // met earlier by the clock, later in order
      consumer.consume_fails = at;
      EXPECT_EQ(producer.error(), "produce");
      EXPECT_EQ(worker.error(), "work");
      EXPECT_EQ(consumer.error(), "consume");
      for (const Numbers* numbers : {&producer, &worker, &consumer})
        EXPECT_EQ(numbers->results.size(), static_cast<size_t>(at));
    }
  }
}

}  // namespace
}  // namespace megalodon
