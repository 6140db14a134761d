// Classifiers: the class of labelled sequences (data/examples.h).
#pragma once

#include <memory>

#include "infer/classify.h"
#include "models/classifier_folder.h"
#include "nn/parameters.h"
#include "train/step_reader.h"
#include "train/task.h"
#include "train/validation.h"

namespace megalodon {

class SequenceClassification final : public Task {
 public:
  /// Throws Error where data.train or data.valid are no sets that the classifier can read, or do not agree.
  explicit SequenceClassification(const RunConfig& config);

  SequenceClassifier& network() override { return *model_; }
  torch::Device device() const override { return device_; }
  void init_weights(uint64_t seed) override { model_->init_weights(seed); }
  FolderParts folder(const NamedTensors& weights) const override;
  void load_weights(const io::TensorFile& file) override { load_state(*model_, file); }

  bool read(const std::function<bool()>& stop) override;
  int64_t position() const override { return reader_.position(); }
  void seek(int64_t position) override { reader_.seek(position); }
  int64_t targets() const override;
  std::optional<double> backward(const std::function<uint64_t(size_t)>& dropout_key,
                                 const std::function<bool()>& stop) override;
  void settle(Verdict verdict) override;

  bool has_held_out() const override { return !valid_.empty(); }
  std::optional<std::vector<NamedEvaluation>> evaluate(const std::function<bool()>& stop,
                                                       const std::function<void(double)>& progress) override;
  std::string sample(const std::function<bool()>&) override { return ""; }

  void save(FolderParts&) const override {}  // all is in the folder
  void load(const fs::path&) override {}
  nlohmann::ordered_json fixed_data() const override;
  nlohmann::ordered_json held_out_identity() const override { return valid_.identity(); }

  int64_t parameters() const override { return nn::count_parameters(*model_); }
  StepSize step_size() const override;
  std::vector<std::string> describe() const override;

 private:
  std::optional<double> backward_all(const std::function<uint64_t(size_t)>& dropout_key,
                                     const std::function<bool()>& stop);

  const RunConfig& config_;
  torch::Device device_;
  data::ExampleFile train_;
  HeldOutSets<data::ExampleFile> valid_;
  StepReader<data::ExampleLoader> reader_;
  ClassifierDescription description_;
  std::vector<TextPart> tokenizer_files_;
  std::unique_ptr<SequenceClassifier> model_;
  std::vector<LabelledBatch> batches_;
  std::vector<Tensor> moved_;  // what backward() made of the network's buffers, until its update is applied
};

}  // namespace megalodon
