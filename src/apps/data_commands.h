// The subcommands of `data`.
#pragma once

#include <string>

#include "apps/commands.h"
#include "data/corpus.h"

namespace megalodon::apps {

void add_data_prepare(CLI::App& data_command, Common& common);
void add_data_info(CLI::App& data_command);
void add_data_get(CLI::App& data_command, Common& common);

/// One line a part.
void print_parts(const data::PrepareResult& result, const std::string& output);

}  // namespace megalodon::apps
