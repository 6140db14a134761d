// Tokenizer files for tests, built byte by byte.
#pragma once

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/sentencepiece_model.h"

namespace megalodon::data {

/// Writes protobuf.
struct Message {
  std::string bytes;

  Message& varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
    bytes += static_cast<char>(value);
    return *this;
  }
  Message& number(uint64_t field, uint64_t value) { return varint(field << 3).varint(value); }
  Message& text(uint64_t field, std::string_view value) {
    varint(field << 3 | 2).varint(value.size());
    bytes += value;
    return *this;
  }
  Message& float32(uint64_t field, float value) {
    varint(field << 3 | 5);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
};

struct ModelFile {
  std::vector<SentencePiece> pieces;
  Message trainer, normalizer;
  std::string more;  // appended

  ModelFile& add(std::string text, float score = 0, SentencePiece::Type type = SentencePiece::kNormal) {
    pieces.push_back({std::move(text), score, type});
    return *this;
  }
  std::string bytes() const {
    Message model;
    for (const SentencePiece& piece : pieces)
      model.text(
          1, Message().text(1, piece.text).float32(2, piece.score).number(3, static_cast<uint64_t>(piece.type)).bytes);
    return model.text(2, trainer.bytes).text(3, normalizer.bytes).bytes + more;
  }
};

/// Llama 2's kind in small: <unk> 0, <s> 1, </s> 2, the bytes 3 to 258, then pieces with falling scores. "▁" is 259.
inline ModelFile small_model() {
  ModelFile file;
  file.add("<unk>", 0, SentencePiece::kUnknown);
  file.add("<s>", 0, SentencePiece::kControl).add("</s>", 0, SentencePiece::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", byte);
    file.add(text, 0, SentencePiece::kByte);
  }
  float score = 0;
  // clang-format off
  for (const char* text : {"▁", "a", "b", "c", "é", "▁▁", "ab", "▁a", "bc", "▁ab", "▁abc"}) file.add(text, score -= 1);
  // clang-format on
  file.trainer.number(3, 2).number(35, 1);
  file.normalizer.number(3, 1).number(4, 0);
  return file;
}

inline nlohmann::ordered_json added_token(int id, const char* content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// The same vocabulary as a tokenizer.json; merges in the order of the scores.
inline nlohmann::ordered_json small_json() {
  auto file = nlohmann::ordered_json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing"},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
      "vocab": {}, "merges": ["▁ ▁", "a b", "▁ a", "b c", "▁ ab", "▁a b", "▁ab c", "▁a bc"]}})");
  int id = 0;
  for (const char* special : {"<unk>", "<s>", "</s>"}) file["added_tokens"].push_back(added_token(id++, special, true));
  id = 0;
  for (const SentencePiece& piece : small_model().pieces) file["model"]["vocab"][piece.text] = id++;
  return file;
}

/// GPT-2's kind in small: the 256 bytes in the order of their values, then "th" 256, "the" 257, " the" 258, "in" 259,
/// "  " 260; <|endoftext|> 261.
inline nlohmann::ordered_json small_byte_level_json() {
  auto file = nlohmann::ordered_json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
      "end_of_word_suffix": "", "fuse_unk": false,
      "vocab": {}, "merges": [["t", "h"], ["th", "e"], ["Ġ", "the"], ["i", "n"], ["Ġ", "Ġ"]]}})");
  auto& vocabulary = file["model"]["vocab"];
  const auto character = [](uint32_t code) {
    std::string text(1, static_cast<char>(code));
    if (code >= 0x80) text = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    return text;
  };
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    vocabulary[character(printable ? byte : next++)] = byte;
  }
  int id = 256;
  for (const char* token : {"th", "the", "Ġthe", "in", "ĠĠ", "<|endoftext|>"}) vocabulary[token] = id++;
  file["added_tokens"].push_back(added_token(261, "<|endoftext|>", true));
  return file;
}

}  // namespace megalodon::data
