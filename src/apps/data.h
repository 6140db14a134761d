// What the commands under `data` share.
#pragma once

#include <string>

#include "apps/commands.h"
#include "data/corpus.h"

namespace megalodon::apps {

void add_data_get(CLI::App& data_command, Common& common);

/// "corpora/x/train: 12 documents, 3,456 tokens" for every part.
void print_parts(const data::PrepareResult& result, const std::string& output);

inline constexpr const char* kTokenizerHelp =
    "bytes, a SentencePiece .model, a tokenizer.json, or a folder that holds one of them";

}  // namespace megalodon::apps
