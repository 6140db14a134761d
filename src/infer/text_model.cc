#include "infer/text_model.h"

namespace megalodon {

TextModel load_text_model(const fs::path& path, torch::Device device) {
  return with_model_folder(path, [&](const fs::path& folder) {
    LoadedModel loaded = load_model(folder);
    loaded.model->to(device);
    return TextModel{std::move(loaded.model), data::make_tokenizer(loaded.tokenizer, folder)};
  });
}

}  // namespace megalodon
