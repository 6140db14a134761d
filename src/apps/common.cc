#include <fmt/format.h>

#include <algorithm>

#include "apps/commands.h"
#include "base/check.h"
#include "base/compat.h"
#include "base/process.h"
#include "io/tensor_folder.h"
#include "models/published.h"

namespace megalodon::apps {

void add_threads(CLI::App& command, Common& common, const char* help) {
  command.add_option("--threads", common.threads, help)->check(at_least(0))->capture_default_str();
}

void add_model(CLI::App& command, std::string& model) {
  command.add_option("--model", model, "model folder, or a run folder (its latest checkpoint)")->required();
}

void add_device(CLI::App& command, std::string& device) {
  command.add_option("--device", device, "what computes: cpu, cuda or cuda:N")->capture_default_str();
}

void accept_types(CLI::Option& option) {
  option.transform(CLI::Transformer(std::map<std::string, std::string>{{"f32", "float32"}, {"bf16", "bfloat16"}}))
      ->check(CLI::IsMember({"float32", "bfloat16", "q8", "q4"}));
}

void add_type(CLI::App& command, std::string& type) {
  accept_types(*command.add_option("--type", type,
                                   "of the matrices: float32 (f32), bfloat16 (bf16), q8 (8.5 bits a weight) or q4 (5); "
                                   "without it that of a quantized folder, of others float32"));
}

std::optional<ops::FixedType> chosen_type(const std::string& type) {
  if (type.empty()) return {};
  return ops::fixed_type(type);
}

void check_model_target(const char* command, const fs::path& target, bool force) {
  if (!fs::exists(target)) return;
  check(force, "[{}] {} exists; give --force to replace it", command, target.string());
  const bool is_model = io::has_tensors(target, "model") || is_published(target);
  check(fs::is_directory(target) && (is_model || fs::is_empty(target)),
        "[{}] {} holds no model, so --force does not replace it; name another folder", command, target.string());
}

CLI::Validator at_least(int64_t smallest) {
  const auto find_error = [smallest](const std::string& text) {
    int64_t value = 0;
    const bool fits = CLI::detail::lexical_cast(text, value) && value >= smallest;
    return fits ? std::string() : fmt::format("expected a whole number of {} or more, got {}", smallest, text);
  };
  return {find_error, fmt::format(">= {}", smallest)};
}

void use_threads(int threads) {
  if (threads < 0) fail_usage("[--threads] expected 0 (all cores) or more, got {}", threads);
  at::set_num_threads(threads > 0 ? threads : available_cores());
}

void show(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

namespace {

/// Turns the fields of a config struct into options of a command.
class OptionVisitor final : public config::Visitor {
 public:
  explicit OptionVisitor(CLI::App& command) : command_(command) {}
  void field(const char* name, bool& value, const char* help) override { command_.add_flag(option(name), value, help); }
  void field(const char* name, int64_t& value, const char* help) override { add(name, value, help); }
  void field(const char* name, double& value, const char* help) override { add(name, value, help); }
  void field(const char* name, std::string& value, const char* help) override { add(name, value, help); }
  void field(const char* name, std::vector<std::string>& value, const char* help) override { add(name, value, help); }
  void begin_section(const char*, const char*) override {}
  void end_section() override {}

 private:
  template <class T>
  void add(const char* name, T& value, const char* help) {
    command_.add_option(option(name), value, help)->capture_default_str();
  }
  static std::string option(std::string name) {
    std::replace(name.begin(), name.end(), '_', '-');
    return "--" + name;
  }

  CLI::App& command_;
};

}  // namespace

void add_fields(CLI::App& command, const config::Visit& visit) {
  OptionVisitor visitor(command);
  visit(visitor);
}

}  // namespace megalodon::apps
