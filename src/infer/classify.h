// What a classifier makes of labelled sequences.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/example_loader.h"
#include "models/classifier.h"

namespace megalodon {

struct LabelledBatch {
  Sequences first, second;  // the second of pairs only
  Tensor labels_B;          // int64
};
LabelledBatch to_tensors(const data::ExampleBatch& batch, int64_t width);

/// Throws Error where the set is none that the classifier can read, naming it, what was expected and what was found.
void check_examples(const data::ExampleFile& file, const SequenceClassifier& model);

/// Of a set of examples.
struct Classification {
  double loss = 0;  // mean of −log p(label), nats
  int64_t classes = 0, examples = 0, correct = 0;
  /// [classes, classes]: how many of class i were taken for class j; empty unless asked for. What follows accuracy() is
  /// read of it.
  std::vector<int64_t> confusion = {};

  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(examples); }
  int64_t of_class(int64_t label) const;
  /// Of those of a class, the part that was found; of those taken for it, the part that is. 0 where there are none.
  double recall(int64_t label) const;
  double precision(int64_t label) const;
};

struct ClassificationOptions {
  int64_t batch = 1;
  bool confusion = false;
  std::function<void(int64_t done, int64_t total)> progress = {};  // examples
  std::function<bool()> stop = {};                                 // polled between batches
  /// Called with every example in order and the logarithms of its classes' probabilities.
  std::function<void(int64_t example, std::span<const float> log_p)> each = {};
};

/// In order, in evaluation mode. None if it was stopped. Throws Error as check_examples() does.
std::optional<Classification> classify(SequenceClassifier& model, const data::ExampleFile& file,
                                       const ClassificationOptions& options);

}  // namespace megalodon
