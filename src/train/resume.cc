#include "train/resume.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "models/weights.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

/// What must stay as it is for a run to continue: all that decides the next gradient besides the checkpoint's tensors.
Json fixed(const RunConfig& config, const Task& task, bool overfit_batch) {
  const Json all = config::write(config);
  Json model = all["model"];
  model.erase("preset");  // the fields it filled are all there
  Json tree = {{"model", model},
               {"data", task.fixed_data()},
               {"train",
                {{"accumulate", config.train.accumulate},
                 {"seed", config.train.seed},
                 {"precision", config.train.precision},
                 {"world_size", 1},  // processes that share the work
                 {"overfit_batch", overfit_batch}}}};
  if (all.contains("classifier")) tree["classifier"] = all["classifier"];
  return tree;
}

/// What changes results in the last bits only.
Json environment() {
  const char* kernels = std::getenv("MEGALODON_KERNELS");
  return {{"threads", at::get_num_threads()},
          {"libtorch", TORCH_VERSION},
          {"MEGALODON_KERNELS", kernels == nullptr ? "" : kernels}};
}

/// What a continued run may do otherwise than before: what decides updates, without what only shows or stores them.
Json settings(const RunConfig& config, const Task& task) {
  const Json all = config::write(config);
  Json train;
  for (const char* key :
       {"steps", "ema_decay", "nonfinite", "skip_loss_z", "skip_grad_z", "max_skips", "z_window", "spike_window",
        "spike_factor", "spike_patience", "eval_every", "eval_tokens", "early_stop_patience", "early_stop_min_delta"})
    train[key] = all["train"].at(key);
  if (config.train.classifies()) train.erase("eval_tokens");  // sets of examples are evaluated whole
  return {{"optim", all["optim"]}, {"train", train}, {"data", {{"valid", task.held_out_identity()}}}};
}

/// With the hyperparameters that came after this checkpoint was written: each with the value that leaves a model as it
/// was, its default.
Json completed(Json saved, const Json& now) {
  static const Json::json_pointer arch("/model/arch");
  if (!saved.contains(arch) || !now.contains(arch) || saved.at(arch) != now.at(arch)) return saved;
  Json model = fields_of(*make_config(now.at(arch).get<std::string>()));
  model.update(saved["model"]);
  saved["model"] = std::move(model);
  return saved;
}

Json setting(const TrainerState& state, const char* pointer) {
  const Json::json_pointer at(pointer);
  return state.settings.contains(at) ? state.settings.at(at) : Json();
}

/// The checkpoint that `latest` names; a newer one that is whole where a crash came between the two, or where `latest`
/// is lost.
std::optional<fs::path> newest_checkpoint(const RunFolder& folder) {
  const auto latest = folder.latest();
  const auto list = folder.list();
  const auto is_latest = [&](const auto& entry) { return latest && entry.second.filename() == latest->filename(); };
  const auto end = std::find_if(list.begin(), list.end(), is_latest);
  const bool elsewhere = end == list.end() && latest && fs::is_directory(*latest);  // under a name of its own
  if (!elsewhere) {
    const auto newer = std::find_if(list.begin(), end, [](const auto& entry) { return is_whole(entry.second); });
    if (newer != end) return newer->second;
  }
  if (latest) verify_checkpoint(*latest);
  check(latest || list.empty(),
        "[--resume] none of the {} checkpoints in '{}' is whole: move the folder away to begin afresh, or name another "
        "with --train.out",
        list.size(), folder.checkpoints().string());
  return latest;
}

bool holds_a_run(const RunFolder& folder) {
  return folder.latest() || !folder.list().empty() || fs::exists(folder.metrics());
}

}  // namespace

TrainerState describe_run(const RunConfig& config, const Task& task, bool overfit_batch) {
  TrainerState state;
  state.fixed = fixed(config, task, overfit_batch);
  state.environment = environment();
  state.settings = settings(config, task);
  return state;
}

std::optional<fs::path> choose_checkpoint(const RunFolder& folder, const std::string& mode) {
  if (mode == "auto") return newest_checkpoint(folder);
  if (mode == "never") {
    check(!holds_a_run(folder),
          "[train.out] '{}' already holds a run: continue it with --resume auto, or name another folder with "
          "--train.out",
          folder.path().string());
    return {};
  }
  check(fs::is_directory(mode), "[--resume] expected auto, never or a checkpoint folder; '{}' does not exist", mode);
  fs::path checkpoint = model_folder(mode);
  if (!checkpoint.has_filename()) checkpoint = checkpoint.parent_path();  // "step-00001000/"
  check(is_of_run(checkpoint, folder) || !holds_a_run(folder),
        "[--resume] '{}' is of another run than '{}', which holds checkpoints or metrics of its own: name another "
        "folder with --train.out",
        checkpoint.string(), folder.path().string());
  verify_checkpoint(checkpoint);
  return checkpoint;
}

bool is_of_run(const fs::path& checkpoint, const RunFolder& folder) {
  const auto canonical = [](const fs::path& path) { return fs::weakly_canonical(fs::absolute(path)); };
  return canonical(checkpoint).parent_path() == canonical(folder.checkpoints());
}

std::string note_of_choice(const RunFolder& folder, const fs::path& chosen) {
  const auto latest = folder.latest();
  if (latest && latest->filename() == chosen.filename()) return "";
  return fmt::format("note: checkpoints/latest {}, {} is the newest checkpoint that is whole",
                     latest ? fmt::format("names {}", latest->filename().string()) : "is missing",
                     chosen.filename().string());
}

bool has_same_headline(const TrainerState& saved, const TrainerState& now) {
  const auto same = [&](const char* pointer) { return setting(saved, pointer) == setting(now, pointer); };
  return same("/data/valid/1/fingerprint") && same("/train/eval_tokens");
}

std::vector<std::string> resume_notes(const TrainerState& saved, const TrainerState& now) {
  std::vector<std::string> notes;
  for (const std::string& difference : differences(saved.settings, now.settings))
    notes.push_back(fmt::format("note: {}, from step {} on", difference, saved.step + 1));
  if (!has_same_headline(saved, now) && setting(now, "/train/early_stop_patience") != 0)
    notes.push_back("note: held-out losses are of another text than before: early stopping begins anew");
  for (const std::string& difference : differences(saved.environment, now.environment))
    notes.push_back(
        fmt::format("note: {}; results may differ from those of an uninterrupted run in the last bits", difference));
  return notes;
}

void check_same_run(const fs::path& checkpoint, const TrainerState& saved, const nlohmann::ordered_json& fixed) {
  const auto list = differences(completed(saved.fixed, fixed), fixed);
  check(list.empty(),
        "[--resume] '{}' cannot be continued with this configuration: {}. Change it back, or start another "
        "run with --train.out",
        checkpoint.string(), fmt::join(list, "; "));
}

}  // namespace megalodon
