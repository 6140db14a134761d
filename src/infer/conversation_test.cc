#include "infer/conversation.h"

#include <gtest/gtest.h>

#include "base/temporary_folder.h"
#include "base/testing.h"
#include "base/utf8.h"
#include "infer/testing.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::only;
using testing::WordTokenizer;

class ConversationTest : public ::testing::Test {
 protected:
  struct Reply {
    std::string text;
    ReplyEnd end;
  };
  static bool never() { return false; }
  static Reply say(Conversation& conversation, const std::string& message) {
    Reply reply;
    reply.end = conversation.reply(
        message,
        [&](std::string_view piece) {
          EXPECT_TRUE(is_valid_utf8(piece));
          reply.text += piece;
        },
        never);
    return reply;
  }
  Conversation make(const SamplerConfig& sampler, const ConversationConfig& config) const {
    return {engine_, tokenizer_, sampler, config};
  }
  static int64_t tokens(const Conversation& conversation) { return conversation.stream().stream().tokens(); }
  /// The stream has read this text and nothing else.
  void expect_read(const Conversation& conversation, const std::string& text) const {
    const auto ids = tokenizer_.encode(text);
    ASSERT_EQ(tokens(conversation), std::ssize(ids)) << text;
    Stream stream;
    engine_.read(stream, std::vector<int64_t>(ids.begin(), ids.end()));
    EXPECT_TRUE(testing::close(conversation.stream().stream().logits(), stream.logits(), 1e-5)) << text;
  }

  const ConversationConfig turns_{.system = "cc", .user_prefix = "\nU: ", .assistant_prefix = "\nA:", .max_tokens = 5};
  const SamplerConfig words_ = only({WordTokenizer::kA, WordTokenizer::kC}, {.temperature = 1, .seed = 3});
  TemporaryFolder folder_;
  std::unique_ptr<Model> model_ = testing::noisy_model(testing::tiny_config());
  Engine engine_{*model_};
  WordTokenizer tokenizer_;
};

TEST_F(ConversationTest, IsOneTextThatIsReadOnce) {
  Conversation conversation = make(words_, turns_);
  const Reply first = say(conversation, "a b");
  EXPECT_EQ(first.end, ReplyEnd::kMaxTokens);
  EXPECT_EQ(first.text.size(), 5u);
  std::string text = "cc\nU: a b\nA:" + first.text;
  expect_read(conversation, text);
  text += "\nU: b\nA:" + say(conversation, "b").text;
  expect_read(conversation, text);
  EXPECT_EQ(conversation.stats().prompt_tokens, tokens(conversation) - 10);
  EXPECT_EQ(conversation.stats().reply_tokens, 10);
  EXPECT_EQ(conversation.stats().again_tokens, 0);
}

TEST_F(ConversationTest, WithoutASystemTextItBeginsWithAPrefixAndWithoutPrefixesItIsPlainText) {
  ConversationConfig config = turns_;
  config.system.clear();
  Conversation bare = make(words_, config);
  const std::string bare_reply = say(bare, "a").text;
  expect_read(bare, "U: a\nA:" + bare_reply);
  Conversation plain = make(words_, {.user_prefix = "", .assistant_prefix = "", .max_tokens = 3});
  EXPECT_THROW(say(plain, ""), Error) << "nothing to begin with";
  const std::string first = say(plain, "a").text, second = say(plain, "b").text;
  expect_read(plain, "a" + first + "b" + second);
}

TEST_F(ConversationTest, AReplyEndsWhereTheUsersTurnBeginsWhichIsNotReadTwice) {
  const SamplerConfig sampler = only({WordTokenizer::kA, WordTokenizer::kB}, {.temperature = 1, .seed = 3});
  Conversation conversation = make(sampler, {.user_prefix = "b ", .assistant_prefix = "\nA:", .max_tokens = 1'000'000});
  std::string text = "b c\nA:";
  Reply reply = say(conversation, "c");
  for (int turn = 0; turn < 10; ++turn) {
    EXPECT_EQ(reply.end, ReplyEnd::kUserTurn);
    EXPECT_EQ(reply.text, std::string(reply.text.size(), 'a'));
    text += reply.text + "b";
    expect_read(conversation, text);
    reply = say(conversation, "cd");
    text += " cd\nA:";
  }
}

/// "bx" is the beginning of the user's turn, and more: it is taken back.
TEST_F(ConversationTest, WhatIsDrawnBeyondTheBeginningOfATurnIsForgotten) {
  const SamplerConfig sampler = only({WordTokenizer::kA, WordTokenizer::kBx}, {.temperature = 1, .seed = 3});
  Conversation conversation = make(sampler, {.user_prefix = "b", .assistant_prefix = "\nA:", .max_tokens = 1'000'000});
  std::string text;
  for (int turn = 0; turn < 10; ++turn) {
    const Reply reply = say(conversation, "c");
    EXPECT_EQ(reply.end, ReplyEnd::kUserTurn);
    text += "bc\nA:" + reply.text;
    expect_read(conversation, text);
  }
}

/// Nor do penalties know of it.
TEST_F(ConversationTest, WhatIsForgottenIsNotPenalized) {
  const SamplerConfig sampler = only({WordTokenizer::kBx}, {.presence_penalty = 1, .penalty_last_n = 100});
  Conversation conversation = make(sampler, {.user_prefix = "b", .assistant_prefix = "\nA:", .max_tokens = 1'000'000});
  EXPECT_EQ(say(conversation, "c").text, "");
  const fs::path path = folder_.path() / "s";
  conversation.save(path);
  const auto window = load_snapshot(path, engine_).more.dump();
  EXPECT_EQ(window.find(fmt::format(",{}]", int{WordTokenizer::kBx})), std::string::npos) << window;
  EXPECT_NE(window.find(fmt::format(",{}]", int{WordTokenizer::kAssistant})), std::string::npos) << window;
}

TEST_F(ConversationTest, TheEndOfTheTextEndsAReplyAndIsNotRead) {
  const SamplerConfig sampler = only({WordTokenizer::kA, WordTokenizer::kEnd}, {.temperature = 1, .seed = 3});
  ConversationConfig config = turns_;
  config.max_tokens = 1'000'000;
  Conversation conversation = make(sampler, config);
  const Reply reply = say(conversation, "a");
  EXPECT_EQ(reply.end, ReplyEnd::kEndOfText);
  expect_read(conversation, "cc\nU: a\nA:" + reply.text);
}

TEST_F(ConversationTest, ShowsWholeCharactersAndKeepsTheIncompleteOneForTheFile) {
  ConversationConfig config = turns_;
  config.max_tokens = 2;
  Conversation conversation = make(only({WordTokenizer::kEuro1}), config);
  EXPECT_EQ(say(conversation, "a").text, "\xEF\xBF\xBD\xEF\xBF\xBD");
  const fs::path path = folder_.path() / "s";
  conversation.save(path);
  EXPECT_EQ(load_text_stream(path, engine_, tokenizer_, {}).utf8.pending(), "\xE2");
  const SamplerConfig parts =
      only({WordTokenizer::kEuro1, WordTokenizer::kEuro2, WordTokenizer::kEuro3, WordTokenizer::kA},
           {.temperature = 1, .seed = 5});
  config.max_tokens = 2000;
  Conversation euros = make(parts, config);
  EXPECT_NE(say(euros, "a").text.find("\xE2\x82\xAC"), std::string::npos);
}

TEST_F(ConversationTest, UndoIsAsIfItHadNeverBeen) {
  const SamplerConfig sampler = only({WordTokenizer::kA, WordTokenizer::kC, WordTokenizer::kB},
                                     {.temperature = 1, .seed = 3, .presence_penalty = 0.5});
  ConversationConfig config = turns_;
  config.user_prefix = "b ";  // which replies end with, and so turns begin with, now and then
  config.max_tokens = 7;
  Conversation expected = make(sampler, config), conversation = make(sampler, config);
  EXPECT_THROW(conversation.undo(), Error);
  for (const char* message : {"a", "cd", "e", "f", "aaaa"}) {
    say(conversation, "cadedfe");
    say(conversation, "b");
    const int64_t before = conversation.stats().again_tokens;
    conversation.undo();
    EXPECT_LT(conversation.stats().again_tokens - before, 8) << "less than a chunk is read again";
    conversation.undo();
    EXPECT_EQ(tokens(conversation), tokens(expected));
    const Reply reply = say(conversation, message), same = say(expected, message);
    EXPECT_EQ(reply.text, same.text);
    EXPECT_EQ(reply.end, same.end);
    EXPECT_TRUE(testing::close(conversation.stream().stream().logits(), expected.stream().stream().logits(), 1e-5));
  }
  for (int i = 0; i < 5; ++i) conversation.undo();
  EXPECT_EQ(tokens(conversation), 0);
  EXPECT_THROW(conversation.undo(), Error);
}

TEST_F(ConversationTest, UndoReachesAsFarAsStatesAreKept) {
  Conversation all = make(words_, turns_);
  for (int i = 0; i < 8; ++i) say(all, "a");
  ConversationConfig config = turns_;
  config.rewind_bytes = all.stream().bytes() / 2;
  Conversation conversation = make(words_, config);
  for (int i = 0; i < 8; ++i) say(conversation, "a");
  const int64_t earliest = conversation.stream().earliest();
  EXPECT_GT(earliest, 0);
  int undone = 0;
  try {
    for (;; ++undone) conversation.undo();
  } catch (const Error& error) {
    expect_contains(error.what(), {fmt::format("token {}", earliest)});
  }
  EXPECT_GT(undone, 2);
  EXPECT_LT(undone, 6);
  EXPECT_GE(tokens(conversation), earliest);
  say(conversation, "a");
}

TEST_F(ConversationTest, WhatIsStoppedOrFailsBeforeTheReplyBeginsHasNeverBeen) {
  Conversation conversation = make(words_, turns_), expected = make(words_, turns_);
  say(conversation, "a"), say(expected, "a");
  const auto ignore = [](std::string_view) {};
  int asked = 0;
  const auto second = [&] { return ++asked == 2; };
  EXPECT_EQ(conversation.reply(std::string(600, 'a'), ignore, second), ReplyEnd::kUnread);
  EXPECT_EQ(tokens(conversation), tokens(expected));
  EXPECT_THROW(conversation.reply("no word", ignore, never), Error);
  EXPECT_THROW(conversation.reply(
                   "a", [](std::string_view) { fail("closed"); }, never),
               Error);
  EXPECT_EQ(tokens(conversation), tokens(expected));
  EXPECT_EQ(say(conversation, "c").text, say(expected, "c").text);

  asked = -3;
  std::string begun;
  EXPECT_EQ(conversation.reply(
                "a", [&](std::string_view piece) { begun += piece; }, second),
            ReplyEnd::kStopped);
  EXPECT_EQ(begun.size(), 3u) << "a reply that is stopped stays as far as it came";
  EXPECT_EQ(tokens(conversation), tokens(expected) + 6 + 3);
}

TEST_F(ConversationTest, AMessageLongerThanWhatIsKeptCanBeStoppedAndFail) {
  ConversationConfig config = turns_;
  config.rewind_bytes = 0;
  Conversation conversation = make(words_, config), expected = make(words_, config);
  say(conversation, "a"), say(expected, "a");
  int asked = 0;
  EXPECT_EQ(conversation.reply(
                std::string(600, 'a'), [](std::string_view) {}, [&] { return ++asked == 2; }),
            ReplyEnd::kUnread);
  EXPECT_EQ(tokens(conversation), tokens(expected));
  EXPECT_THROW(conversation.reply(
                   std::string(600, 'a'), [](std::string_view) { fail("closed"); }, never),
               Error);
  EXPECT_EQ(tokens(conversation), tokens(expected));
  EXPECT_EQ(say(conversation, "c").text, say(expected, "c").text);
}

TEST_F(ConversationTest, ASavedOneGoesOnWithoutReadingAgain) {
  const fs::path path = folder_.path() / "s";
  const SamplerConfig sampler = only({WordTokenizer::kA, WordTokenizer::kB}, {.temperature = 1, .seed = 3});
  ConversationConfig config = turns_;
  config.user_prefix = "b";
  config.max_tokens = 1'000'000;
  Conversation conversation = make(sampler, config), loaded = make(sampler, config);
  EXPECT_THROW(conversation.save(path), Error) << "nothing read yet";
  say(conversation, "c");
  conversation.save(path);
  say(loaded, "d");
  loaded.undo();
  say(loaded, "dd");
  const int64_t prompt = loaded.stats().prompt_tokens;
  loaded.load(path);
  EXPECT_EQ(loaded.stats().prompt_tokens, prompt);
  EXPECT_EQ(tokens(loaded), tokens(conversation));
  EXPECT_THROW(loaded.undo(), Error) << "exchanges before it are another conversation's";
  for (const char* message : {"c", "dd", "e"}) EXPECT_EQ(say(loaded, message).text, say(conversation, message).text);
  EXPECT_TRUE(torch::equal(loaded.stream().stream().logits(), conversation.stream().stream().logits()));
  loaded.undo(), conversation.undo();
  EXPECT_EQ(say(loaded, "f").text, say(conversation, "f").text);

  const int64_t before = tokens(loaded);
  write_file_atomically(path, read_file(path).substr(0, 500));
  EXPECT_THROW(loaded.load(path), Error);
  EXPECT_THROW(loaded.load(folder_.path() / "absent"), Error);
  EXPECT_THROW(loaded.load(folder_.path()), Error);
  EXPECT_EQ(tokens(loaded), before);
  loaded.undo(), conversation.undo();
  EXPECT_EQ(say(loaded, "g").text, say(conversation, "g").text);
}

}  // namespace
}  // namespace megalodon
