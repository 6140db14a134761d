#include "data/tokenizer.h"

#include <numeric>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/testing.h"
#include "data/tokenizer_testing.h"
#include "data/trie.h"
#include "data/word_cache.h"

namespace megalodon::data {
namespace {

TEST(ByteTokenizer, EveryByteIsATokenAndBack) {
  std::string text(256, '\0');
  std::iota(text.begin(), text.end(), '\0');
  const ByteTokenizer tokenizer;
  const std::vector<int32_t> tokens = tokenizer.encode(text);
  ASSERT_EQ(tokens.size(), 256U);
  std::string back;
  for (int32_t i = 0; i < 256; ++i) {
    EXPECT_EQ(tokens[static_cast<size_t>(i)], i);
    back += tokenizer.decode(i);
  }
  EXPECT_EQ(back, text);
  EXPECT_EQ(tokenizer.decode_text(tokens), text);
  EXPECT_TRUE(tokenizer.encode("").empty());
  expect_contains(error_of([&] { tokenizer.decode(-1); }), {"[0, 256)", "-1"});
  expect_contains(error_of([&] { tokenizer.decode(256); }), {"[0, 256)", "256"});
}

class MakeTokenizer : public FolderTest {
 protected:
  static std::unique_ptr<Tokenizer> from(const std::string& description, const fs::path& folder = "") {
    const auto tree = nlohmann::ordered_json::parse(description);
    return make_tokenizer(tree, folder);
  }
};

TEST_F(MakeTokenizer, Bytes) {
  EXPECT_EQ(make_tokenizer("bytes")->vocabulary(), 256);
  EXPECT_EQ(make_tokenizer(std::string("bytes"))->vocabulary(), 256);
  const nlohmann::ordered_json description = make_tokenizer("bytes")->describe();
  EXPECT_EQ(description.dump(), R"({"type":"bytes"})");
  EXPECT_EQ(make_tokenizer(description, "")->describe(), description);
  EXPECT_EQ(make_tokenizer("bytes")->fingerprint(), "bytes");
  make_tokenizer("bytes")->save(folder_);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(MakeTokenizer, FilesAndFoldersThatHoldThem) {
  const std::string model = small_model().bytes(), json = small_json().dump();
  const std::string config = R"({"chat_template": "T"})";
  for (const bool is_model : {true, false}) {
    const std::string file = is_model ? "tokenizer.model" : "tokenizer.json", text = is_model ? model : json;
    const fs::path given = put(is_model ? "in/other.model" : "in2/other.json", text);
    const auto tokenizer = make_tokenizer(given.string());
    EXPECT_EQ(tokenizer->describe(), (nlohmann::ordered_json{{"type", is_model ? "sentencepiece" : "tokenizer_json"},
                                                             {"file", file},
                                                             {"sha256", sha256_hex(text)},
                                                             {"vocabulary", 270}}));
    EXPECT_EQ(tokenizer->fingerprint(), sha256_hex(text));
    EXPECT_EQ(tokenizer->chat_template(), "");
    // Saved beside a model's config.json, the description finds it again.
    const fs::path saved = folder_ / ("out." + file);
    fs::create_directories(saved);
    tokenizer->save(saved);
    EXPECT_EQ(read_file(saved / file), text);
    EXPECT_EQ(std::distance(fs::directory_iterator(saved), {}), 1);
    EXPECT_EQ(make_tokenizer(tokenizer->describe(), saved)->encode("abc"), tokenizer->encode("abc"));
    EXPECT_EQ(make_tokenizer(saved.string())->describe(), tokenizer->describe());
    // The template travels with it.
    write_file_atomically(saved / "tokenizer_config.json", config);
    const auto with_template = make_tokenizer(saved.string());
    EXPECT_EQ(with_template->chat_template(), "T");
    with_template->save(folder_);
    EXPECT_EQ(read_file(folder_ / "tokenizer_config.json"), config);
    fs::remove(folder_ / "tokenizer_config.json");
  }
}

TEST_F(MakeTokenizer, AnotherFileThanTheOneDescribedIsRefused) {
  put("tokenizer.model", small_model().bytes());
  auto description = make_tokenizer(folder_.string())->describe();
  EXPECT_EQ(make_tokenizer(description, folder_)->vocabulary(), 270);
  put("tokenizer.model", small_model().add("q", -99).bytes());
  expect_contains(error_of([&] { make_tokenizer(description, folder_); }),
                  {"tokenizer.model", description["sha256"].get<std::string>()});
  description.erase("sha256");
  error_of([&] { make_tokenizer(description, folder_); });
  fs::remove(folder_ / "tokenizer.model");
  expect_contains(error_of([&] { make_tokenizer(description, folder_); }), {"tokenizer.model"});
  put("tokenizer.model", std::string(100, 'x'));
  expect_contains(error_of([&] { make_tokenizer(folder_.string()); }), {"tokenizer.model", "no pieces"});
}

TEST_F(MakeTokenizer, ErrorsSayWhatIsExpected) {
  EXPECT_THROW(make_tokenizer("letters"), UsageError);
  expect_contains(error_of([] { make_tokenizer("letters"); }), {"bytes", "letters"});
  expect_contains(error_of([&] { make_tokenizer(folder_.string()); }), {"none of these"});
  expect_contains(error_of([&] { make_tokenizer(put("x.txt", "x").string()); }), {"none of these"});
  expect_contains(error_of([&] { make_tokenizer(put("x.json", "{}").string()); }), {"x.json", "\"model\""});
  expect_contains(error_of([&] { make_tokenizer((folder_ / "none.model").string()); }), {"none.model"});
  for (const char* text :
       {R"({"type":"letters"})", R"({"type":7})", R"({"type":"none"})", "{}", "[]", "null", "\"bytes\""})
    expect_contains(error_of([&] { from(text); }), {"bytes"});
}

TEST(Tokenizers, ManyThreadsAtOnce) {
  const SentencePieceTokenizer tokenizer(small_model().bytes(), "x.model");
  std::vector<std::string> texts;
  for (int i = 0; i < 64; ++i)
    texts.push_back(std::string(static_cast<size_t>(i % 7), ' ') + "abc ca" + std::string(static_cast<size_t>(i), 'b'));
  std::vector<std::vector<int32_t>> expected(texts.size()), got(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) expected[i] = tokenizer.encode(texts[i]);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = t; i < texts.size(); i += 4) got[i] = tokenizer.encode(texts[i]);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(got, expected);
}

TEST(WordCache, RemembersAndForgetsEverythingWhenFull) {
  WordCache cache;
  const auto word = [](int i) { return fmt::format("word{}", i); };
  for (int i = 0; i < 100'000; ++i) {
    const WordCache::Place place = cache.find(word(i));
    ASSERT_FALSE(place.found);
    cache.insert(word(i), std::vector<int32_t>{i, i + 1}, place);
    const WordCache::Place again = cache.find(word(i));
    ASSERT_TRUE(again.found);
    ASSERT_EQ(std::vector<int32_t>(again.tokens.begin(), again.tokens.end()), (std::vector<int32_t>{i, i + 1}));
    ASSERT_LE(cache.size(), 32768U);
  }
  EXPECT_FALSE(cache.find(word(0)).found);
  EXPECT_TRUE(cache.find(word(99'999)).found);
}

TEST(Trie, FindsAllPrefixes) {
  EXPECT_TRUE(Trie().empty());
  EXPECT_EQ(Trie().longest("a").length, 0U);
  const Trie trie({{"ab", 1}, {"a", 0}, {"abcd", 2}, {"b\xFF", 3}});
  std::vector<std::pair<size_t, int32_t>> found;
  trie.prefixes("abcde", [&](size_t length, int32_t value) { found.emplace_back(length, value); });
  EXPECT_EQ(found, (std::vector<std::pair<size_t, int32_t>>{{1, 0}, {2, 1}, {4, 2}}));
  EXPECT_EQ(trie.longest("abcx").value, 1);
  EXPECT_EQ(trie.longest("b\xFFx").value, 3);
  EXPECT_EQ(trie.longest("b").length, 0U);
  EXPECT_EQ(trie.longest("").length, 0U);
}

}  // namespace
}  // namespace megalodon::data
