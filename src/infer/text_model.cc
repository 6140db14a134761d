#include "infer/text_model.h"

namespace megalodon {

TextModel load_text_model(const fs::path& path, torch::Device device, std::optional<ops::FixedType> type) {
  return with_model_folder(path, [&](const fs::path& folder) {
    LoadedModel loaded = load_fixed_model(folder, type, device);
    return TextModel{std::move(loaded.model), data::make_tokenizer(loaded.tokenizer, folder)};
  });
}

}  // namespace megalodon
