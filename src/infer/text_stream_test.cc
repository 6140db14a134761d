#include "infer/text_stream.h"

#include <gtest/gtest.h>

#include "base/temporary_folder.h"
#include "base/testing.h"
#include "infer/stop_text.h"
#include "infer/testing.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;
using testing::WordTokenizer;

class TextStreamTest : public ::testing::Test {
 protected:
  /// A stream that has drawn tokens, the last of which begins a character.
  TextStream drawn() const {
    TextStream text{{}, Sampler(sampler_), {}, "U:"};
    engine_.read(text.stream, std::vector<int64_t>{WordTokenizer::kA, WordTokenizer::kEuro1});
    text.sampler.read(std::vector<int64_t>{WordTokenizer::kA, WordTokenizer::kEuro1});
    text.sampler.sample(text.stream.logits());
    text.utf8.push("a\xE2\x82");
    return text;
  }
  /// The error of a snapshot that keeps `value` under a key.
  std::string error_with(const std::string& key, const char* value) const {
    Json more = {{"tokenizer", tokenizer_.describe()}, {"sampler", Sampler(sampler_).state()}};
    more[key] = Json::parse(value);
    try {
      text_stream_of({drawn().stream, more}, tokenizer_, sampler_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "text.safetensors";
  std::unique_ptr<Model> model_ = testing::noisy_model(testing::tiny_config());
  Engine engine_{*model_};
  WordTokenizer tokenizer_;
  SamplerConfig sampler_{.temperature = 1, .seed = 4, .presence_penalty = 0.1};
};

TEST_F(TextStreamTest, GoesOnWithAllThatItWas) {
  const TextStream text = drawn();
  save_text_stream(path_, engine_, tokenizer_, text);
  TextStream loaded = load_text_stream(path_, engine_, tokenizer_, sampler_);
  EXPECT_TRUE(torch::equal(loaded.stream.logits(), text.stream.logits()));
  EXPECT_EQ(loaded.sampler.state(), text.sampler.state());
  EXPECT_EQ(loaded.turn, "U:");
  EXPECT_EQ(loaded.utf8.push("\xAC"), "\xE2\x82\xAC");
}

TEST_F(TextStreamTest, WhatNoStreamOfThisTextLeavesIsRefused) {
  EXPECT_EQ(error_with("pending", "[]"), "");
  EXPECT_EQ(error_with("pending", "[240, 159, 166]"), "");
  for (const char* pending : {"5", "[65]", "[226, 130, 172]", "[226, 65]", "[256]", "[-1]", "[226.0]", "[\"\"]",
                              "[18446744073709551615]", "[255]", "null"})
    expect_contains(error_with("pending", pending), {"pending", pending[0] == '[' ? "[" : pending});
  expect_contains(error_with("turn", "5"), {"turn", "5"});
  expect_contains(error_with("tokenizer", R"({"type":"bytes"})"), {"another tokenizer", "words", "bytes"});
  expect_contains(error_with("sampler", "null"), {"sampling options"});
  EXPECT_THROW(text_stream_of({drawn().stream, Json(5)}, tokenizer_, sampler_), Error);
  save_snapshot(path_, engine_, {drawn().stream, {}});
  expect_contains(error_of([&] { load_text_stream(path_, engine_, tokenizer_, sampler_); }),
                  {path_.string(), "another tokenizer"});
}

std::string cut(const std::string& stop, const std::vector<std::string>& pieces) {
  StopText text(stop);
  std::string out;
  for (const std::string& piece : pieces) out += text.push(piece);
  return out + text.finish();
}

TEST(StopText, PassesOnWhatComesBeforeItWhereverPiecesAreCut) {
  const std::string stop = "aab", text = "caaabcaab";
  for (uint32_t cuts = 0; cuts < 1U << (text.size() - 1); ++cuts) {
    std::vector<std::string> pieces(1);
    for (size_t i = 0; i < text.size(); ++i) {
      pieces.back() += text[i];
      if (cuts >> i & 1) pieces.emplace_back();
    }
    EXPECT_EQ(cut(stop, pieces), "ca") << cuts;
  }
}

TEST(StopText, HoldsBackNoMoreThanMayBeItsBeginning) {
  StopText text("\nU:");
  EXPECT_EQ(text.push("a\n"), "a");
  EXPECT_EQ(text.push("\n"), "\n");
  EXPECT_EQ(text.push("Ub"), "\nUb");
  EXPECT_EQ(text.push("\nU"), "");
  EXPECT_FALSE(text.found());
  EXPECT_EQ(text.beyond(), 0u);
  EXPECT_EQ(text.push(": c"), "");
  EXPECT_TRUE(text.found());
  EXPECT_EQ(text.beyond(), 2u);
  EXPECT_EQ(text.finish(), "");
  EXPECT_EQ(cut("\nU:", {"a\nU"}), "a\nU");
  EXPECT_EQ(cut("", {"a", "b"}), "ab");
}

}  // namespace
}  // namespace megalodon
