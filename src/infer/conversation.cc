#include "infer/conversation.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/process.h"
#include "infer/generate.h"

namespace megalodon {
namespace {

/// What the model writes where it begins the user's turn: it draws the space with the word that follows.
std::string stop_of(const ConversationConfig& config) {
  return config.user_prefix.substr(0, config.user_prefix.find_last_not_of(' ') + 1);
}

/// Holds a position while it lives.
class Hold {
 public:
  Hold(RewindableStream& stream, int64_t tokens) : stream_(stream) { stream_.hold(tokens); }
  ~Hold() { stream_.release(); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  RewindableStream& stream_;
};

/// Adds its lifetime to a number of seconds.
class AddSeconds {
 public:
  explicit AddSeconds(double& to) : to_(to) {}
  ~AddSeconds() { to_ += watch_.seconds(); }
  AddSeconds(const AddSeconds&) = delete;
  AddSeconds& operator=(const AddSeconds&) = delete;

 private:
  double& to_;
  Stopwatch watch_;
};

}  // namespace

std::string first_prefix(const std::string& prefix) {
  return prefix.substr(std::min(prefix.find_first_not_of('\n'), prefix.size()));
}

Conversation::Conversation(const Engine& engine, const data::Tokenizer& tokenizer, const SamplerConfig& sampler,
                           const ConversationConfig& config)
    : engine_(engine),
      tokenizer_(tokenizer),
      sampler_config_(sampler),
      config_(config),
      stream_(engine, {}, config.rewind_bytes),
      sampler_(sampler) {
  sampler_.check_vocabulary(drawable(engine.model(), tokenizer.vocabulary()));
}

ReplyEnd Conversation::reply(std::string_view message, const Write& write, const std::function<bool()>& stop) {
  const ReplyEnd end = read_and_draw(message, write, stop);
  while (!exchanges_.empty() && exchanges_.front().tokens < stream_.earliest()) exchanges_.pop_front();
  return end;
}

ReplyEnd Conversation::read_and_draw(std::string_view message, const Write& write, const std::function<bool()>& stop) {
  const Mark before = mark();
  const Hold hold(stream_, before.tokens);
  try {
    if (!read_turn(message, stop)) {
      go_back(before);
      return ReplyEnd::kUnread;
    }
    const ReplyEnd end = draw_reply(write, stop);
    exchanges_.push_back(before);
    return end;
  } catch (...) {
    go_back(before);
    throw;
  }
}

void Conversation::undo() {
  check(!exchanges_.empty(), "there is no exchange to undo since token {}, where going back ends", stream_.earliest());
  go_back(exchanges_.back());
  exchanges_.pop_back();
}

void Conversation::go_back(const Mark& mark) {
  stats_.again_tokens += stream_.rewind(mark.tokens);
  sampler_.load_state(mark.sampler);
  utf8_ = mark.utf8;
  turn_ = mark.turn;
}

void Conversation::save(const fs::path& path) const {
  save_text_stream(path, engine_, tokenizer_, {stream_.stream(), sampler_, utf8_, turn_});
}

void Conversation::load(const fs::path& path) {
  TextStream text = load_text_stream(path, engine_, tokenizer_, sampler_config_);
  stream_ = RewindableStream(engine_, std::move(text.stream), config_.rewind_bytes);
  sampler_ = std::move(text.sampler);
  utf8_ = std::move(text.utf8);
  turn_ = std::move(text.turn);
  exchanges_.clear();
}

/// But for what of it the stream ends with.
std::string Conversation::turn_text(std::string_view message) const {
  std::string text = config_.user_prefix;
  if (stream_.stream().tokens() == 0)
    text = config_.system.empty() ? first_prefix(text) : config_.system + text;
  else if (text.starts_with(turn_))
    text.erase(0, turn_.size());
  text += message;
  return text + config_.assistant_prefix;
}

/// In pieces, between which it can be stopped. Returns whether all was read.
bool Conversation::read_turn(std::string_view message, const std::function<bool()>& stop) {
  constexpr size_t kPiece = 256;  // large enough for a pass to be worth reading the weights
  const auto ids = tokenizer_.encode(turn_text(message));
  const std::vector<int64_t> tokens(ids.begin(), ids.end());
  check(!tokens.empty() || stream_.stream().tokens() > 0, "there is no text yet to go on from");
  const AddSeconds timed(stats_.prompt_seconds);
  for (std::span<const int64_t> rest = tokens; !rest.empty();) {
    if (stop()) return false;
    const auto piece = rest.first(std::min(kPiece, rest.size()));
    stream_.read(piece);
    sampler_.read(piece);
    stats_.prompt_tokens += std::ssize(piece);
    rest = rest.subspan(piece.size());
  }
  utf8_ = {};  // no character goes on behind a message
  turn_.clear();
  return true;
}

/// A character that is left incomplete shows as such, but stays for what may go on from here.
ReplyEnd Conversation::draw_reply(const Write& write, const std::function<bool()>& stop) {
  const AddSeconds timed(stats_.reply_seconds);
  StopText text(stop_of(config_));
  const ReplyEnd end = draw_until(text, write, stop);
  write(utf8_.push(text.finish()));
  Utf8Stream shown = utf8_;
  write(shown.finish());
  if (end == ReplyEnd::kUserTurn) utf8_ = {};
  return end;
}

ReplyEnd Conversation::draw_until(StopText& text, const Write& write, const std::function<bool()>& stop) {
  const int64_t drawn = drawable(engine_.model(), tokenizer_.vocabulary());
  const auto end_of_text = tokenizer_.special_tokens().eos;
  std::vector<int64_t> ends;      // in bytes of the reply, of its tokens
  std::vector<Sampler> samplers;  // before each of the last tokens, of which some bytes may be the stop text's
  while (std::ssize(ends) < config_.max_tokens) {
    if (stop()) return ReplyEnd::kStopped;
    if (!text.holds()) samplers.clear();
    samplers.push_back(sampler_);
    const int64_t token = sampler_.sample(stream_.stream().logits().narrow(0, 0, drawn));
    ++stats_.reply_tokens;
    if (end_of_text && token == *end_of_text) return ReplyEnd::kEndOfText;
    const std::string bytes = tokenizer_.decode(static_cast<int32_t>(token));
    ends.push_back((ends.empty() ? 0 : ends.back()) + std::ssize(bytes));
    write(utf8_.push(text.push(bytes)));
    stream_.read({&token, 1});
    if (!text.found()) continue;
    if (text.beyond() == 0)
      turn_ = stop_of(config_);
    else
      drop_turn(ends, samplers, ends.back() - static_cast<int64_t>(text.beyond() + stop_of(config_).size()));
    return ReplyEnd::kUserTurn;
  }
  return ReplyEnd::kMaxTokens;
}

/// Takes back the tokens of a reply behind byte `begin`; a token that lies on both sides of it stays.
void Conversation::drop_turn(const std::vector<int64_t>& ends, const std::vector<Sampler>& samplers, int64_t begin) {
  const auto kept = begin == 0 ? 0 : std::lower_bound(ends.begin(), ends.end(), begin) - ends.begin() + 1;
  const auto dropped = std::ssize(ends) - kept;
  if (dropped == 0) return;
  stats_.again_tokens += stream_.rewind(stream_.stream().tokens() - dropped);
  sampler_ = samplers.at(samplers.size() - static_cast<size_t>(dropped));
}

}  // namespace megalodon
