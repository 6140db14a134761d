#include <fmt/format.h>

#include <cstdio>
#include <iostream>

#include "apps/commands.h"
#include "base/check.h"
#include "base/json.h"
#include "base/utf8.h"
#include "data/tokenizer.h"

namespace megalodon::apps {
namespace {

struct TokenizeOptions {
  std::string tokenizer;
  bool decode = false, json = false;
};

void write_line(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
  check(std::ferror(stdout) == 0, "[data tokenize] standard output was closed");
}

std::string encode_line(const data::Tokenizer& tokenizer, std::string text, bool json, const std::string& where) {
  if (json) {
    const auto value = parse_json(text, where);
    check(value.is_string(), "[{}] expected a JSON string", where);
    text = value.get<std::string>();
  }
  fmt::memory_buffer line;
  line.push_back('[');
  for (const int32_t token : tokenizer.encode(text))
    fmt::format_to(std::back_inserter(line), "{}{}", line.size() == 1 ? "" : ", ", token);
  line.push_back(']');
  return fmt::to_string(line);
}

std::string decode_line(const data::Tokenizer& tokenizer, const std::string& text, bool json,
                        const std::string& where) {
  const auto value = parse_json(text, where);
  check(value.is_array(), "[{}] expected a JSON array of ids", where);
  std::vector<int32_t> tokens;
  for (const auto& id : value) {
    check(id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(tokenizer.vocabulary()),
          "[{}] expected ids in [0, {}), got {}", where, tokenizer.vocabulary(), id.dump());
    tokens.push_back(id.get<int32_t>());
  }
  std::string decoded = tokenizer.decode_text(tokens);
  return json ? nlohmann::json(decoded).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) : decoded;
}

void run_tokenize(const TokenizeOptions& options) {
  std::ios::sync_with_stdio(false);
  const auto tokenizer = data::make_tokenizer(options.tokenizer);
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const std::string where = fmt::format("standard input, line {}", number);
    write_line(options.decode ? decode_line(*tokenizer, line, options.json, where)
                              : encode_line(*tokenizer, std::move(line), options.json, where));
  }
}

}  // namespace

void add_data_tokenize(CLI::App& data_command) {
  auto* command = data_command.add_subcommand(
      "tokenize", "Lines of text on standard input to lines of token ids ([1, 2, 3]) on standard output, or back");
  auto options = std::make_shared<TokenizeOptions>();
  command->add_option("--tokenizer", options->tokenizer, kTokenizerHelp)->required();
  command->add_flag("--decode", options->decode, "read ids and print text");
  command->add_flag("--json", options->json, "texts are JSON strings, so that they may hold line ends");
  command->callback([options] { run_tokenize(*options); });
}

}  // namespace megalodon::apps
