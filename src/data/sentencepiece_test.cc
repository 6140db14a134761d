#include <cmath>

#include "base/philox.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/testing.h"
#include "data/tokenizer_testing.h"

namespace megalodon::data::sentencepiece_test {
namespace {

using Ids = std::vector<int32_t>;

SentencePieceTokenizer tokenizer_of(const ModelFile& file) {
  return {file.bytes(), "x.model"};
}

int32_t id_of(const ModelFile& file, std::string_view text) {
  for (size_t id = 0; id < file.pieces.size(); ++id)
    if (file.pieces[id].text == text) return static_cast<int32_t>(id);
  ADD_FAILURE() << text;
  return -1;
}

// ---- ids, worked out by hand from the scores

TEST(SentencePieceBpe, MergesByScore) {
  const ModelFile file = small_model();
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  const auto ids = [&](std::initializer_list<const char*> pieces) {
    Ids result;
    for (const char* piece : pieces) result.push_back(id_of(file, piece));
    return result;
  };
  EXPECT_EQ(tokenizer.encode(""), Ids());
  EXPECT_EQ(tokenizer.encode("a"), ids({"▁a"}));
  // ab (-7) before ▁a (-8) and bc (-9); then ▁ab, then ▁abc.
  EXPECT_EQ(tokenizer.encode("abc"), ids({"▁abc"}));
  EXPECT_EQ(tokenizer.encode("bc"), ids({"▁", "bc"}));
  EXPECT_EQ(tokenizer.encode("cabc abc"), ids({"▁", "c", "ab", "c", "▁abc"}));
  // Of the spaces before "a" the two first ones join (-6) before ▁a (-8).
  EXPECT_EQ(tokenizer.encode(" a"), ids({"▁▁", "a"}));
  EXPECT_EQ(tokenizer.encode("  a"), ids({"▁▁", "▁a"}));
  EXPECT_EQ(tokenizer.encode("   "), ids({"▁▁", "▁▁"}));
  EXPECT_EQ(tokenizer.encode("▁a"), tokenizer.encode(" a"));
}

TEST(SentencePieceBpe, UnknownCharactersAreSpelledInBytes) {
  const SentencePieceTokenizer tokenizer = tokenizer_of(small_model());
  const int32_t space = 259, e_acute = 263;
  EXPECT_EQ(tokenizer.encode("é"), (Ids{space, e_acute}));
  EXPECT_EQ(tokenizer.encode("x"), (Ids{space, 3 + 'x'}));
  EXPECT_EQ(tokenizer.encode("€"), (Ids{space, 3 + 0xE2, 3 + 0x82, 3 + 0xAC}));
  EXPECT_EQ(tokenizer.encode(std::string_view("\0", 1)), (Ids{space, 3}));
  // What looks like a control or byte piece is text.
  EXPECT_EQ(tokenizer.encode("<s>"), (Ids{space, 3 + '<', 3 + 's', 3 + '>'}));
  // Ill-formed bytes become U+FFFD, one for each.
  const Ids replacement = {3 + 0xEF, 3 + 0xBF, 3 + 0xBD};
  EXPECT_EQ(tokenizer.encode("\xFF"), (Ids{space, replacement[0], replacement[1], replacement[2]}));
  EXPECT_EQ(tokenizer.encode("\xE2\x82").size(), 7U);
}

TEST(SentencePieceBpe, WithoutBytesUnknownCharactersBecomeOneToken) {
  ModelFile file;
  file.add("<unk>", 0, SentencePiece::kUnknown).add("▁", -1).add("a", -2).add("xa", -3);
  file.trainer.number(3, 2);
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer.encode("?!"), (Ids{1, 0}));
  EXPECT_EQ(tokenizer.encode("?!a?€ ?"), (Ids{1, 0, 2, 0, 1, 0}));
  // "x" is no piece, but "xa" is.
  EXPECT_EQ(tokenizer.encode("xa"), (Ids{1, 3}));
  EXPECT_EQ(tokenizer.encode("xax"), (Ids{1, 3, 0}));
  EXPECT_EQ(tokenizer.decode(0), " \xE2\x81\x87 ");
  EXPECT_EQ(tokenizer.special_tokens().bos, std::nullopt);
  EXPECT_EQ(tokenizer.special_tokens().unk, 0);
}

TEST(SentencePieceBpe, EqualScoresMergeFromTheLeft) {
  ModelFile file;
  file.add("<unk>", 0, SentencePiece::kUnknown).add("a", 0).add("aa", -1).add("▁", 0);
  file.trainer.number(3, 2);
  EXPECT_EQ(tokenizer_of(file).encode("aaa"), (Ids{3, 2, 1}));
  EXPECT_EQ(tokenizer_of(file).encode("aaaa"), (Ids{3, 2, 2}));
}

TEST(SentencePieceBpe, UserDefinedPiecesAreCutOutFirst) {
  ModelFile file = small_model();
  const int32_t bc = static_cast<int32_t>(file.pieces.size());
  file.add("bcb", 0, SentencePiece::kUserDefined).add("bcbc", 0, SentencePiece::kUserDefined);
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer.encode("abcb"), (Ids{id_of(file, "▁a"), bc}));
  EXPECT_EQ(tokenizer.encode("abcbc"), (Ids{id_of(file, "▁a"), bc + 1}));
  EXPECT_EQ(tokenizer.decode(bc), "bcb");
}

/// Plain merging: no cutting, no memory, no heap.
Ids merge_plainly(const ModelFile& file, std::string_view text) {
  std::vector<std::string> symbols = {" "};
  for (const char c : text) symbols.emplace_back(1, c);
  std::map<std::string, std::pair<float, int32_t>> pieces;
  for (size_t id = 0; id < file.pieces.size(); ++id)
    if (file.pieces[id].type == SentencePiece::kNormal)
      pieces[unmark_spaces(file.pieces[id].text)] = {file.pieces[id].score, static_cast<int32_t>(id)};
  while (true) {
    size_t best = 0;
    float score = -INFINITY;
    for (size_t i = 1; i < symbols.size(); ++i) {
      const auto found = pieces.find(symbols[i - 1] + symbols[i]);
      if (found == pieces.end() || found->second.first <= score) continue;
      best = i;
      score = found->second.first;
    }
    if (best == 0) break;
    symbols[best - 1] += symbols[best];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best));
  }
  Ids ids;
  for (const std::string& symbol : symbols) {
    const auto found = pieces.find(symbol);
    ids.push_back(found == pieces.end() ? 3 + static_cast<unsigned char>(symbol[0]) : found->second.second);
  }
  return ids;
}

TEST(SentencePieceBpe, CuttingAndRememberingChangeNothing) {
  ModelFile file = small_model();
  // A piece with a space inside and one across a space: words must not be cut there.
  file.add("c▁", -0.5F).add("a▁a", -20).add("ca", -3.5F).add("bca", -2.5F);
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  for (uint64_t round = 0; round < 3000; ++round) {
    std::string text;
    const Philox4 first = philox(derive_key(1, 2), round * 100);
    for (uint64_t i = 0; i <= first[0] % 90; ++i) text += "aabbcc  x"[philox(derive_key(1, 2), round * 100 + i)[1] % 9];
    ASSERT_EQ(tokenizer.encode(text), merge_plainly(file, text)) << text;
  }
}

TEST(SentencePieceBpe, LongWordsTakeNoSquare) {
  const ModelFile file = small_model();
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  std::string text;
  for (int i = 0; i < 350'000; ++i) text += "abc";  // a million characters without a place to cut
  const Ids ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), 1 + 2 * (350'000U - 1));
  EXPECT_EQ(ids[0], id_of(file, "▁abc"));
  EXPECT_EQ(ids[1], id_of(file, "ab"));
  EXPECT_EQ(tokenizer.decode_text(ids), text);
}

TEST(SentencePieceUnigram, TakesTheBestSum) {
  ModelFile file;
  file.add("<unk>", 0, SentencePiece::kUnknown).add("▁", -2).add("a", -1).add("b", -1).add("ab", -1.5F).add("ba", -9);
  file.add("▁a", -2.5F).add("unused", -1, SentencePiece::kUnused);
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{1, 4}));       // ▁+ab -3.5, as much as ▁a+b, which is found later
  EXPECT_EQ(tokenizer.encode("bab"), (Ids{1, 3, 4}));   // ▁+b+ab -4.5
  EXPECT_EQ(tokenizer.encode("  a  "), (Ids{6}));       // extra spaces go by default
  EXPECT_EQ(tokenizer.encode("a?!b"), (Ids{6, 0, 3}));  // neighbouring unknown characters are one token
  EXPECT_EQ(tokenizer.encode("unused"), (Ids{1, 0}));
  EXPECT_EQ(tokenizer.encode("   "), Ids());
}

TEST(SentencePieceUnigram, SpellsInBytesWhereTheModelDoes) {
  ModelFile file = small_model();
  file.trainer.number(3, 1);
  EXPECT_EQ(tokenizer_of(file).encode("a€"), (Ids{259, 260, 3 + 0xE2, 3 + 0x82, 3 + 0xAC}));
}

// ---- decoding

TEST(SentencePieceDecode, WholeTexts) {
  const ModelFile file = small_model();
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  for (const std::string text : {"", " ", "abc", "  abc  ca", "héllo €\n\t", "a\xF0\x9F\x98\x80"})
    EXPECT_EQ(tokenizer.decode_text(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.decode_text(Ids{1, 259, 260, 2}), "a");
  EXPECT_EQ(tokenizer.decode_text(Ids{259, 259, 260}), " a");
  EXPECT_EQ(tokenizer.decode_text(Ids{0}), " \xE2\x81\x87 ");
  EXPECT_EQ(tokenizer.decode_text(Ids{3 + 0xE2, 3 + 0x82}), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.decode_text(Ids{3 + 0xE2, 260}),
            "\xEF\xBF\xBD"
            "a");
}

TEST(SentencePieceDecode, SingleTokensContinueAText) {
  const ModelFile file = small_model();
  const SentencePieceTokenizer tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer.decode(id_of(file, "▁ab")), " ab");
  EXPECT_EQ(tokenizer.decode(3 + 0xE2), "\xE2");
  EXPECT_EQ(tokenizer.decode(1), "");
  expect_contains(error_of([&] { tokenizer.decode(-1); }), {"[0, 270)", "-1"});
  expect_contains(error_of([&] { tokenizer.decode(270); }), {"[0, 270)", "270"});
  error_of([&] { tokenizer.decode_text(Ids{5, 1 << 30}); });
  EXPECT_EQ(tokenizer.special_tokens().bos, 1);
  EXPECT_EQ(tokenizer.special_tokens().eos, 2);
  EXPECT_EQ(tokenizer.special_tokens().pad, std::nullopt);
}

}  // namespace
}  // namespace megalodon::data::sentencepiece_test
