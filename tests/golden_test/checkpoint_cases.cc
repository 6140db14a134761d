#include "checkpoint_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/temporary_folder.h"
#include "model_cases.h"
#include "models/convert.h"
#include "models/published.h"
#include "models/weights.h"

namespace megalodon::golden {
namespace {

/// Not trained: rotary frequencies and priors.
bool is_buffer(const std::string& name) {
  return name == "rope.freqs" || name.find(".prior_") != std::string::npos;
}

/// What makes two tensors different, or "". A buffer of the second may be wider than that of the first: published
/// bfloat16 checkpoints hold rounded frequencies, ours never do.
std::string view_difference(const io::TensorView& a, const io::TensorView& b) {
  if (is_buffer(a.name) && a.dtype != b.dtype && a.shape == b.shape) {
    const Tensor narrowed = to_tensor(b).to(to_torch(a.dtype));
    return torch::equal(to_tensor(a), narrowed) ? "" : a.name + ": other values";
  }
  if (a.dtype != b.dtype || a.shape != b.shape)
    return fmt::format("{}: {} {} against {} {}", a.name, io::dtype_name(a.dtype), io::shape_text(a.shape),
                       io::dtype_name(b.dtype), io::shape_text(b.shape));
  return std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end()) ? "" : a.name + ": other bytes";
}

/// The stems of the model cases with this configuration and these weights.
std::vector<fs::path> cases_of(const MegalodonConfig& config, const io::TensorFile& state,
                               const std::vector<fs::path>& stems) {
  std::vector<fs::path> found;
  for (const fs::path& stem : stems) {
    const std::string kind = read_json(fs::path(stem) += ".json").value("kind", "");
    if (kind != "model" && kind != "model_bf16") continue;
    const Case source(stem);
    if (config::write(read_config(source.config(), "case")) == config::write(config) &&
        difference(source.parameters(), state).empty())
      found.push_back(stem);
  }
  return found;
}

void compare_logits(const fs::path& stem, Model& loaded, Comparer& comparer) {
  torch::NoGradGuard no_grad;
  NoCarry carry;
  const Case source(stem);
  const std::string name = stem.filename().string();
  const ModelInput input{source.tensor("in.tokens"), {}};
  const Tensor logits_BLV = loaded.logits(input, carry);
  comparer.equal("logits against the weights of " + name, logits_BLV, build_model(source)->logits(input, carry));
  if (source.kind() == "model_bf16")
    inform_logits(source, comparer, logits_BLV);
  else
    comparer.near("out.logits of " + name, logits_BLV, source.tensor("out.logits"), source.output_tolerance());
}

/// "embed.weight [32000, 1024]" of everything that is trained, once.
std::set<std::string> published_parameters(const Json& keys) {
  std::set<std::string> result;
  for (const Json& entry : keys)
    if (entry.at("kind") == "parameter")
      result.insert(entry.at("key").get<std::string>() + " " +
                    io::shape_text(entry.at("shape").get<std::vector<int64_t>>()));
  return result;
}

}  // namespace

std::string difference(const io::TensorFile& a, const io::TensorFile& b) {
  for (const auto& view : a.tensors()) {
    const io::TensorView* other = b.find(view.name);
    if (other == nullptr) return view.name + " is in the first only";
    if (const std::string text = view_difference(view, *other); !text.empty()) return text;
  }
  for (const auto& view : b.tensors())
    if (a.find(view.name) == nullptr) return view.name + " is in the second only";
  return "";
}

void check_checkpoint(const fs::path& folder, const std::vector<fs::path>& stems, Comparer& comparer) {
  const io::TensorFile state = io::read_torch_file(folder / "consolidated.pth");
  const MegalodonConfig config =
      read_config(read_json(folder / "config.json").at("model"), (folder / "config.json").string());

  TemporaryFolder temporary;
  convert(folder, temporary / "imported");
  const LoadedModel loaded = load_model(temporary / "imported");
  loaded.model->to(target().device);
  loaded.model->set_precision(target().precision);
  comparer.require(config::write(read_config(read_json(folder / "config.json").at("model"), "checkpoint")) ==
                       config::write(dynamic_cast<const MegalodonConfig&>(loaded.model->config())),
                   "configuration", "of the imported model is not that of the checkpoint");
  const auto matching = cases_of(config, state, stems);
  comparer.require(!matching.empty(), "logits",
                   "cannot be compared: no model case has this configuration and these weights");
  for (const fs::path& stem : matching) compare_logits(stem, *loaded.model, comparer);

  convert(temporary / "imported", temporary / "exported");
  comparer.require(is_published(temporary / "exported"), "export", "is not a published folder");
  const std::string exported = difference(state, io::read_torch_file(temporary / "exported" / "consolidated.pth"));
  comparer.require(exported.empty(), "exported state dict", "differs from the original: " + exported);
  convert(temporary / "exported", temporary / "again");
  const std::string again = difference(io::read_safetensors(temporary / "imported" / "model.safetensors"),
                                       io::read_safetensors(temporary / "again" / "model.safetensors"));
  comparer.require(again.empty(), "weights after export and import", "differ: " + again);
}

void check_preset(const std::string& name, const Json& published, Comparer& comparer) {
  const auto config = make_preset(name);
  comparer.require(config::write(read_config(published.at("config"), name)) ==
                       config::write(dynamic_cast<const MegalodonConfig&>(*config)),
                   "configuration", "is not the published one");
  // Parameters are allocated but never written, so even the largest costs no memory.
  const auto model = config->build();
  std::set<std::string> ours;
  int64_t count = 0;
  for (const auto& [key, tensor] : named_weights(*model)) {
    ours.insert(key + " " + io::shape_text({tensor.sizes().data(), tensor.sizes().size()}));
    count += tensor.numel();
  }
  std::vector<std::string> different;
  const auto theirs = published_parameters(published.at("keys"));
  std::set_symmetric_difference(ours.begin(), ours.end(), theirs.begin(), theirs.end(), std::back_inserter(different));
  comparer.require(different.empty(), "parameters",
                   different.empty()
                       ? ""
                       : fmt::format("differ in {} names and shapes, the first: {}", different.size(), different[0]));
  const auto expected = published.at("trainable_parameters").get<int64_t>();
  comparer.require(count == expected, "trainable parameters", fmt::format("are {}, expected {}", count, expected));
  comparer.require(model->info().parameters == expected, "ModelInfo::parameters",
                   fmt::format("is {}, expected {}", model->info().parameters, expected));
}

}  // namespace megalodon::golden
