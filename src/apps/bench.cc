#include "apps/bench_commands.h"

namespace megalodon::apps {

void add_bench(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("bench", "Measure speed and memory against what the machine can do");
  command->require_subcommand(1);
  add_bench_ops(*command, common);
  add_bench_train(*command, common);
  add_bench_decode(*command, common);
  add_bench_prefill(*command, common);
}

}  // namespace megalodon::apps
