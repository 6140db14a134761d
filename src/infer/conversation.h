// A conversation in plain text, with a model that does nothing but continue texts.
//
//   SYSTEM
//   User: a message
//   Assistant: what the model makes of it
//   User: the next one
//
// Each message is put behind the user's prefix and before the assistant's, and the model goes on from there until it
// begins the user's next turn itself, which is taken for that. Nothing is ever read again: a turn continues the stream
// of those before it, in a state of constant size. With empty prefixes message and reply are one text that two write.
#pragma once

#include <deque>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "infer/rewindable_stream.h"
#include "infer/stop_text.h"
#include "infer/text_stream.h"

namespace megalodon {

struct ConversationConfig {
  std::string system = {};                        // before the first turn
  std::string user_prefix = "\nUser: ";           // the text begins without its newlines
  std::string assistant_prefix = "\nAssistant:";  // a word that follows brings its space along
  int64_t max_tokens = 512;                       // of a reply
  int64_t rewind_bytes = RewindableStream::kDefaultBytes;
};

/// A prefix as a text begins with it: without the newlines before it.
std::string first_prefix(const std::string& prefix);

/// Why a reply ended.
enum class ReplyEnd { kUserTurn, kEndOfText, kMaxTokens, kStopped, kUnread };

/// Of the work done so far, also where it was undone.
struct ConversationStats {
  int64_t prompt_tokens = 0, reply_tokens = 0;  // read of messages; drawn
  int64_t again_tokens = 0;                     // read again by undo()
  double prompt_seconds = 0, reply_seconds = 0;
};

class Conversation {
 public:
  /// Engine and tokenizer must outlive it. Throws UsageError for what Sampler refuses.
  Conversation(const Engine& engine, const data::Tokenizer& tokenizer, const SamplerConfig& sampler,
               const ConversationConfig& config);

  using Write = std::function<void(std::string_view)>;
  /// Reads a message and hands the reply to `write` as it is drawn, in whole characters. Ends early where `stop` says
  /// so: while the message is read, the conversation is as if it had not come (kUnread). That holds for errors too.
  ReplyEnd reply(std::string_view message, const Write& write, const std::function<bool()>& stop);

  /// Takes the last exchange back: the conversation goes on as if it had never been, draws included. Throws Error where
  /// there is none, or none since load() or in reach of what is kept to go back.
  void undo();

  /// The stream, as save_text_stream() does.
  void save(const fs::path& path) const;
  /// Goes on with a saved stream. Throws Error as load_text_stream() does, and then changes nothing.
  void load(const fs::path& path);

  const RewindableStream& stream() const { return stream_; }
  const ConversationStats& stats() const { return stats_; }

 private:
  /// Where undo() goes back to.
  struct Mark {
    int64_t tokens;
    nlohmann::ordered_json sampler;
    Utf8Stream utf8;
    std::string turn;
  };
  Mark mark() const { return {stream_.stream().tokens(), sampler_.state(), utf8_, turn_}; }
  void go_back(const Mark& mark);
  std::string turn_text(std::string_view message) const;
  ReplyEnd read_and_draw(std::string_view message, const Write& write, const std::function<bool()>& stop);
  bool read_turn(std::string_view message, const std::function<bool()>& stop);
  ReplyEnd draw_reply(const Write& write, const std::function<bool()>& stop);
  ReplyEnd draw_until(StopText& text, const Write& write, const std::function<bool()>& stop);
  void drop_turn(const std::vector<int64_t>& ends, const std::vector<Sampler>& samplers, int64_t begin);

  const Engine& engine_;
  const data::Tokenizer& tokenizer_;
  SamplerConfig sampler_config_;
  ConversationConfig config_;
  RewindableStream stream_;
  Sampler sampler_;
  Utf8Stream utf8_;
  std::string turn_;  // what of the user's prefix the stream ends with
  std::deque<Mark> exchanges_;
  ConversationStats stats_;
};

}  // namespace megalodon
