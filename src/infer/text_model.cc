#include "infer/text_model.h"

#include "base/check.h"

namespace megalodon {

TextModel load_text_model(const fs::path& path, torch::Device device, std::optional<ops::FixedType> type) {
  if (!device.is_cpu() && type.value_or(ops::FixedType::kFloat32) != ops::FixedType::kFloat32)
    fail_usage("[--type] on a GPU expected float32, got {}", ops::name_of(*type));
  return with_model_folder(path, [&](const fs::path& folder) {
    LoadedModel loaded = device.is_cpu() ? load_fixed_model(folder, type) : load_model(folder);
    loaded.model->to(device);
    return TextModel{std::move(loaded.model), data::make_tokenizer(loaded.tokenizer, folder)};
  });
}

}  // namespace megalodon
