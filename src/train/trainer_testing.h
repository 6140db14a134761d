// Runs of the trainer that its tests compare.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "train/testing.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace megalodon::testing {

/// Ends a run as a kill does: no error, so that nothing is saved on the way out.
struct Killed {};

class Training : public testing::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    null_ = std::fopen("/dev/null", "w");
  }
  void TearDown() override {
    std::fclose(null_);
    TrainingTest::TearDown();
  }

  /// Of a trainer of language models.
  static Model& model_of(Trainer& trainer) { return dynamic_cast<Model&>(trainer.task().network()); }
  Trainer trainer(const RunConfig& run, const std::string& resume = "auto", bool overfit = false) const {
    return Trainer(run, {.resume = resume, .overfit_batch = overfit, .out = null_});
  }
  Outcome train(const RunConfig& run, const std::string& resume = "auto") const { return trainer(run, resume).run(); }

  /// metrics.jsonl without what a clock or the memory decides.
  static std::vector<nlohmann::ordered_json> records(const RunConfig& run) {
    std::istringstream lines(read_file(fs::path(run.train.out) / "metrics.jsonl"));
    std::vector<nlohmann::ordered_json> list;
    for (std::string line; std::getline(lines, line);) {
      auto record = nlohmann::ordered_json::parse(line);
      for (const char* key : {"tokens_per_s", "examples_per_s", "step_s", "data_wait_s", "save_wait_s", "rss_mb",
                              "peak_rss_mb", "eval_s"})
        record.erase(key);
      list.push_back(record);
    }
    return list;
  }
  /// Targets of the run's first steps.
  static int64_t targets(const RunConfig& run, int64_t steps) {
    const data::ByteTokenizer bytes;
    TrainingData data(run.data, *run.model, bytes, run.train.accumulate, static_cast<uint64_t>(run.train.seed));
    int64_t sum = 0;
    for (int64_t i = 0; i < steps; ++i) sum += count_targets(*data.next());
    return sum;
  }
  static std::string file_of_latest(const RunConfig& run, const char* name) {
    return read_file(*RunFolder(run.train.out).latest() / name);
  }
  static void expect_same_run(const RunConfig& a, const RunConfig& b) {
    EXPECT_EQ(records(a), records(b));
    for (const char* name : {"model.safetensors", "optimizer.safetensors"})
      EXPECT_TRUE(file_of_latest(a, name) == file_of_latest(b, name)) << name << " differs";
  }
  /// With evaluations, samples and checkpoints at steps that do not coincide.
  RunConfig busy_run(const std::string& out) const {
    RunConfig run = tiny_run(out);
    run.train.eval_every = 4, run.train.sample_every = 5, run.train.save_every = 3;
    run.train.sample_tokens = 3;
    return run;
  }

  std::FILE* null_ = nullptr;
};

}  // namespace megalodon::testing
