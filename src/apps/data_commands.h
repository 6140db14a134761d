// The subcommands of `data`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "data/corpus.h"
#include "data/example_set.h"

namespace megalodon::apps {

void add_data_prepare(CLI::App& data_command, Common& common);
void add_data_words(CLI::App& data_command, Common& common);
void add_data_examples(CLI::App& data_command, Common& common);
void add_data_info(CLI::App& data_command);
void add_data_get(CLI::App& data_command, Common& common);

/// One line a part.
void print_parts(const std::vector<data::WrittenPart>& parts, const std::string& output);

/// A line a part, and what was left out.
void print_examples(const data::ExampleSetResult& result, const std::string& output);

/// Runs `work`, which calls throw_if_stopping() now and then: at SIGINT, SIGTERM or SIGUSR1 it ends with `message`
/// on stderr and the exit code 128 + signal.
void until_signal(Common& common, const char* message, const std::function<void()>& work);

}  // namespace megalodon::apps
