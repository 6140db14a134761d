// A tiny run that the tests of training share.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "data/testing.h"
#include "tests/support/faults.h"
#include "train/run_config.h"
#include "train/signals.h"

namespace megalodon::testing {

/// Sends a signal from outside, as it were, and waits until the SignalGuard has it.
inline void signal_process(int signal) {
  ::kill(::getpid(), signal);
  while (!SignalGuard::stopping()) std::this_thread::yield();
}

/// A folder with a corpus of short documents, different at every byte, and runs on it.
class TrainingTest : public data::CorpusTest {
 protected:
  void SetUp() override {
    data::CorpusTest::SetUp();
    put_corpus("train", 7, 27);
    put_corpus("valid", 3, 40);
  }

  void put_corpus(const std::string& name, int64_t documents, int64_t length) const {
    std::vector<std::vector<int32_t>> tokens(static_cast<size_t>(documents));
    for (int64_t d = 0; d < documents; ++d)
      for (int64_t i = 0; i < length + 5 * d; ++i)
        tokens[static_cast<size_t>(d)].push_back(static_cast<int32_t>(97 + (i * i + 3 * d * i + d) % 13));
    put_documents(name, tokens, 256);
  }

  /// Two layers with dropout; a step is 4 sequences in 2 forward passes, an epoch ends within the fifth step.
  RunConfig tiny_run(const std::string& out) const {
    RunConfig run;
    config::read(*run.model,
                 {{"num_layers", 2},
                  {"model_dim", 16},
                  {"z_dim", 8},
                  {"value_dim", 16},
                  {"num_heads", 2},
                  {"ffn_hidden_dim", 24},
                  {"cema_ndim", 4},
                  {"chunk_size", 8},
                  {"norm_num_groups", 4},
                  {"vocab_size", 256},
                  {"dropout", 0.1},
                  {"hidden_dropout", 0.1},
                  {"attention_dropout", 0.1}},
                 {}, "test");
    run.data.train = {(folder_ / "train").string()};
    run.data.valid = {(folder_ / "valid").string()};
    run.data.seq_len = 16, run.data.batch = 2;
    run.optimizer.lr = 1e-2;
    run.schedule.warmup = 2;
    run.train.steps = 12, run.train.accumulate = 2;
    run.train.out = (folder_ / out).string();
    run.train.eval_tokens = 64;
    run.train.measure_peak = false;
    if (const char* device = std::getenv("MEGALODON_TEST_DEVICE")) run.train.device = device;
    run.train.threads = 1;  // tiny tensors: more threads would only wait for each other
    return run;
  }

 private:
  faults::NoSync fast_;
};

}  // namespace megalodon::testing
