#include "base/philox.h"
#include "data/json_tokenizer.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/testing.h"
#include "data/tokenizer_testing.h"

namespace megalodon::data::tokenizer_json_test {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::ordered_json;

JsonTokenizer tokenizer_of(const Json& file, const std::string& config = "") {
  return {file.dump(), "x.json", config.empty() ? TokenizerConfig() : parse_tokenizer_config(config, "c.json")};
}

template <class Change>
std::string rejection(Json file, const Change& change) {
  change(file);
  return error_of([&] { parse_tokenizer_json(file.dump(), "x.json"); });
}

// ---- Llama 2's kind: the same as the SentencePiece model it was made from

TEST(JsonLlama, IdsAndTextAreThoseOfTheModel) {
  const JsonTokenizer json = tokenizer_of(small_json());
  const SentencePieceTokenizer model(small_model().bytes(), "x.model");
  EXPECT_EQ(json.vocabulary(), model.vocabulary());
  for (uint64_t round = 0; round < 2000; ++round) {
    std::string text;
    const Philox4 first = philox(derive_key(4, 2), round * 100);
    for (uint64_t i = 0; i < first[0] % 60; ++i)
      text += std::vector<const char*>{"a", "b", "c", "a", " ", " ", "é", "▁", "x", "😀", "<s>", "\xFF"}
          [philox(derive_key(4, 2), round * 100 + i)[1] % 12];
    const Ids ids = model.encode(text);
    ASSERT_EQ(json.encode(text), ids) << text;
    ASSERT_EQ(json.decode_text(ids), model.decode_text(ids)) << text;
    for (const int32_t id : ids) ASSERT_EQ(json.decode(id), model.decode(id));
  }
  EXPECT_EQ(json.special_tokens().bos, 1);
  EXPECT_EQ(json.special_tokens().eos, 2);
  EXPECT_EQ(json.special_tokens().unk, 0);
  EXPECT_EQ(json.special_tokens().pad, std::nullopt);
}

TEST(JsonLlama, DecodesAsTheFileSays) {
  const JsonTokenizer json = tokenizer_of(small_json());
  EXPECT_EQ(json.decode_text(Ids{1, 259, 260, 0, 2}), "a");  // special tokens are skipped
  // A run of bytes that is not UTF-8 is U+FFFD byte by byte, the good ones among them too.
  EXPECT_EQ(json.decode_text(Ids{3 + 'q', 3 + 0xE2, 260}),
            "\xEF\xBF\xBD\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(json.decode_text(Ids{3 + 0xC3, 3 + 0xA9}), "é");
  EXPECT_EQ(json.decode(3 + 0xE2), "\xE2");
  error_of([&] { json.decode(270); });
  error_of([&] { json.decode(-1); });
  Json file = small_json();
  file["decoder"]["decoders"].erase(3);
  EXPECT_EQ(tokenizer_of(file).decode_text(Ids{259, 260}), " a");
  file["normalizer"] = file["normalizer"]["normalizers"][1];
  EXPECT_EQ(tokenizer_of(file).encode("a b"), (Ids{260, 259, 261}));
}

TEST(JsonLlama, AddedTokensAreCutOut) {
  Json file = small_json();
  file["added_tokens"].push_back(added_token(270, "ca", false));
  file["added_tokens"].push_back(added_token(271, "caa", false));
  const JsonTokenizer json = tokenizer_of(file);
  EXPECT_EQ(json.vocabulary(), 272);
  // Each part between them is a text of its own, with its own space before.
  EXPECT_EQ(json.encode("acaab"), (Ids{266, 271, 259, 261}));
  EXPECT_EQ(json.encode("cac"), (Ids{270, 259, 262}));
  EXPECT_EQ(json.decode_text(Ids{266, 270}), "aca");
}

TEST(JsonLlama, WithoutBytesUnknownCharactersAreOneTokenOrMany) {
  Json file = small_json();
  file["model"]["byte_fallback"] = false;
  EXPECT_EQ(tokenizer_of(file).encode("xy a"), (Ids{259, 0, 266}));
  file["model"]["fuse_unk"] = false;
  EXPECT_EQ(tokenizer_of(file).encode("xy a"), (Ids{259, 0, 0, 266}));
}

// ---- GPT-2's kind

TEST(JsonGpt2, IdsByHand) {
  const JsonTokenizer json = tokenizer_of(small_byte_level_json());
  EXPECT_EQ(json.vocabulary(), 262);
  EXPECT_EQ(json.encode(""), Ids());
  EXPECT_EQ(json.encode("the"), (Ids{257}));
  EXPECT_EQ(json.encode("in the thin"), (Ids{259, 258, ' ', 256, 259}));
  // The last space of a run belongs to the word, the others stand alone: no merge crosses.
  EXPECT_EQ(json.encode("a  the"), (Ids{'a', ' ', 258}));
  EXPECT_EQ(json.encode("a   the"), (Ids{'a', 260, 258}));
  EXPECT_EQ(json.encode("a   "), (Ids{'a', 260, ' '}));
  EXPECT_EQ(json.encode("é"), (Ids{0xC3, 0xA9}));
  EXPECT_EQ(json.encode(std::string_view("\0", 1)), (Ids{0}));
  // A special token's text is text.
  EXPECT_EQ(json.encode("<|endoftext|>").size(), 13U);
  EXPECT_EQ(json.decode(261), "");
  EXPECT_EQ(json.special_tokens().eos, 261);
}

TEST(JsonGpt2, EveryByteStringComesBack) {
  const JsonTokenizer json = tokenizer_of(small_byte_level_json());
  for (uint64_t round = 0; round < 500; ++round) {
    std::string text, back;
    for (uint64_t i = 0; i < 40; ++i) {
      const Philox4 random = philox(derive_key(8, 2), round * 100 + i);
      text += random[0] % 3 == 0 ? static_cast<char>(random[1]) : "the in'  "[random[1] % 9];
    }
    for (const int32_t id : json.encode(text)) back += json.decode(id);
    ASSERT_EQ(back, text);
  }
  EXPECT_EQ(json.decode_text(Ids{0xE2, 0x82, 'a'}),
            "\xEF\xBF\xBD"
            "a");  // one for a part of a character
}

TEST(JsonGpt2, PrefixSpaceAndAddedTokens) {
  Json file = small_byte_level_json();
  file["pre_tokenizer"]["add_prefix_space"] = true;
  file["added_tokens"].push_back(added_token(262, "[X Y]", false));
  const JsonTokenizer json = tokenizer_of(file);
  EXPECT_EQ(json.encode("the"), (Ids{258}));
  EXPECT_EQ(json.encode(" the"), (Ids{258}));
  EXPECT_EQ(json.encode("the[X Y]the"), (Ids{258, 262, 258}));
  EXPECT_EQ(json.decode(262), "[X Y]");
}

TEST(JsonGpt2, LongLinesTakeNoSquare) {
  const JsonTokenizer json = tokenizer_of(small_byte_level_json());
  for (const std::string unit : {"t", " ", "the", "é", "1", "!", "\xFF", "the "}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    std::string back;
    for (const int32_t id : json.encode(text)) back += json.decode(id);
    ASSERT_EQ(back, text) << unit;
  }
}

TEST(WordSplitter, CutsAsGpt2Does) {
  const WordSplitter splitter;
  const auto words = [&](std::string_view text) {
    WordSplitter::Scratch scratch;
    std::vector<std::string> found;
    splitter.split(text, scratch, [&](std::string_view word) { found.emplace_back(word); });
    return found;
  };
  using Words = std::vector<std::string>;
  EXPECT_EQ(words(""), Words());
  EXPECT_EQ(words("Hello, world's 42nd  day!\n\n x"),
            (Words{"Hello", ",", " world", "'s", " 42", "nd", " ", " day", "!", "\n\n", " x"}));
  EXPECT_EQ(words("we'll I'm they've you're don't he'd 'Twas"),
            (Words{"we", "'ll", " I", "'m", " they", "'ve", " you", "'re", " don", "'t", " he", "'d", " '", "Twas"}));
  EXPECT_EQ(words("naïve  日本語 ½²"), (Words{"naïve", " ", " 日本語", " ½²"}));
  EXPECT_EQ(words("a\t\tb  "), (Words{"a", "\t", "\t", "b", "  "}));
  EXPECT_EQ(words("a\xC2\xA0"
                  "b\xE3\x80\x80\xE3\x80\x80"
                  "c"),
            (Words{"a", "\xC2\xA0", "b", "\xE3\x80\x80", "\xE3\x80\x80", "c"}));
  EXPECT_EQ(words("\xE1\xA0\x8E x"), (Words{"\xE1\xA0\x8E", " x"}));  // U+180E is no white space
  EXPECT_EQ(words("a \xFF\xFE b\xE2\x82"), (Words{"a", " ", "\xFF\xFE", " b", "\xE2\x82"}));
}

// ---- files that are refused

TEST(TokenizerJsonFile, RefusesWhatWouldChangeIds) {
  const auto llama = [](auto change) { return rejection(small_json(), change); };
  const auto gpt2 = [](auto change) { return rejection(small_byte_level_json(), change); };
  expect_contains(llama([](Json& f) { f["truncation"] = {{"max_length", 3}}; }), {"x.json", "truncation"});
  expect_contains(llama([](Json& f) { f["padding"] = Json::object(); }), {"padding"});
  expect_contains(llama([](Json& f) { f["surprise"] = 1; }), {"\"surprise\""});
  expect_contains(llama([](Json& f) { f["model"]["surprise"] = 1; }), {"the model", "\"surprise\""});
  expect_contains(llama([](Json& f) { f["model"]["type"] = "WordPiece"; }), {"BPE", "WordPiece"});
  expect_contains(llama([](Json& f) { f["model"]["dropout"] = 0.1; }), {"dropout"});
  expect_contains(llama([](Json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }), {"end_of_word_suffix", "</w>"});
  expect_contains(llama([](Json& f) { f["model"]["continuing_subword_prefix"] = "##"; }), {"continuing", "##"});
  expect_contains(llama([](Json& f) { f["model"]["ignore_merges"] = true; }), {"ignore_merges"});
  expect_contains(llama([](Json& f) { f["normalizer"] = {{"type", "NFC"}}; }), {"normalizer", "NFC"});
  expect_contains(llama([](Json& f) { f["normalizer"] = nullptr; }), {"normalizer", "Prepend"});
  expect_contains(llama([](Json& f) { f["pre_tokenizer"] = {{"type", "Metaspace"}}; }), {"pre-tokenizer", "Metaspace"});
  expect_contains(llama([](Json& f) { f["decoder"] = nullptr; }), {"decoder", "ByteFallback", "null"});
  expect_contains(llama([](Json& f) { f["model"]["byte_fallback"] = "yes"; }), {"byte_fallback", "yes"});
  expect_contains(llama([](Json& f) {
                    f["added_tokens"].push_back(added_token(270, "q", false));
                    f["added_tokens"].back()["lstrip"] = true;
                  }),
                  {"'q'", "lstrip"});
  expect_contains(llama([](Json& f) {
                    f["added_tokens"].push_back(added_token(270, "q", false));
                    f["added_tokens"].back()["normalized"] = true;
                  }),
                  {"'q'", "normalized"});
  expect_contains(gpt2([](Json& f) { f["normalizer"] = {{"type", "NFC"}}; }), {"normalizer"});
  expect_contains(gpt2([](Json& f) { f["pre_tokenizer"]["use_regex"] = false; }), {"use_regex"});
  expect_contains(gpt2([](Json& f) { f["pre_tokenizer"]["pattern"] = "x"; }), {"\"pattern\""});
  expect_contains(gpt2([](Json& f) { f["decoder"] = nullptr; }), {"decoder"});
  expect_contains(gpt2([](Json& f) { f["model"]["byte_fallback"] = true; }), {"byte_fallback"});
}

TEST(TokenizerJsonFile, RefusesDamage) {
  const auto llama = [](auto change) { return rejection(small_json(), change); };
  const auto gpt2 = [](auto change) { return rejection(small_byte_level_json(), change); };
  const std::string mega(1 << 20, 'a');
  expect_contains(llama([&](Json& f) { f["model"]["vocab"][mega] = 270; }), {"1024 bytes", "1048576"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"][""] = 270; }), {"270", "empty"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"]["q"] = 271; }), {"'q'", "271", "there are 271 tokens"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"]["q"] = -1; }), {"'q'", "-1"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"]["q"] = 4294967296; }), {"[0, 2^31)"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"]["q"] = 1.5; }), {"1.5"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"]["q"] = 265; }), {"265", "is given to"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"] = Json::object(); }), {"vocabulary is empty"});
  expect_contains(llama([](Json& f) { f["model"]["vocab"] = 3; }), {"\"vocab\""});
  expect_contains(llama([](Json& f) { f.erase("model"); }), {"\"model\""});
  expect_contains(llama([](Json& f) { f["model"]["unk_token"] = "<no>"; }), {"<no>"});
  expect_contains(llama([](Json& f) {
                    f["model"]["vocab"].erase("<0x43>");
                    f["model"]["vocab"]["q"] = 70;
                  }),
                  {"<0x43>"});
  expect_contains(llama([](Json& f) { f["model"]["merges"].push_back("a q"); }), {"merge 8", "'q'"});
  expect_contains(llama([](Json& f) { f["model"]["merges"].push_back("c a"); }), {"merge 8", "'ca'"});
  expect_contains(llama([](Json& f) { f["model"]["merges"].push_back("a b"); }), {"merge 8", "twice"});
  expect_contains(llama([](Json& f) { f["model"]["merges"].push_back("ab"); }), {"merge 8", "one space"});
  expect_contains(llama([](Json& f) { f["model"]["merges"].push_back("a  b"); }), {"merge 8", "one space"});
  // An empty half would merge into itself without end.
  expect_contains(llama([](Json& f) { f["model"]["merges"].push_back({"", "a"}); }), {"merge 8", "''"});
  expect_contains(llama([](Json& f) { f["model"]["merges"].push_back(7); }), {"merge 8", "two tokens"});
  expect_contains(llama([](Json& f) { f["added_tokens"].push_back(7); }), {"\"content\""});
  expect_contains(llama([](Json& f) { f["added_tokens"].push_back(added_token(2, "<s>", true)); }), {"<s>", "twice"});
  expect_contains(llama([](Json& f) { f["added_tokens"][1]["id"] = 5; }), {"<s>", "5", "1 in the vocabulary"});
  expect_contains(gpt2([](Json& f) {
                    f["model"]["vocab"].erase("ĠĠ");
                    f["model"]["vocab"]["a b"] = 260;
                  }),
                  {"'a b'", "ByteLevel"});
  expect_contains(gpt2([](Json& f) {
                    f["model"]["vocab"].erase("Ġ");
                    f["model"]["vocab"]["ttt"] = 32;
                  }),
                  {"0x20"});
  const auto of_text = [](const std::string& text) { return error_of([&] { parse_tokenizer_json(text, "x.json"); }); };
  expect_contains(of_text(""), {"x.json", "not JSON"});
  expect_contains(of_text("[]"), {"object"});
  expect_contains(of_text(std::string(100'000, '[')), {"deep"});
  expect_contains(of_text(R"({"model": {"vocab": {"a": 0, "a": 1}}})"), {"\"a\" appears twice"});
  expect_contains(of_text("{\"model\": \"\xFF\"}"), {"not JSON"});
}

TEST(TokenizerJsonFile, DamageNeverCrashes) {
  for (const Json& file : {small_json(), small_byte_level_json()}) {
    const std::string text = file.dump();
    int accepted = 0;
    for (uint64_t i = 0; i < 500; ++i) {
      std::string damaged = text;
      const Philox4 random = philox(derive_key(6, 1), i);
      damaged[random[0] % damaged.size()] = static_cast<char>(random[1]);
      damaged[random[2] % damaged.size()] = "abc\" ,:[]{}019"[random[3] % 14];
      try {
        const JsonTokenizer tokenizer(damaged, "x.json");
        tokenizer.decode_text(tokenizer.encode("abc  the \xFF€"));
        ++accepted;
      } catch (const Error&) {
      }
    }
    EXPECT_LT(accepted, 450);
  }
}

// ---- tokenizer_config.json

TEST(TokenizerConfigFile, NamesSpecialTokensAndKeepsTheTemplate) {
  const std::string text = R"({"bos_token": "</s>", "eos_token": {"content": "<s>", "lstrip": false}, "pad_token": null,
    "unk_token": "<unk>", "chat_template": "{{ bos_token }}[INST] {{ x }}", "other": [1]})";
  const JsonTokenizer json = tokenizer_of(small_json(), text);
  EXPECT_EQ(json.special_tokens().bos, 2);
  EXPECT_EQ(json.special_tokens().eos, 1);
  EXPECT_EQ(json.special_tokens().pad, std::nullopt);
  EXPECT_EQ(json.chat_template(), "{{ bos_token }}[INST] {{ x }}");
  const auto named = parse_tokenizer_config(
      R"({"chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]})", "c.json");
  EXPECT_EQ(named.chat_template, "D");
  EXPECT_EQ(parse_tokenizer_config(R"({"chat_template": []})", "c.json").chat_template, "");
  for (const char* bad :
       {"[]", "{", R"({"bos_token": 1})", R"({"bos_token": {"content": 1}})", R"({"chat_template": 1})"})
    expect_contains(error_of([&] { parse_tokenizer_config(bad, "c.json"); }), {"c.json"});
}

}  // namespace
}  // namespace megalodon::data::tokenizer_json_test
