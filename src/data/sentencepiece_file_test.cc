// SentencePiece models that break a rule.
#include <cmath>

#include "base/philox.h"
#include "data/sentencepiece_normalizer.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/testing.h"
#include "data/tokenizer_testing.h"

namespace megalodon::data {
namespace {

std::string model_rejection(const std::string& bytes) {
  return error_of([&] { parse_sentencepiece_model(bytes, "x.model"); });
}

// ---- character replacements

/// A double array for rules of one byte each, in the place where its label leads.
std::string charsmap(const std::vector<std::pair<char, std::string>>& rules) {
  // The root's children are at 256 ^ label, their leaves at 512 + label.
  std::vector<uint32_t> units(1024, 0);
  const uint32_t root = 256;
  units[0] = root << 10;
  std::string replacements;
  for (const auto& [from, to] : rules) {
    const auto label = static_cast<unsigned char>(from);
    const uint32_t at = root ^ label, leaf = 512 + label;
    units[at] = label | 1U << 8 | (at ^ leaf) << 10;
    units[leaf] = 1U << 31 | static_cast<uint32_t>(replacements.size());
    replacements += to + '\0';
  }
  const auto size = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof(size));
  bytes.append(reinterpret_cast<const char*>(units.data()), size);
  return bytes + replacements;
}

TEST(SentencePieceNormalizer, AppliesRules) {
  SentencePieceModel model;
  model.charsmap = charsmap({{'A', "a"}, {'\t', " "}, {'!', ""}, {'2', "bb"}});
  model.remove_extra_whitespaces = false;
  EXPECT_EQ(SentencePieceNormalizer(model).normalize("A\t2!x"), " a bbx");
  EXPECT_EQ(SentencePieceNormalizer(model).normalize("!"), " ");
  EXPECT_EQ(SentencePieceNormalizer(model).normalize(""), "");
  model.remove_extra_whitespaces = true;
  EXPECT_EQ(SentencePieceNormalizer(model).normalize("\t A \t\t2 \xFF \t"), " a bb \xEF\xBF\xBD");
  EXPECT_EQ(SentencePieceNormalizer(model).normalize(" \t "), "");
  model.whitespace_as_suffix = true;
  EXPECT_EQ(SentencePieceNormalizer(model).normalize("A"), "a ");
  model.add_dummy_prefix = false;
  EXPECT_EQ(SentencePieceNormalizer(model).normalize("A"), "a");
  model.pieces = {{"A!", 0, SentencePiece::kUserDefined}};
  EXPECT_EQ(SentencePieceNormalizer(model).normalize("A!A"), "A!a");
}

TEST(SentencePieceNormalizer, DamagedRulesAreRefusedOrHarmless) {
  EXPECT_EQ(charsmap_problem(charsmap({{'A', "a"}})), "");
  expect_contains(charsmap_problem("abc"), {"4 bytes"});
  expect_contains(charsmap_problem(std::string("\xFF\xFF\xFF\x7F", 4) + "abcd"), {"whole units within the 4 bytes"});
  expect_contains(charsmap_problem(std::string("\0\0\0\0", 4) + "abcd"), {"whole units"});
  expect_contains(charsmap_problem(std::string("\x04\0\0\0", 4) + "abcd"), {"zero byte"});
  expect_contains(charsmap_problem(std::string("\x04\0\0\0", 4) + "abcdef"), {"zero byte"});
  const std::string trie("\x04\0\0\0....", 8), zero(1, '\0');
  EXPECT_EQ(charsmap_problem(trie + std::string(256, 'a') + zero + "b" + zero), "");
  expect_contains(charsmap_problem(trie + "b" + zero + std::string(257, 'a') + zero), {"at most 256 bytes", "257"});
  const std::string whole = charsmap({{'A', "a"}, {'b', "xyz"}});
  for (uint64_t i = 0; i < 3000; ++i) {
    SentencePieceModel model;
    model.charsmap = whole;
    const Philox4 random = philox(derive_key(9, 0), i);
    for (int flip = 0; flip < 3; ++flip)
      model.charsmap[4 + random[static_cast<size_t>(flip)] % (whole.size() - 5)] =
          static_cast<char>(random[3] >> (8 * flip));
    ASSERT_EQ(charsmap_problem(model.charsmap), "");
    EXPECT_LT(SentencePieceNormalizer(model).normalize("AAbb\xE2\x96\x81 \xFF").size(), 100'000U);
  }
}

// ---- files

TEST(SentencePieceFile, ErrorsNameTheFileTheByteAndTheRule) {
  const auto with = [](auto change) {
    ModelFile file = small_model();
    change(file);
    return model_rejection(file.bytes());
  };
  EXPECT_EQ(parse_sentencepiece_model(small_model().bytes(), "x.model").pieces.size(), 270U);
  expect_contains(with([](ModelFile& f) { f.add(""); }), {"x.model", "byte ", "piece 270", "empty"});
  expect_contains(with([](ModelFile& f) { f.add(std::string(1 << 20, 'a')); }), {"piece 270", "1024 bytes", "1048576"});
  expect_contains(with([](ModelFile& f) { f.add("\xFF"); }), {"piece 270", "UTF-8"});
  expect_contains(with([](ModelFile& f) { f.add("ab"); }), {"piece 270", "same as piece 265"});
  expect_contains(with([](ModelFile& f) { f.add("q", NAN); }), {"finite", "nan"});
  expect_contains(with([](ModelFile& f) { f.add("q", INFINITY); }), {"finite", "inf"});
  expect_contains(with([](ModelFile& f) { f.add("q", 0, static_cast<SentencePiece::Type>(7)); }), {"[1, 6]", "7"});
  expect_contains(with([](ModelFile& f) { f.add("q", 0, SentencePiece::kControl); }), {"longer than one character"});
  expect_contains(with([](ModelFile& f) { f.add("q r", 0, SentencePiece::kUserDefined); }), {"U+2581"});
  expect_contains(with([](ModelFile& f) { f.add("qr", 0, SentencePiece::kUnused); }), {"piece 270", "unused"});
  expect_contains(with([](ModelFile& f) { f.add("<u>", 0, SentencePiece::kUnknown); }), {"pieces 0 and 270"});
  expect_contains(with([](ModelFile& f) { f.add("<0x1>", 0, SentencePiece::kByte); }), {"piece 270", "<0x0A>"});
  expect_contains(with([](ModelFile& f) {
                    f.pieces[70].text = "q";
                    f.pieces[70].type = SentencePiece::kNormal;
                  }),
                  {"no piece <0x43>"});
  expect_contains(with([](ModelFile& f) { f.pieces[0].type = SentencePiece::kNormal; }), {"there is none"});
  expect_contains(with([](ModelFile& f) { f.pieces.clear(); }), {"no pieces"});
  expect_contains(with([](ModelFile& f) { f.trainer.number(3, 3); }), {"unigram (1) or BPE (2)", "got type 3"});
  expect_contains(with([](ModelFile& f) { f.trainer.number(35, 0); }), {"piece 3 is a byte"});
  expect_contains(with([](ModelFile& f) { f.trainer.text(44, "\xFF"); }), {"unknown token"});
  expect_contains(with([](ModelFile& f) { f.normalizer.number(5, 0); }), {"escape_whitespaces"});
  expect_contains(with([](ModelFile& f) { f.normalizer.text(2, "abc"); }), {"character replacements", "4 bytes"});
  expect_contains(with([](ModelFile& f) { f.more = Message().text(5, Message().text(2, "x").bytes).bytes; }),
                  {"denormalization"});
}

TEST(SentencePieceFile, BrokenProtobuf) {
  expect_contains(model_rejection(""), {"no pieces"});
  expect_contains(model_rejection("\x0A\x05"
                                  "ab"),
                  {"byte 2", "expected 5 bytes, 2 follow"});
  expect_contains(model_rejection("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"), {"truncated"});
  expect_contains(model_rejection(std::string(11, '\xFF')), {"byte 0", "64 bits"});
  expect_contains(model_rejection("\x03"), {"byte 0", "field number"});
  expect_contains(model_rejection("\x0B"), {"wire type"});
  expect_contains(model_rejection("\x08\x01"), {"field 1", "wire type 2, got 0"});
  expect_contains(model_rejection(std::string("\x0A\x02\x0A\x00\xFF", 5)), {"byte 2", "piece 0", "empty"});
}

TEST(SentencePieceFile, EveryCutIsRefusedOrReadable) {
  ModelFile file;
  file.add("<unk>", 0, SentencePiece::kUnknown).add("▁", -1).add("a", -1).add("aa", -2);
  file.trainer.number(3, 2);
  const std::string bytes = file.bytes();
  int accepted = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    try {
      const SentencePieceTokenizer tokenizer(bytes.substr(0, size), "x.model");
      EXPECT_FALSE(tokenizer.encode("aaa b").empty());
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_LT(accepted, 10);  // the ends of the messages
}

TEST(SentencePieceFile, DamageNeverCrashes) {
  const std::string bytes = small_model().bytes();
  int accepted = 0;
  for (uint64_t i = 0; i < 2000; ++i) {
    std::string damaged = bytes;
    const Philox4 random = philox(derive_key(3, 1), i);
    damaged[random[0] % damaged.size()] = static_cast<char>(random[1]);
    damaged[random[2] % damaged.size()] = static_cast<char>(random[3]);
    try {
      const SentencePieceTokenizer tokenizer(damaged, "x.model");
      tokenizer.decode_text(tokenizer.encode("abc  é\xFF€"));
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 50);
  EXPECT_LT(accepted, 1900);
}

}  // namespace
}  // namespace megalodon::data
