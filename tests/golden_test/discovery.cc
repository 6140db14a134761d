#include "discovery.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "cases.h"
#include "checkpoint_cases.h"
#include "models/hub.h"
#include "train_cases.h"
#include "transformer_cases.h"

namespace megalodon::golden {
namespace {

const std::map<std::string, void (*)(Pass&)> kKinds = {
    {"timestep_norm", run_timestep_norm},
    {"sequence_norm", run_sequence_norm},
    {"rmsnorm", run_rms_norm},
    {"layernorm", run_layer_norm},
    {"cema", run_cema},
    {"rope", run_rotary},
    {"attention", run_attention},
    {"mega_attention", run_mega_attention},
    {"nffn", run_ffn},
    {"hippo_nplr_init", run_hippo},
    {"s4d_init", run_s4d_init},
    {"s4d_kernel", run_s4d_kernel},
    {"s4_nplr_kernel", run_nplr_kernel},
    {"s4_nplr_setup_C", run_nplr_attunement},
    {"s4_fftconv", run_s4_convolution},
    {"s4_block", run_s4_block},
    {"s4d_layer", run_s4d_layer},
    {"s4d_state_passing", run_s4d_states},
    {"s4_classifier", run_s4_classifier},
    {"rope_scaling", run_rotary_scaling},
    {"rope_interleaved", run_rotary_pairs},
    {"alibi", run_alibi},
    {"llama_block", run_llama_block},
    {"llama_model", run_llama_model},
    {"hf_llama_model", run_hub_model},
    {"mpt_block", run_mpt_block},
    {"mpt_model", run_hub_model},
    {"transformer_encoder_layer", run_torch_stack},
    {"transformer_encoder", run_torch_stack},
    {"transformer_decoder_layer", run_torch_stack},
    {"transformer_decoder", run_torch_stack},
    {"mega_ema", run_moving_average},
    {"mega_ema_incremental", run_moving_average_in_pieces},
    {"mega_norm", run_mega_norm},
    {"mega_nffn", run_mega_ffn},
    {"mega_rel_pos_bias", run_relative_bias},
    {"mega_attention_function", run_score_function},
    {"mega_mga", run_gated_attention},
    {"mega_mga_incremental", run_gated_attention_in_pieces},
    {"mega_gated_cross_attention", run_cross_attention},
    {"mega_encoder_layer", run_mega_layer},
    {"mega_decoder_layer", run_mega_layer},
    {"mega_lm", run_mega_model},
    {"mega_classifier", run_mega_classifier},
    {"mega_encoder_decoder", run_mega_encoder_decoder},
    {"mega_adam_linear_decay", run_mega_optimizer},
    {"model", run_model},
    {"model_bf16", run_model_bf16},
    {"long_inference", run_long_inference},
    {"generation", run_generation},
    {"training", run_training},
};

/// In float32, and in float64 where the file holds float64 results. The optimizer is float32 only.
void run_pair(const fs::path& stem, const std::string& kind, Comparer& comparer) {
  const Case source(stem);
  check(kind.empty() || source.kind() == kind, "[golden] index.json calls the kind {}, the case {}", kind,
        source.kind());
  const auto found = kKinds.find(source.kind());
  check(found != kKinds.end(), "[golden] unknown kind '{}'", source.kind());
  Pass single(source, comparer, torch::kFloat32);
  found->second(single);
  const bool low = target().precision == nn::Precision::kBfloat16;  // which float64 models do not have
  if (low) return source.check_all_compared(comparer, {"out.", "grad."});
  if (source.kind() != "training" && (source.has_prefix("out64.") || source.has_prefix("grad64."))) {
    Pass wide(source, comparer, torch::kFloat64);
    found->second(wide);
  }
  source.check_all_compared(comparer);
}

/// Everything below the folder, sorted.
std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

/// name, kind ("" where there is no index)
std::vector<std::pair<std::string, std::string>> pairs(const fs::path& folder, const std::vector<fs::path>& files) {
  std::vector<std::pair<std::string, std::string>> found;
  if (fs::exists(folder / "index.json")) {
    for (const Json& entry : read_json(folder / "index.json"))
      found.emplace_back(entry.at("file").get<std::string>(), entry.at("kind").get<std::string>());
    return found;
  }
  for (const fs::path& file : files)
    if (file.extension() == ".safetensors" && !is_hub(file.parent_path()))
      found.emplace_back(fs::path(file).replace_extension().lexically_relative(folder).generic_string(), "");
  return found;
}

}  // namespace

std::vector<Check> find_checks(const fs::path& folder) {
  check(fs::is_directory(folder), "[golden] {} is not a folder; MEGALODON_GOLDEN_DIR names it", folder.string());
  const auto files = files_below(folder);
  std::vector<Check> checks;
  std::vector<fs::path> stems;
  for (const auto& [name, kind] : pairs(folder, files)) {
    const fs::path stem = folder / name;
    stems.push_back(stem);
    checks.push_back({name, kind, [stem, kind = kind](Comparer& comparer) { run_pair(stem, kind, comparer); }});
  }
  const auto add = [&](const fs::path& path, const std::string& kind, std::function<void(Comparer&)> run) {
    checks.push_back({path.lexically_relative(folder).generic_string(), kind, std::move(run)});
  };
  for (const fs::path& file : files) {
    if (file.filename() == "lr_schedules.json")
      add(fs::path(file).replace_extension(), "lr_schedules",
          [file](Comparer& comparer) { check_schedules(file, comparer); });
    if (file.filename() == "state_dict_keys.json") {
      const Json tree = read_json(file);
      check(!tree.at("presets").empty(), "[golden] {} holds no configurations", file.string());
      for (const auto& [preset, published] : tree.at("presets").items())
        add(file.parent_path() / preset, "preset", [preset = preset, published = published](Comparer& comparer) {
          check_preset(preset, published, comparer);
        });
    }
    if (file.filename() == "config.json" && is_hub(file.parent_path()))
      add(file.parent_path(), "checkpoint_logits",
          [folder = file.parent_path()](Comparer& comparer) { check_hub_checkpoint(folder, comparer); });
    // Either of the two files makes a folder one, so that a missing one is noticed.
    const fs::path parent = file.parent_path();
    if (file.filename() == "consolidate_config.json" ||
        (file.filename() == "consolidated.pth" && !fs::exists(parent / "consolidate_config.json")))
      add(parent, "checkpoint", [parent, stems](Comparer& comparer) { check_checkpoint(parent, stems, comparer); });
  }
  check(!checks.empty(), "[golden] {} holds no reference data", folder.string());
  return checks;
}

}  // namespace megalodon::golden
