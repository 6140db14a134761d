// Classifiers as folders, beside the language models of models/weights.h:
//
//   config.json         {"format": "megalodon.cpp", "format_version": 1, "model_type": "classifier",
//                        "architecture": "mega", "encoder": {<hyperparameters>}, "classifier": {<those of the head>},
//                        "classes": ["negative", "positive"], "tokenizer": {"type": "bytes"}}
//   model.safetensors   parameters, and running statistics under the names of their buffers
#pragma once

#include "models/classifier.h"
#include "models/weights.h"

namespace megalodon {

/// What a folder says of a classifier besides its tensors.
struct ClassifierDescription {
  std::unique_ptr<ModelConfig> encoder;
  ClassifierConfig classifier;
  std::vector<std::string> class_names;                   // none, or one for each class
  nlohmann::ordered_json tokenizer = {{"type", "none"}};  // of tokens, as Tokenizer::describe() says it

  /// With parameters that hold nothing meaningful yet.
  std::unique_ptr<SequenceClassifier> build() const;
};

/// `state` is named_state() of the classifier, or tensors in place of them.
FolderParts classifier_parts(const ClassifierDescription& description, NamedTensors state);

/// Of a model folder. Throws Error for one with a language model.
ClassifierDescription describe_classifier(const fs::path& folder);

struct LoadedClassifier {
  ClassifierDescription description;
  std::unique_ptr<SequenceClassifier> model;  // in evaluation mode
};

/// From model_folder(folder), after verify_model(). Throws Error as describe_classifier() does.
LoadedClassifier load_classifier(const fs::path& folder);

}  // namespace megalodon
