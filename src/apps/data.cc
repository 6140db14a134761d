#include <fmt/format.h>

#include "apps/data_commands.h"
#include "train/signals.h"

namespace megalodon::apps {

void until_signal(Common& common, const char* message, const std::function<void()>& work) {
  const SignalGuard guard;
  try {
    work();
  } catch (const Interrupted&) {
    fmt::print(stderr, "megalodon: {}\n", message);
    common.exit_code = 128 + SignalGuard::received();
  }
}

void print_parts(const std::vector<data::WrittenPart>& parts, const std::string& output) {
  for (const auto& part : parts)
    fmt::print("{}: {} documents, {} tokens\n", part.name.empty() ? output : output + "/" + part.name,
               with_commas(part.documents), with_commas(part.tokens));
}

void add_data(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("data", "Prepare, fetch and describe data: token files, and sets of labelled sequences");
  command->require_subcommand(1);
  add_data_prepare(*command, common);
  add_data_get(*command, common);
  add_data_examples(*command, common);
  add_data_words(*command, common);
  add_data_tokenize(*command);
  add_data_info(*command);
}

}  // namespace megalodon::apps
