// The subcommands. Each add_*() declares its options, their help and defaults in one place, and what runs when it is
// named.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "base/config.h"
#include "base/human.h"
#include "models/model.h"

namespace megalodon::apps {

/// Options that every command takes.
struct Common {
  int threads = 0;
  int exit_code = 0;  // of a command that ended well
};

void add_train(CLI::App& app, Common& common);
void add_compare(CLI::App& app, Common& common);
void add_generate(CLI::App& app, Common& common);
void add_chat(CLI::App& app, Common& common);
void add_eval(CLI::App& app, Common& common);
void add_data(CLI::App& app, Common& common);
void add_data_tokenize(CLI::App& data_command);
void add_convert(CLI::App& app, Common& common);
void add_quantize(CLI::App& app, Common& common);
void add_inspect(CLI::App& app, Common& common);
void add_bench(CLI::App& app, Common& common);

/// What --tokenizer takes.
inline constexpr const char* kTokenizerHelp =
    "bytes, a SentencePiece file (*.model), a Hugging Face tokenizer.json (BPE), a list of words (*.words), or a "
    "folder "
    "that holds one";

/// Declares --threads. Every command that uses it does, so that its help lists it, and the program itself, so that it
/// may come before the command.
void add_threads(CLI::App& command, Common& common, const char* help = "CPU threads; 0: all cores");

/// Declares --model, as load_text_model() takes it.
void add_model(CLI::App& command, std::string& model);

/// Declares --device, as ops::parse_device() takes it.
void add_device(CLI::App& command, std::string& device);

/// Lets an option take the types of Model::fix(), by their long names or f32 and bf16.
void accept_types(CLI::Option& option);
/// Declares --type, that of the matrices: "" is the model's own.
void add_type(CLI::App& command, std::string& type);
/// Nothing for "".
std::optional<ops::FixedType> chosen_type(const std::string& type);

/// Where a command writes a model: `force` replaces a model, never a folder that holds something else.
void check_model_target(const char* command, const fs::path& target, bool force);

/// For options that count. (CLI11's own check speaks of 9223372036854775807.)
CLI::Validator at_least(int64_t smallest);

/// Sets the number of threads of torch and of the kernels: `threads`, or all cores for 0 (Debian's libtorch would run
/// one).
void use_threads(int threads);

/// To standard output, at once.
void show(std::string_view text);

/// Declares one option --name per visited field (underscores become dashes), with the field's help and default.
void add_fields(CLI::App& command, const config::Visit& visit);

}  // namespace megalodon::apps
