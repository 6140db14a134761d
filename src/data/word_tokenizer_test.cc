#include "data/word_tokenizer.h"

#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "data/corpus.h"
#include "data/testing.h"
#include "data/word_list.h"

namespace megalodon::data {
namespace {

using Ids = std::vector<int32_t>;

constexpr const char* kWords = "<unk>\n<eos>\nthe\n,\nsea\n";

TEST(WordTokenizer, WordsLineEndsAndWhatIsNotListed) {
  const WordTokenizer tokenizer(kWords, "x.words");
  EXPECT_EQ(tokenizer.vocabulary(), 5);
  EXPECT_EQ(tokenizer.encode(" the  sea\t,\v\f\r\n\n the whale <unk> <eos>"), (Ids{2, 4, 3, 1, 1, 2, 0, 0, 1}));
  EXPECT_EQ(tokenizer.encode("thesea"), Ids{0});
  EXPECT_EQ(tokenizer.encode("the\u00A0sea"), Ids{0}) << "a no-break space is part of a word";
  EXPECT_EQ(tokenizer.encode("sea"), Ids{4});
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_TRUE(tokenizer.encode(" \t ").empty());
  EXPECT_FALSE(tokenizer.encodes_in_pieces());
  EXPECT_EQ(tokenizer.special_tokens().unk, 0);
  EXPECT_FALSE(tokenizer.special_tokens().eos) << "the end of a line is none of a document";
}

TEST(WordTokenizer, TextComesBackAsWords) {
  const WordTokenizer tokenizer(kWords, "x.words");
  EXPECT_EQ(tokenizer.decode(2), " the");
  EXPECT_EQ(tokenizer.decode(0), " <unk>");
  EXPECT_EQ(tokenizer.decode(1), "\n");
  EXPECT_EQ(tokenizer.decode_text(Ids{2, 4, 1, 1, 3, 0, 1}), "the sea\n\n, <unk>\n");
  EXPECT_EQ(tokenizer.decode_text({}), "");
  const Ids ids = {1, 3, 2, 1, 0, 0, 1};
  EXPECT_EQ(tokenizer.encode(tokenizer.decode_text(ids)), ids);
  expect_contains(error_of([&] { tokenizer.decode(5); }), {"[0, 5)", "5"});
  expect_contains(error_of([&] { tokenizer.decode(-1); }), {"[0, 5)", "-1"});
}

TEST(WordTokenizer, WithoutSpecialWords) {
  const WordTokenizer tokenizer("the\nsea", "x.words");  // the last line needs no end
  EXPECT_EQ(tokenizer.encode("the\nsea\n"), (Ids{0, 1}));
  EXPECT_EQ(tokenizer.decode_text(Ids{0, 1}), "the sea");
  EXPECT_FALSE(tokenizer.special_tokens().unk);
  expect_contains(error_of([&] { tokenizer.encode("the whale\x01"); }), {"x.words", "whale\\x01", "<unk>"});
}

TEST(WordTokenizer, FilesThatAreNoListsAreRefused) {
  const auto error = [](std::string file) { return error_of([&] { WordTokenizer(std::move(file), "x.words"); }); };
  expect_contains(error(""), {"x.words", "no words"});
  expect_contains(error("the\n\nsea\n"), {"x.words", "line 2", "empty"});
  expect_contains(error("\n"), {"line 1", "empty"});
  expect_contains(error("the\nsea\nblue sea\n"), {"line 3", "white space", "blue sea"});
  expect_contains(error("the\r\nsea\r\n"), {"line 1", "white space", "the\\r"});
  expect_contains(error("the\nsea\nthe\n"), {"line 3", "'the'", "line 1"});
  expect_contains(error("the\n" + std::string(1025, 'a')), {"line 2", "1024", "1025"});
  EXPECT_EQ(WordTokenizer(std::string(1024, 'a'), "x.words").vocabulary(), 1);
}

class WordLists : public FolderTest {
 protected:
  WordList list(WordListOptions options) const {
    options.inputs = {folder_ / "in"};
    return list_words(options);
  }
};

TEST_F(WordLists, AreTokenizersThatModelFoldersKeep) {
  const fs::path file = put("sea.words", kWords);
  const auto tokenizer = make_tokenizer(file.string());
  EXPECT_EQ(tokenizer->describe(),
            (nlohmann::ordered_json{
                {"type", "words"}, {"file", "tokenizer.words"}, {"sha256", sha256_hex(kWords)}, {"vocabulary", 5}}));
  fs::create_directory(folder_ / "model");
  tokenizer->save(folder_ / "model");
  EXPECT_EQ(make_tokenizer(tokenizer->describe(), folder_ / "model")->encode("the sea"), (Ids{2, 4}));
  EXPECT_EQ(make_tokenizer((folder_ / "model").string())->fingerprint(), sha256_hex(kWords));
}

TEST_F(WordLists, ComeByFrequencyAndThenByBytes) {
  put("in/a.txt", "b a\tc a\nb  d é b\r\n<unk>");
  put("in/b.jsonl", "{\"text\": \"d Z\\n\"}\n{\"text\": \"c\"}\n");
  const WordList all = list({});
  EXPECT_EQ(all.file, "b\na\nc\nd\n<unk>\nZ\né\n");
  EXPECT_EQ(all.listed, 7);
  EXPECT_EQ(all.distinct, 7);
  EXPECT_EQ(all.words, 12);
  EXPECT_EQ(all.left_out, 0);
  EXPECT_EQ(all.line_ends, 3);
  EXPECT_EQ(list({.unknown = true, .line_end = true}).file, "<unk>\n<eos>\nb\na\nc\nd\nZ\né\n");
  const WordList few = list({.min_count = 2, .unknown = true});
  EXPECT_EQ(few.file, "<unk>\nb\na\nc\nd\n");
  EXPECT_EQ(few.left_out, 2) << "<unk> in the text is listed";
  EXPECT_EQ(list({.max_words = 3, .unknown = true, .line_end = true}).file, "<unk>\n<eos>\nb\n");
  EXPECT_EQ(list({.max_words = 5}).file, "b\na\nc\nd\n<unk>\n") << "the text's own <unk> will do";
  expect_contains(error_of([&] { list({.min_count = 2}); }), {"3 words", "<unk>", "--unk"});
}

TEST_F(WordLists, AnEosOfTheTextsIsNoWord) {
  put("in/a.txt", "a <eos> a\n<eos> b <eos>\n");
  const WordList words = list({.unknown = true});
  EXPECT_EQ(words.file, "<unk>\na\nb\n");
  EXPECT_EQ(words.left_out, 3);
  EXPECT_EQ(WordTokenizer(words.file, "x.words").encode("a <eos>\nb"), (Ids{1, 0, 2})) << "line ends are white space";
  EXPECT_EQ(list({.line_end = true}).file, "<eos>\na\nb\n");
  EXPECT_EQ(list({.line_end = true}).left_out, 0);
  expect_contains(error_of([&] { list({}); }), {"3 words", "--unk", "--eos"});
}

TEST_F(WordLists, HaveRoomForWhatComesFirst) {
  put("in/a.txt", "a");
  EXPECT_EQ(list({.max_words = 2, .unknown = true, .line_end = true}).file, "<unk>\n<eos>\n");
  EXPECT_THROW(list({.max_words = 1, .unknown = true, .line_end = true}), UsageError);
  WordListOptions options{.inputs = {folder_ / "absent"}, .max_words = 1, .unknown = true, .line_end = true};
  expect_contains(error_of([&] { list_words(options); }), {"--max-words", "2 at least", "got 1"});
}

TEST_F(WordLists, AreNoLongerThanATokenizerOpens) {
  put("in/a.txt", "bb a a");
  EXPECT_EQ(list({.most_words = 2, .most_bytes = 5}).file, "a\nbb\n");
  expect_contains(error_of([&] { list({.most_words = 1}); }), {"at most 1 words", "--max-words", "--min-count"});
  expect_contains(error_of([&] { list({.most_bytes = 4}); }), {"4 bytes", "--max-words", "--min-count"});
  EXPECT_EQ(list({.max_words = 2, .unknown = true, .most_words = 2}).file, "<unk>\na\n");
}

TEST_F(WordLists, CountWordsAcrossPiecesOfAText) {
  const std::string filler(999, ' ');
  std::string text;
  while (text.size() < (size_t{3} << 20)) text += filler + "whale" + filler + "sea\n";
  put("in/long.txt", text + std::string(2000, 'x') + " end");
  const WordList words = list({.unknown = true});
  EXPECT_EQ(words.file, "<unk>\nsea\nwhale\nend\n");
  EXPECT_EQ(words.left_out, 1) << "the word that is too long";
  EXPECT_EQ(words.words, 2 * words.line_ends + 2);
}

TEST_F(WordLists, BadInputsAreRefused) {
  put("in/a.txt", " \n \n");
  expect_contains(error_of([&] { list({}); }), {"no words"});
  put("in/b.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"a\"}\n");
  expect_contains(error_of([&] { list({}); }), {"b.jsonl:2", "text"});
}

TEST_F(WordLists, CorporaAreMadeOfThem) {
  put("in/a.txt", "the sea\nthe whale\n");
  const WordTokenizer tokenizer(list({.unknown = true, .line_end = true}).file, "x.words");
  PrepareOptions options;
  options.inputs = {folder_ / "in"}, options.output = folder_ / "out";
  prepare(options, tokenizer);
  EXPECT_EQ(all_tokens(TokenFile(folder_ / "out")), (std::vector<int64_t>{2, 3, 1, 2, 4, 1}));
  EXPECT_EQ(TokenFile(folder_ / "out").tokenizer()["sha256"], tokenizer.fingerprint());
}

}  // namespace
}  // namespace megalodon::data
