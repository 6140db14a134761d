#include <fmt/format.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "apps/commands.h"
#include "base/check.h"
#include "train/signals.h"
#include "train/trainer.h"

namespace megalodon::apps {
namespace {

struct TrainCommand {
  std::string run_file, device;
  TrainerOptions trainer;
};

/// From before the model is loaded to the end of the process, and so without a destructor: a signal that comes when all
/// is done and saved must not turn success into a death by signal.
void catch_signals_for_good() {
  alignas(SignalGuard) static std::byte memory[sizeof(SignalGuard)];
  new (memory) SignalGuard;
}

void train(RunConfig config, const TrainerOptions& options, Common& common) {
  Trainer trainer(std::move(config), options);
  if (options.dry_run) {
    fmt::print("{}\n", trainer.dry_run());
    return;
  }
  const Outcome outcome = trainer.run();
  common.exit_code = exit_code(outcome);
  if (outcome != Outcome::kInterrupted && outcome != Outcome::kPreempted) return;
  // All is saved. A thread that reads ahead from a disk that hangs is not waited for.
  std::fflush(nullptr);
  std::_Exit(common.exit_code);
}

}  // namespace

void add_train(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("train", "Train a model as a run file says");
  auto options = std::make_shared<TrainCommand>();
  command->add_option("run_file", options->run_file, "a TOML file, see configs/")->required();
  command
      ->add_option("--resume", options->trainer.resume,
                   "auto: continue the run folder's latest checkpoint, if there is one; never: refuse a folder that "
                   "holds a run; "
                   "PATH: start from that checkpoint")
      ->capture_default_str();
  command->add_option("--device", options->device, "cpu, cuda or cuda:N; the same as --train.device");
  add_threads(*command, common, "CPU threads; the same as --train.threads");
  command->add_flag("--dry-run", options->trainer.dry_run,
                    "print the configuration, sizes, memory and a measured step; write nothing");
  command->add_flag("--overfit-batch", options->trainer.overfit_batch,
                    "train on the first batch again and again: the loss must go to 0");
  command->allow_extras()->fallthrough(false);  // what is no option here is a key of the run file
  command->footer("Every key of the run file can be given as --section.key=value, which wins over the file:\n\n" +
                  run_config_help());
  command->callback([options, command, &common] {
    config::Overrides overrides = config::parse_overrides(command->remaining());
    if (!options->device.empty()) overrides.emplace("train.device", options->device);
    if (common.threads > 0) overrides.emplace("train.threads", std::to_string(common.threads));
    if (!options->trainer.dry_run) catch_signals_for_good();
    try {
      train(load_run_config(options->run_file, overrides), options->trainer, common);
    } catch (const Interrupted&) {
      fmt::print(stderr, "megalodon: interrupted before the first step\n");
      common.exit_code = exit_code(outcome_of_signal());
    }
  });
}

}  // namespace megalodon::apps
