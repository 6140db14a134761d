#include "models/classifier_folder.h"

#include <algorithm>

#include "base/check.h"
#include "io/bytes.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

namespace {

std::vector<std::string> class_names(const Json& tree, int64_t classes, const std::string& path) {
  const auto is_name = [](const Json& name) { return name.is_string(); };
  check(tree.is_array() && std::all_of(tree.begin(), tree.end(), is_name) &&
            (tree.empty() || tree.size() == static_cast<size_t>(classes)),
        "[{}] classes: expected the names of {} classes, or none, got {}", path, classes, tree.dump());
  return tree.get<std::vector<std::string>>();
}

}  // namespace

ClassifierDescription describe_classifier(const fs::path& folder) {
  const std::string path = (folder / "config.json").string();
  const Json tree = read_config_json(folder);
  check(tree["model_type"] == kClassifierType, "[{}] expected a classifier, found a language model, a {}", path,
        tree["model_type"].get<std::string>());
  for (const char* key : {"architecture", "encoder", "classifier", "classes", "tokenizer"})
    check(tree.contains(key), "[{}] {} is missing", path, key);
  check(tree["architecture"].is_string(), "[{}] architecture: expected a name, got {}", path,
        tree["architecture"].dump());
  ClassifierDescription description;
  description.encoder = make_config(tree["architecture"].get<std::string>());
  config::read(*description.encoder, tree["encoder"], {}, path);
  config::read(description.classifier, tree["classifier"], {}, path);
  io::with_context(fmt::format("[{}]", path), [&] {
    description.encoder->validate();
    description.classifier.validate();
  });
  description.class_names = class_names(tree["classes"], description.classifier.classes, path);
  description.tokenizer = tree["tokenizer"];
  return description;
}

std::unique_ptr<SequenceClassifier> ClassifierDescription::build() const {
  return std::make_unique<SequenceClassifier>(classifier, encoder->build_encoder());
}

FolderParts classifier_parts(const ClassifierDescription& description, NamedTensors state) {
  const Json tree = {{"format", "megalodon.cpp"},
                     {"format_version", 1},
                     {"model_type", kClassifierType},
                     {"architecture", description.encoder->architecture()},
                     {"encoder", fields_of(*description.encoder)},
                     {"classifier", config::write(description.classifier)},
                     {"classes", description.class_names},
                     {"tokenizer", description.tokenizer}};
  return {{{"model", std::move(state)}}, {{"config.json", tree.dump(2) + "\n"}}};
}

LoadedClassifier load_classifier(const fs::path& path) {
  return with_model_folder(path, [](const fs::path& folder) {
    verify_model(folder);
    LoadedClassifier loaded{describe_classifier(folder), nullptr};
    loaded.model = loaded.description.build();
    io::with_context(fmt::format("[{}]", folder.string()),
                     [&] { load_state(*loaded.model, io::read_tensors(folder, "model")); });
    loaded.model->eval();
    return loaded;
  });
}

}  // namespace megalodon
