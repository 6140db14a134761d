#include "apps/run_file.h"

#include <cstddef>
#include <new>

#include "train/signals.h"

namespace megalodon::apps {

void add_run_file(CLI::App& command, RunFileOptions& options, Common& common) {
  command.add_option("run_file", options.path, "a TOML file, see configs/")->required();
  command.add_option("--device", options.device, "cpu, cuda or cuda:N; the same as --train.device");
  add_threads(command, common, "CPU threads; the same as --train.threads");
  command.allow_extras()->fallthrough(false);
  command.footer("Every key of the run file can be given as --section.key=value, which wins over the file:\n\n" +
                 run_config_help());
}

config::Overrides overrides_of(const RunFileOptions& options, const CLI::App& command, const Common& common) {
  config::Overrides overrides = config::parse_overrides(command.remaining());
  if (!options.device.empty()) overrides.emplace("train.device", options.device);
  if (common.threads > 0) overrides.emplace("train.threads", std::to_string(common.threads));
  return overrides;
}

void catch_signals_for_good() {
  alignas(SignalGuard) static std::byte memory[sizeof(SignalGuard)];
  new (memory) SignalGuard;
}

}  // namespace megalodon::apps
