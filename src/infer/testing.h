// A tokenizer whose tokens the tests choose, as many as the small models of models/testing.h have.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/check.h"
#include "data/tokenizer.h"
#include "infer/sampler.h"
#include "models/testing.h"

namespace megalodon::testing {

/// Words, of which a text takes the longest that fits; one of them is two characters of which the first is a word too,
/// and three are parts of a character.
class WordTokenizer final : public data::Tokenizer {
 public:
  enum : int32_t { kA, kB, kBx, kSpace, kNewline, kEuro1, kEuro2, kEuro3, kUser, kAssistant, kEnd, kC };

  int64_t vocabulary() const override { return std::ssize(words_); }
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> tokens;
    for (size_t at = 0; at < text.size(); at += words_[static_cast<size_t>(tokens.back())].size()) {
      int32_t best = kEnd;
      for (size_t i = 0; i < words_.size(); ++i)
        if (text.substr(at).starts_with(words_[i]) && words_[i].size() > words_[static_cast<size_t>(best)].size())
          best = static_cast<int32_t>(i);
      check(best != kEnd, "[words] no word begins '{}'", text.substr(at));
      tokens.push_back(best);
    }
    return tokens;
  }
  std::string decode(int32_t token) const override { return words_.at(static_cast<size_t>(token)); }
  std::string decode_text(std::span<const int32_t> tokens) const override {
    std::string text;
    for (const int32_t token : tokens) text += decode(token);
    return text;
  }
  data::SpecialTokens special_tokens() const override {
    data::SpecialTokens special;
    special.eos = kEnd;
    return special;
  }
  nlohmann::ordered_json describe() const override { return {{"type", "words"}}; }
  std::string fingerprint() const override { return "words"; }

 private:
  std::vector<std::string> words_ = {"a",        "b", "bx", " ", "\n", "\xE2", "\x82", "\xAC", "U:", "A:",
                                     /*end*/ "", "c", "d",  "e", "f",  "g",    "h",    "i",    "j"};
};

/// Nothing but these tokens is drawn.
inline SamplerConfig only(const std::vector<int32_t>& tokens, SamplerConfig config = {}) {
  for (int32_t token = 0; token < WordTokenizer().vocabulary(); ++token)
    if (std::find(tokens.begin(), tokens.end(), token) == tokens.end())
      config.logit_bias.push_back(fmt::format("{}=-inf", token));
  return config;
}

}  // namespace megalodon::testing
