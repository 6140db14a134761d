#include "train/task.h"

#include "train/classification.h"
#include "train/language_modelling.h"

namespace megalodon {

std::unique_ptr<Task> make_task(const RunConfig& config) {
  if (config.train.classifies()) return std::make_unique<SequenceClassification>(config);
  return std::make_unique<LanguageModelling>(config);
}

}  // namespace megalodon
