// Language models: the next token of token files.
#pragma once

#include <memory>

#include "data/tokenizer.h"
#include "train/task.h"
#include "train/training_data.h"
#include "train/validation.h"

namespace megalodon {

class LanguageModelling final : public Task {
 public:
  explicit LanguageModelling(const RunConfig& config);

  Model& network() override { return *model_; }
  torch::Device device() const override { return model_->device(); }
  void init_weights(uint64_t seed) override { model_->init_weights(seed); }
  FolderParts folder(const NamedTensors& weights) const override;
  void load_weights(const io::TensorFile& file) override;

  bool read(const std::function<bool()>& stop) override;
  int64_t position() const override { return data_.position(); }
  void seek(int64_t position) override { data_.seek(position); }
  int64_t targets() const override { return count_targets(batches_); }
  std::optional<double> backward(const std::function<uint64_t(size_t)>& dropout_key,
                                 const std::function<bool()>& stop) override;
  void settle(Verdict verdict) override;

  bool has_held_out() const override { return !valid_.empty(); }
  std::optional<std::vector<NamedEvaluation>> evaluate(const std::function<bool()>& stop,
                                                       const std::function<void(double)>& progress) override;
  std::string sample(const std::function<bool()>& stop) override;

  void save(FolderParts& parts) const override;
  void load(const fs::path& checkpoint) override;
  nlohmann::ordered_json fixed_data() const override;
  nlohmann::ordered_json held_out_identity() const override { return valid_.identity(); }

  int64_t parameters() const override { return model_->info().parameters; }
  StepSize step_size() const override;
  std::vector<std::string> describe() const override;

 private:
  const RunConfig& config_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  TrainingData data_;
  ValidationSets valid_;
  std::unique_ptr<Model> model_;
  std::vector<BatchTensors> batches_;
  std::optional<StreamCarry> carry_;  // where rows go on from batch to batch: what the next step begins with
  std::optional<StreamCarry> after_;  // the step that backward() computed, until it is settled
};

}  // namespace megalodon
