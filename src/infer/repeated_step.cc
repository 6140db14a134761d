#include "infer/repeated_step.h"

#include "base/check.h"
#include "models/to_device.h"

namespace megalodon {

struct RepeatedStep::Recorded {
  // What it is for. The rest is there once it has been recorded.
  std::shared_ptr<const StateLayout> layout;
  int64_t rows, room;  // room: that the largest cache has, with which grows what is queued

  Tensor tokens_B1, tables_SB3, before, hidden_BLD, logits_BV, after;  // before and after: of the layout
  std::vector<State> before_slots;
  std::vector<ops::KeyValueRows> caches;  // of the step under way
  std::unique_ptr<ops::Recording> recording;

  Recorded(const BatchStates& states, const std::vector<ops::KeyValueRows>& streams)
      : layout(states.layout()), rows(states.rows()), room(room_of(streams)) {}
  bool is_for(const BatchStates& states, const std::vector<ops::KeyValueRows>& streams) const {
    return rows == states.rows() && room == room_of(streams) &&
           (layout == states.layout() || *layout == *states.layout());
  }
  static int64_t room_of(const std::vector<ops::KeyValueRows>& streams) {
    return streams.empty() ? 0 : streams[0].room();
  }

  void allocate(const Model& model, int64_t slots) {
    const auto here = [&](torch::IntArrayRef sizes, torch::ScalarType type) {
      return torch::empty(sizes, torch::TensorOptions().dtype(type).device(model.device()));
    };
    tokens_B1 = here({rows, 1}, torch::kInt64);
    tables_SB3 = here({slots, rows, 3}, torch::kInt64);
    before = here({layout->words()}, torch::kInt32), after = torch::empty_like(before);
    hidden_BLD = here({rows, 1, model.output().weight.size(1)}, torch::kFloat32);
    logits_BV = here({rows, model.config().outputs()}, torch::kFloat32);
    before_slots = layout->read(before);
    for (int64_t slot = 0; slot < slots; ++slot) caches.push_back({{}, {}, tables_SB3[slot]});
  }

  void copy_in(const Tensor& tokens, const BatchStates& states, const std::vector<ops::KeyValueRows>& streams) {
    tokens_B1.copy_(to_device(tokens, tokens_B1.device()));
    states.copy_to(before);
    if (!streams.empty()) tables_SB3.copy_(to_device(ops::key_value_tables(streams), tokens_B1.device()));
    for (size_t slot = 0; slot < streams.size(); ++slot) {
      caches[slot].caches = streams[slot].caches;
      // Where the rows stand is in the tables alone. On the host it would be where they stood when the step was
      // recorded: what reads it there is to be wrong at once, on any device.
      caches[slot].position.assign(static_cast<size_t>(rows), 0);
    }
  }

  /// From and to its places alone.
  void run(Model& model) {
    const PassResult pass = run_pass(model, tokens_B1, before_slots, caches);
    check(StateLayout(pass.after) == *layout, "[engine] a step changed the shapes of the states");
    hidden_BLD.copy_(pass.hidden_BLD);
    logits_BV.copy_(pass.logits_BV);
    layout->write(pass.after, after);
  }

  /// The streams' memory is not held beyond their step.
  void release() {
    for (ops::KeyValueRows& rows_of_slot : caches) rows_of_slot.caches.clear(), rows_of_slot.position.clear();
  }
};

RepeatedStep::RepeatedStep(Model& model, ops::Recorder record) : model_(model), record_(std::move(record)) {}
RepeatedStep::~RepeatedStep() = default;

bool RepeatedStep::is_ready(const BatchStates& before, const std::vector<ops::KeyValueRows>& caches) {
  constexpr int64_t kMadeBefore = 2;  // also, batches of a step or two are not worth it
  if (record_ == nullptr) return false;
  if (recorded_ == nullptr || !recorded_->is_for(before, caches)) {
    recorded_ = std::make_unique<Recorded>(before, caches);
    made_ = 0;
  }
  return recorded_->recording != nullptr || ++made_ > kMadeBefore;
}

std::optional<RepeatedStep::Result> RepeatedStep::run(const Tensor& tokens_B1, const BatchStates& before,
                                                      const std::vector<ops::KeyValueRows>& caches) {
  if (!is_ready(before, caches)) return {};
  Recorded& step = *recorded_;
  if (step.recording == nullptr) step.allocate(model_, std::ssize(caches));
  step.copy_in(tokens_B1, before, caches);
  if (step.recording == nullptr) {
    try {
      step.recording = record_([this, &step] { step.run(model_); });
    } catch (const std::exception& e) {
      TORCH_WARN("the steps of this model are not repeated, and slower: ", e.what());
      record_ = nullptr;
      recorded_ = nullptr;
      return {};
    }
  }
  step.recording->repeat();
  step.release();
  return Result{step.hidden_BLD.clone(), step.logits_BV.clone(),
                std::make_shared<const BatchStates>(step.layout, step.after.clone(), step.rows)};
}

}  // namespace megalodon
