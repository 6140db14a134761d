// What the commands that train share: a run file, its keys as options, and signals.
#pragma once

#include <string>

#include "apps/commands.h"
#include "train/run_config.h"

namespace megalodon::apps {

struct RunFileOptions {
  std::string path, device;
};

/// Declares the run file, --device, --threads and, in the help, every key; what is no option of the command is one.
void add_run_file(CLI::App& command, RunFileOptions& options, Common& common);

/// What the command line says in place of the run file, for load_run_config().
config::Overrides overrides_of(const RunFileOptions& options, const CLI::App& command, const Common& common);

/// From before the model is loaded to the end of the process, and so without a destructor: a signal that comes when all
/// is done and saved must not turn success into a death by signal.
void catch_signals_for_good();

}  // namespace megalodon::apps
