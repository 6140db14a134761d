#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "apps/commands.h"
#include "base/check.h"
#include "infer/conversation.h"
#include "infer/text_model.h"
#include "ops/device.h"
#include "train/signals.h"

namespace megalodon::apps {
namespace {

struct ChatOptions {
  std::string model, device = "cpu", type;
  SamplerConfig sampler;
  std::string system, user_prefix = "\\nUser: ", assistant_prefix = "\\nAssistant:";
  int64_t max_tokens = 512;
};

/// Newlines are awkward to write on a command line, and to show in its help.
std::string with_newlines(std::string text) {
  for (size_t at = 0; (at = text.find("\\n", at)) != std::string::npos; ++at) text.replace(at, 2, "\n");
  return text;
}

/// SIGINT ends what is under way; the others that are caught end the program.
bool told_to_end() {
  return SignalGuard::stopping() && SignalGuard::received() != SIGINT;
}

void complain(std::string_view message) {
  fmt::print(stderr, "chat: {}\n", message);
}

/// Lines of standard input.
class InputLines {
 public:
  /// Waits for the next; false where there is none any more, or at a signal that ends the program. `interrupted` is
  /// called at a SIGINT meanwhile.
  bool next(std::string& line, const std::function<void()>& interrupted) {
    for (;;) {
      if (const size_t end = text_.find('\n', searched_); end != std::string::npos) {
        line = text_.substr(0, end);
        text_.erase(0, end + 1);
        searched_ = 0;
        return true;
      }
      searched_ = text_.size();
      check(text_.size() <= kLongest, "[chat] a line is longer than {}", human_bytes(kLongest));
      if (ended_) {
        line = std::exchange(text_, {});
        return !line.empty();
      }
      if (told_to_end() || !wait(interrupted)) return false;
      read_more();
    }
  }

 private:
  /// Signals are handled on a thread of their own and interrupt no call of this one.
  static bool wait(const std::function<void()>& interrupted) {
    constexpr int kMilliseconds = 100;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    while (::poll(&input, 1, kMilliseconds) <= 0) {
      if (told_to_end()) return false;
      if (!SignalGuard::stopping()) continue;
      SignalGuard::forget_interrupt();
      interrupted();
    }
    return true;
  }
  void read_more() {
    char part[4096];
    const ssize_t count = ::read(STDIN_FILENO, part, sizeof part);
    check(count >= 0 || errno == EINTR || errno == EAGAIN, "[chat] cannot read standard input: {}",
          std::strerror(errno));
    ended_ = count == 0;
    if (count > 0) text_.append(part, static_cast<size_t>(count));
  }

  static constexpr size_t kLongest = 64 << 20;
  std::string text_;
  size_t searched_ = 0;  // of it, without a newline
  bool ended_ = false;
};

class Chat {
 public:
  Chat(const Engine& engine, const data::Tokenizer& tokenizer, const SamplerConfig& sampler, ConversationConfig config)
      : chunk_(engine.model().info().chunk_size),
        engine_(engine),
        config_(std::move(config)),
        conversation_(engine, tokenizer, sampler, config_) {}

  void run() {
    if (at_terminal_) show("/help tells the commands; Ctrl-C ends a reply, Ctrl-D the program.\n");
    InputLines lines;
    std::string line;
    while (!quit_ && !told_to_end()) {
      prompt();
      if (!lines.next(line, [&] { interrupted(); })) break;
      answer(line);
      check(std::ferror(stdout) == 0, "[chat] standard output was closed");
    }
    if (at_terminal_ && !quit_) show("\n");
  }

  static std::string help_text() {
    std::string text;
    for (const Command& command : commands())
      text += fmt::format("  {:<12} {}\n", fmt::format("{} {}", command.name, command.argument), command.help);
    return text + "  //TEXT       the message /TEXT\n";
  }

 private:
  struct Command {
    const char *name, *argument, *help;
    void (Chat::*run)(const std::string& argument);
  };
  static const std::vector<Command>& commands();

  void prompt() const {
    if (at_terminal_) show(first_prefix(config_.user_prefix));
  }
  void interrupted() const {
    if (at_terminal_) show("\n/quit or Ctrl-D ends the program.\n");
    prompt();
  }

  /// Errors end what was asked for, not the conversation.
  void answer(const std::string& line) {
    if (line.empty()) return;
    SignalGuard::forget_interrupt();
    try {
      if (line.starts_with("//"))
        say(line.substr(1));
      else if (line.starts_with('/'))
        obey(line);
      else
        say(line);
    } catch (const std::exception& error) {  // libtorch's too, of which the first line says what it is
      const std::string_view text = error.what();
      complain(text.substr(0, text.find('\n')));
    }
    SignalGuard::forget_interrupt();
  }

  void say(const std::string& message) {
    if (at_terminal_) show(first_prefix(config_.assistant_prefix));
    const ReplyEnd end =
        conversation_.reply(message, show, [] { return SignalGuard::stopping() || std::ferror(stdout) != 0; });
    show("\n");
    if (end == ReplyEnd::kUnread) complain("stopped before the message was read; it is forgotten");
    if (end == ReplyEnd::kMaxTokens && at_terminal_)
      complain(fmt::format("ended after {} tokens, see --max-tokens", config_.max_tokens));
  }

  void obey(const std::string& line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string name = line.substr(0, space);
    const size_t first = line.find_first_not_of(' ', space);
    const std::string argument =
        first == std::string::npos ? "" : line.substr(first, line.find_last_not_of(' ') + 1 - first);
    std::vector<std::string> names;
    for (const Command& command : commands()) {
      names.emplace_back(command.name);
      if (name != command.name) continue;
      const bool wants = *command.argument != '\0';
      check(wants == !argument.empty(), "{} expects {}, got '{}'", name, wants ? command.argument : "nothing behind it",
            argument);
      return (this->*command.run)(argument);
    }
    const std::string near = config::nearest(name, names);
    fail("there is no command {}{}; /help tells the commands, and a message that begins with / is written with //",
         name, near.empty() ? "" : fmt::format(", did you mean {}?", near));
  }

  void save(const std::string& path) {
    conversation_.save(path);
    show_position();
  }
  void load(const std::string& path) {
    conversation_.load(path);
    show_position();
  }
  void undo(const std::string&) {
    conversation_.undo();
    show_position();
  }
  void show_position() const {
    show(fmt::format("at token {}\n", with_commas(conversation_.stream().stream().tokens())));
  }
  void quit(const std::string&) { quit_ = true; }
  void help(const std::string&) { show(help_text()); }
  void stats(const std::string&) {
    const Stream& stream = conversation_.stream().stream();
    const ConversationStats& done = conversation_.stats();
    const auto rate = [](int64_t tokens, double seconds) {
      return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
    };
    const std::string open = chunk_ > 0 ? fmt::format(", {} of them in the open chunk of {}",
                                                      with_commas(stream.tokens() % chunk_), with_commas(chunk_))
                                        : "";
    const auto size = [](int64_t bytes) { return human_bytes(static_cast<double>(bytes)); };
    show(fmt::format("stream   {} tokens{}; {}, and {} to go back to token {}\n", with_commas(stream.tokens()), open,
                     size(engine_.bytes(stream)), size(conversation_.stream().bytes()),
                     with_commas(conversation_.stream().earliest())));
    show(fmt::format("prompt   {} tokens evaluated, {:.1f} tokens/s; {} again to go back\n",
                     with_commas(done.prompt_tokens), rate(done.prompt_tokens, done.prompt_seconds),
                     with_commas(done.again_tokens)));
    show(fmt::format("replies  {} tokens, {:.1f} tokens/s\n", with_commas(done.reply_tokens),
                     rate(done.reply_tokens, done.reply_seconds)));
  }

  const bool at_terminal_ = isatty(STDIN_FILENO) != 0;
  const int64_t chunk_;
  const Engine& engine_;
  ConversationConfig config_;
  Conversation conversation_;
  bool quit_ = false;
};

const std::vector<Chat::Command>& Chat::commands() {
  static const std::vector<Command> list = {
      {"/save", "FILE", "write the stream to a file, which generate --load-state takes too", &Chat::save},
      {"/load", "FILE", "go on with a stream that /save or generate --save-state wrote; nothing is read again",
       &Chat::load},
      {"/undo", "", "take the last exchange back, as if it had never been", &Chat::undo},
      {"/stats", "", "tokens, memory and speed so far", &Chat::stats},
      {"/help", "", "tell the commands", &Chat::help},
      {"/quit", "", "end the program, as Ctrl-D does", &Chat::quit}};
  return list;
}

/// Signals are caught before any other thread begins, so that none but the guard's takes them.
void run_chat(const ChatOptions& options, Common& common) {
  const SignalGuard guard;
  use_threads(common.threads);
  const Sampler valid(options.sampler);
  const TextModel loaded = load_text_model(options.model, ops::parse_device(options.device), chosen_type(options.type));
  const Engine engine(*loaded.model);
  if (!SignalGuard::stopping()) {
    Chat(engine, *loaded.tokenizer, options.sampler,
         {.system = with_newlines(options.system),
          .user_prefix = with_newlines(options.user_prefix),
          .assistant_prefix = with_newlines(options.assistant_prefix),
          .max_tokens = options.max_tokens})
        .run();
  }
  if (SignalGuard::stopping()) common.exit_code = 128 + SignalGuard::received();
}

}  // namespace

void add_chat(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("chat", "Talk with a trained model: each line of standard input is a message");
  auto options = std::make_shared<ChatOptions>();
  command->footer(
      "A line that begins with / is a command:\n\n" + Chat::help_text() +
      "\nThe model continues a text, in which a turn is what --user-prefix and --assistant-prefix make of it. A reply\n"
      "ends where the model begins the user's next turn, ends its text, or has written --max-tokens, and at Ctrl-C.\n"
      "With both prefixes empty, message and reply are one text.\n\n" +
      kSamplerHelp);
  add_model(*command, options->model);
  command->add_option("--system", options->system, "text before the first message; \\n in it is a newline");
  command
      ->add_option("--user-prefix", options->user_prefix,
                   "text before each message, which ends a reply where the model writes it; \\n in it is a newline")
      ->capture_default_str();
  command
      ->add_option("--assistant-prefix", options->assistant_prefix,
                   "text between a message and its reply; \\n in it is a newline")
      ->capture_default_str();
  command->add_option("--max-tokens", options->max_tokens, "the most tokens of a reply")
      ->check(at_least(1))
      ->capture_default_str();
  add_type(*command, options->type);
  add_device(*command, options->device);
  add_threads(*command, common);
  add_fields(*command, [options](config::Visitor& v) { options->sampler.visit(v); });
  command->callback([options, &common] { run_chat(*options, common); });
}

}  // namespace megalodon::apps
