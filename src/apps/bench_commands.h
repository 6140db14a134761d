// The subcommands of `bench`.
#pragma once

#include "apps/commands.h"

namespace megalodon::apps {

void add_bench_ops(CLI::App& bench, Common& common);
void add_bench_train(CLI::App& bench, Common& common);
void add_bench_decode(CLI::App& bench, Common& common);
void add_bench_prefill(CLI::App& bench, Common& common);

}  // namespace megalodon::apps
