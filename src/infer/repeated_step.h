// The step of a batch, one token for each stream, as a GPU repeats it: recorded once, and one order from then on
// instead of hundreds.
//
// What it reads and writes lies at places of its own: tokens, the table of caches with the positions, the states before
// and after, hidden states and logits. So nothing in it depends on which streams they are. They are copied in and out,
// a few megabytes beside the weights that a step reads; only keys and values are written where streams have them.
#pragma once

#include <memory>
#include <optional>

#include "infer/batch_states.h"
#include "infer/pass.h"
#include "ops/recording.h"

namespace megalodon {

/// Of one model, whose parameters do not change meanwhile and whose ModelInfo says that it repeats its steps.
class RepeatedStep {
 public:
  RepeatedStep(Model& model, ops::Recorder record);
  RepeatedStep(const RepeatedStep&) = delete;
  RepeatedStep& operator=(const RepeatedStep&) = delete;
  ~RepeatedStep();

  struct Result {
    Tensor hidden_BLD, logits_BV;
    std::shared_ptr<const BatchStates> after;
  };
  /// As run_pass(), bit for bit. Nothing, and nothing is done, where the step has to be made by that: the first of as
  /// many rows make what is made once, and of what cannot be recorded there is a warning.
  std::optional<Result> run(const Tensor& tokens_B1, const BatchStates& before,
                            const std::vector<ops::KeyValueRows>& caches);

 private:
  struct Recorded;
  bool is_ready(const BatchStates& before, const std::vector<ops::KeyValueRows>& caches);

  Model& model_;
  ops::Recorder record_;  // null once it has failed
  std::unique_ptr<Recorded> recorded_;
  int64_t made_ = 0;  // steps that run_pass() has made of what recorded_ is for, one after the other
};

}  // namespace megalodon
