#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "apps/commands.h"
#include "apps/run_file.h"
#include "base/check.h"
#include "base/child_process.h"
#include "base/progress.h"
#include "models/families.h"
#include "ops/device.h"
#include "report/comparison.h"
#include "train/checkpoint.h"
#include "train/folder_lock.h"
#include "train/machine.h"
#include "train/signals.h"
#include "train/trainer.h"
#include "train/validation.h"

namespace megalodon::apps {
namespace {

struct CompareCommand {
  RunFileOptions run_file;
  std::vector<std::string> systems;
  int64_t turn = 0;
  bool dry_run = false, report_only = false;
};

/// A system, and how it is trained.
struct Contestant {
  RunConfig run;
  report::System system;

  RunFolder folder() const { return RunFolder(run.train.out); }
  fs::path run_file() const { return run.train.out + ".toml"; }
  fs::path log() const { return run.train.out + ".log"; }
  void read_record() {
    system.run = report::read_run_record(folder().metrics(), split_valid_entries(run.data.valid).front().first);
  }
  void check_same_configuration() const;
};

/// Throws Error listing what is not as it was in the run that its folder holds. All of them being as they are wanted,
/// the systems are trained alike.
void Contestant::check_same_configuration() const {
  if (!fs::exists(folder().config())) return;
  RunConfig was = load_run_config(folder().config(), {});
  was.train.out = run.train.out, was.train.stop_after = run.train.stop_after;
  const auto list = differences(config::write(was), config::write(run));
  check(list.empty(),
        "[compare] '{}' was trained with another configuration: {}; change it back, or use another train.out",
        run.train.out, fmt::join(list, "; "));
}

Contestant contestant(const RunConfig& run, const FittedPreset& preset) {
  Contestant one = {run, {}};
  one.run.arch = preset.config->architecture(), one.run.preset = preset.name, one.run.model = preset.config->clone();
  one.run.train.out = (fs::path(run.train.out) / preset.name).string();
  one.run.train.stop_after = 0;
  one.run.validate();
  one.system.name = preset.name, one.system.architecture = one.run.arch;
  one.system.parameters = preset.info.parameters;
  one.system.training_flops_a_token = 3 * preset.info.mean_forward_flops(run.data.seq_len);
  one.system.state_bytes = preset.info.state_bytes_full;
  one.system.state_bytes_a_token = preset.info.state_bytes_a_token;
  return one;
}

/// The run file's own model says how many parameters and which vocabulary.
std::vector<Contestant> contestants(const RunConfig& run, const std::vector<std::string>& names) {
  const int64_t parameters = run.model->build()->info().parameters;
  std::vector<Contestant> list;
  for (const std::string& name : names) {
    list.push_back(contestant(run, fit_preset(name, run.model->vocabulary(), parameters)));
    for (size_t i = 0; i + 1 < list.size(); ++i)
      if (list[i].system.name == list.back().system.name)
        fail_usage("[compare --arch] {} is there twice", list[i].system.name);
  }
  return list;
}

/// As a shell reads it back.
std::string shell_word(const std::string& text) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

std::string command_line(const CompareCommand& command, const config::Overrides& overrides) {
  std::string text = fmt::format("megalodon compare {} --arch {}", shell_word(command.run_file.path),
                                 shell_word(fmt::format("{}", fmt::join(command.systems, ","))));
  if (command.turn > 0) text += fmt::format(" --turn {}", command.turn);
  for (const auto& [key, value] : overrides) text += " " + shell_word(fmt::format("--{}={}", key, value));
  return text;
}

/// Whether all up to a step is done and saved, evaluation included.
bool has_done(const RunFolder& folder, int64_t step) {
  const auto latest = folder.latest();
  if (!latest) return false;
  const TrainerState state = read_trainer_state(*latest);
  return state.step >= step && !state.evaluation_pending;
}

std::string last_line(const fs::path& log) {
  std::string text = fs::exists(log) ? read_file(log) : "";
  while (text.ends_with('\n')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

class Comparison {
 public:
  Comparison(std::vector<Contestant> list, fs::path out, report::Circumstances made)
      : list_(std::move(list)), out_(std::move(out)), made_(std::move(made)) {}

  /// Each system by `turn` steps, one after the other, until all have `steps`. Returns the program's exit code. Throws
  /// Error at the end where systems failed: the others go on without them.
  int train(int64_t steps, int64_t turn);
  /// Of what the run folders hold. Throws Error where that is nothing.
  void report_what_is_there();

 private:
  void check_and_read();
  int train_to(Contestant& one, int64_t step);
  void tell(const Contestant& one, Progress& progress) const;
  std::vector<report::System> systems() const;
  void write_report() const;
  void report() const;
  void check_none_failed() const;

  std::vector<Contestant> list_;
  fs::path out_;
  report::Circumstances made_;
};

int Comparison::train(int64_t steps, int64_t turn) {
  fs::create_directories(out_);
  const auto lock = lock_folder(out_);
  check_and_read();
  for (const Contestant& one : list_) write_file_atomically(one.run_file(), to_toml(one.run));
  Progress progress("compare", "steps", stdout, Progress::Plain::kNothing);
  const auto systems_count = static_cast<int64_t>(list_.size());
  for (int64_t before = 0; before < steps; before += turn) {
    const int64_t step = std::min(before + turn, steps);
    for (size_t i = 0; i < list_.size(); ++i) {
      Contestant& one = list_[i];
      if (!one.system.failure.empty() || has_done(one.folder(), step)) continue;
      if (SignalGuard::stopping()) return exit_code(outcome_of_signal());
      progress.update(before * systems_count + (step - before) * static_cast<int64_t>(i), steps * systems_count,
                      fmt::format("{} to step {}", one.system.name, step));
      const int code = train_to(one, step);
      one.read_record();
      write_report();
      tell(one, progress);
      if (code == 0) continue;
      progress.print("stopped by a signal; the same command goes on from here");
      return code;
    }
  }
  progress.finish();
  report();
  check_none_failed();
  return 0;
}

void Comparison::check_and_read() {
  for (const Contestant& one : list_) one.check_same_configuration();
  for (Contestant& one : list_) one.read_record();
}

/// In a process of its own, whose memory is then that of this system alone. Signals are passed on to it: it saves.
/// Returns 0, or after a signal the program's exit code. Where it fails, the system says so from then on.
int Comparison::train_to(Contestant& one, int64_t step) {
  // This very program, also where its file was replaced in the meantime.
  ChildProcess child("/proc/self/exe", {"train", one.run_file().string(), fmt::format("--train.stop_after={}", step)},
                     one.log());
  bool told = false;  // once: a second SIGINT ends it with nothing saved
  while (!child.exit_code()) {
    if (SignalGuard::stopping() && !std::exchange(told, true)) child.send(SignalGuard::received());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const int code = *child.exit_code(), interrupted = exit_code(Outcome::kInterrupted);
  const bool stopped = code == interrupted || code == exit_code(Outcome::kPreempted);
  // Before it could catch the signal, it died of it.
  if (SignalGuard::stopping() && (code == 0 || stopped || code == 128 + SignalGuard::received()))
    return exit_code(outcome_of_signal());
  if (code == 0 || stopped) return code;
  one.system.failure = fmt::format("training {} ended with exit code {}: {} (the whole log: {})", one.system.name, code,
                                   last_line(one.log()), one.log().string());
  return 0;
}

void Comparison::tell(const Contestant& one, Progress& progress) const {
  if (!one.system.failure.empty()) return progress.print(one.system.failure);
  const report::RunRecord& run = one.system.run;
  const auto& headline = run.headline();
  progress.print(fmt::format("{}: step {}/{}{}, {} tokens/s", one.system.name, run.steps, one.run.train.steps,
                             headline.empty() ? "" : fmt::format(", held-out loss {:.4f}", headline.back().loss),
                             with_commas(std::llround(run.tokens_per_s))));
}

std::vector<report::System> Comparison::systems() const {
  std::vector<report::System> systems;
  for (const Contestant& one : list_) systems.push_back(one.system);
  return systems;
}

void Comparison::write_report() const {
  const std::vector<report::System> all = systems();
  write_file_atomically(out_ / "compare.csv", to_csv(result_numbers(all)));
  write_file_atomically(out_ / "curves.csv", to_csv(curve_numbers(all)));
  write_file_atomically(out_ / "compare.html", comparison_page(made_, all));
  for (const report::Plot& plot : loss_plots(all))
    write_file_atomically(out_ / (plot.name + ".svg"), to_svg_file(plot));
}

void Comparison::report_what_is_there() {
  check_and_read();
  const bool found =
      std::any_of(list_.begin(), list_.end(), [](const Contestant& one) { return one.system.run.steps > 0; });
  check(found, "[compare] '{}' holds no run of these systems", out_.string());
  report();
}

void Comparison::check_none_failed() const {
  std::vector<std::string> failures;
  for (const Contestant& one : list_)
    if (!one.system.failure.empty()) failures.push_back(one.system.failure);
  check(failures.empty(), "[compare] {}", fmt::join(failures, "; "));
}

void Comparison::report() const {
  write_report();
  fmt::print("{}\n{}\n", to_text(result_table(systems())), (out_ / "compare.html").string());
}

int compare(const CompareCommand& command, const config::Overrides& overrides) {
  const RunConfig run = load_run_config(command.run_file.path, overrides);
  if (run.train.classifies())
    fail_usage(
        "[train.task] compare trains language models side by side, this run file a classifier: train each with "
        "megalodon train and put their metrics.jsonl together");
  if (run.data.valid.empty()) fail_usage("[data.valid] is empty, but held-out losses are what is compared");
  const auto device = ops::parse_device(run.train.device);
  std::vector<Contestant> list = contestants(run, command.systems);
  if (command.dry_run) {
    std::vector<report::System> systems;
    for (const Contestant& one : list) systems.push_back(one.system);
    fmt::print("{}", to_text(size_table(systems)));
    return 0;
  }
  use_threads(static_cast<int>(run.train.threads));
  report::Circumstances made = {"megalodon " MEGALODON_VERSION, describe_machine(device),
                                fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(std::chrono::system_clock::now())),
                                command_line(command, overrides), read_file(command.run_file.path)};
  Comparison comparison(std::move(list), run.train.out, std::move(made));
  if (!command.report_only)
    return comparison.train(run.train.steps, command.turn > 0 ? command.turn : (run.train.steps + 9) / 10);
  comparison.report_what_is_there();
  return 0;
}

}  // namespace

void add_compare(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand(
      "compare",
      "Train several architectures on the same data in the same order, with the same optimizer, tokens a step and "
      "about "
      "the same number of parameters, and compare loss at equal tokens and at equal seconds, speed and memory.\n\n"
      "The run file gives data, optimizer and steps; its [model] gives the number of parameters and the vocabulary. "
      "Each system is trained in a run folder of its own, TRAIN.OUT/NAME, beside NAME.toml and NAME.log. TRAIN.OUT "
      "gets "
      "compare.html, compare.csv, curves.csv and the curves as .svg, written anew after every turn. What was "
      "interrupted goes on where it was.");
  auto options = std::make_shared<CompareCommand>();
  add_run_file(*command, options->run_file, common);
  command
      ->add_option("--arch", options->systems,
                   "the systems: presets, or families of presets (what precedes the size in their names, such as "
                   "llama2), of which the one is taken that has about as many parameters as the run file's model")
      ->delimiter(',')
      ->required();
  command
      ->add_option("--turn", options->turn,
                   "steps that each system trains until it is the next one's turn, so that a slow time of the machine "
                   "is everybody's; 0: a tenth of train.steps")
      ->check(at_least(0))
      ->capture_default_str();
  auto* dry_run = command->add_flag("--dry-run", options->dry_run, "print the systems and their sizes; train nothing");
  command->add_flag("--report-only", options->report_only, "write the report of what is there; train nothing")
      ->excludes(dry_run);
  command->callback([options, command, &common] {
    const config::Overrides overrides = overrides_of(options->run_file, *command, common);
    if (!options->dry_run && !options->report_only) catch_signals_for_good();
    common.exit_code = compare(*options, overrides);
  });
}

}  // namespace megalodon::apps
