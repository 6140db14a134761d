// The subcommands of `data`.
#pragma once

#include <string>

#include "apps/commands.h"
#include "data/corpus.h"

namespace megalodon::apps {

void add_data_get(CLI::App& data_command, Common& common);

/// One line a part.
void print_parts(const data::PrepareResult& result, const std::string& output);

inline constexpr const char* kTokenizerHelp =
    "bytes, a SentencePiece .model, a tokenizer.json, or a folder that holds one of them";

}  // namespace megalodon::apps
