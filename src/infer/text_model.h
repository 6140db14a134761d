// A model together with the tokenizer that its folder names: what reads and writes text.
#pragma once

#include <memory>

#include "data/tokenizer.h"
#include "models/fixed_model.h"

namespace megalodon {

struct TextModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<data::Tokenizer> tokenizer;
};

/// load_fixed_model() and the tokenizer of the same folder, both of one checkpoint where `path` is a run that goes on.
/// Throws Error where the tokenizer's file is not the one that config.json describes, or is not there.
TextModel load_text_model(const fs::path& path, torch::Device device = torch::kCPU,
                          std::optional<ops::FixedType> type = {});

}  // namespace megalodon
