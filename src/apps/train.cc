#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "apps/commands.h"
#include "apps/run_file.h"
#include "base/check.h"
#include "train/signals.h"
#include "train/trainer.h"

namespace megalodon::apps {
namespace {

struct TrainCommand {
  RunFileOptions run_file;
  TrainerOptions trainer;
};

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
  add_run_file(*command, options->run_file, common);
  command
      ->add_option("--resume", options->trainer.resume,
                   "auto: continue the run folder's latest checkpoint, if there is one; never: refuse a folder that "
                   "holds a run; "
                   "PATH: start from that checkpoint")
      ->capture_default_str();
  command->add_flag("--dry-run", options->trainer.dry_run,
                    "print the configuration, sizes, memory and a measured step; write nothing");
  command->add_flag("--overfit-batch", options->trainer.overfit_batch,
                    "train on the first batch again and again: the loss must go to 0");
  command->callback([options, command, &common] {
    const config::Overrides overrides = overrides_of(options->run_file, *command, common);
    if (!options->trainer.dry_run) catch_signals_for_good();
    try {
      train(load_run_config(options->run_file.path, overrides), options->trainer, common);
    } catch (const Interrupted&) {
      fmt::print(stderr, "megalodon: interrupted before the first step\n");
      common.exit_code = exit_code(outcome_of_signal());
    }
  });
}

}  // namespace megalodon::apps
