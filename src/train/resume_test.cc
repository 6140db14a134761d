#include "train/resume.h"

#include "train/trainer_testing.h"

namespace megalodon {
namespace {

class Resume : public testing::Training {
 protected:
  void SetUp() override {
    Training::SetUp();
    RunConfig run = tiny_run("run");
    run.train.stop_after = 2;
    train(run);
    checkpoint_ = *RunFolder(run.train.out).latest();
    saved_ = read_trainer_state(checkpoint_);
  }

  fs::path checkpoint_;
  TrainerState saved_;
};

TEST_F(Resume, WhatDecidesTheNextGradientMustBeTheSame) {
  EXPECT_NO_THROW(check_same_run(checkpoint_, saved_, saved_.fixed));
  // Each leaf of the description, the number of processes and the tokenizer among them.
  const auto leaves = saved_.fixed.flatten();
  int64_t known = 0;
  for (const auto& [pointer, value] : leaves.items()) {
    auto other = saved_.fixed;
    other[nlohmann::ordered_json::json_pointer(pointer)] =
        value.is_number() ? nlohmann::ordered_json(value.get<double>() + 1) : "other";
    const std::string error = error_of([&] { check_same_run(checkpoint_, saved_, other); });
    std::string name = pointer.substr(1);
    std::replace(name.begin(), name.end(), '/', '.');
    expect_contains(error, {"--resume", checkpoint_.string(), name + " is ", "--train.out"});
    for (const char* key : {"train.world_size", "data.batch", "train.accumulate", "data.train.1.fingerprint",
                            "data.tokenizer.type", "model.dropout", "train.seed", "train.precision"})
      known += name == key;
  }
  EXPECT_EQ(known, 8);
}

TEST_F(Resume, AHyperparameterThatTheCheckpointDoesNotKnowHasItsDefault) {
  TrainerState older = saved_;
  ASSERT_EQ(older.fixed["model"].erase("rope_base"), 1U);
  EXPECT_NO_THROW(check_same_run(checkpoint_, older, saved_.fixed));
  auto now = saved_.fixed;
  now["model"]["rope_base"] = 7.0;
  expect_contains(error_of([&] { check_same_run(checkpoint_, older, now); }), {"model.rope_base is 7"});
  older.fixed["model"]["gone"] = 1;
  expect_contains(error_of([&] { check_same_run(checkpoint_, older, saved_.fixed); }), {"model.gone is absent"});
}

TEST_F(Resume, WhatDecidesOnlyTheLastBitsIsStated) {
  EXPECT_TRUE(resume_notes(saved_, saved_).empty());
  for (const char* key : {"threads", "libtorch", "MEGALODON_KERNELS"}) {
    TrainerState now = saved_;
    now.environment[key] = "other";
    const auto notes = resume_notes(saved_, now);
    ASSERT_EQ(notes.size(), 1U);
    expect_contains(notes[0], {"note", key, "is \"other\"", "last bits"});
  }
}

}  // namespace
}  // namespace megalodon
