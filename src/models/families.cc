#include "models/families.h"

#include <fmt/ranges.h>

#include <cmath>
#include <optional>
#include <set>

#include "base/check.h"

namespace megalodon {
namespace {

constexpr double kTolerance = 0.1;  // of the parameters that a family is asked for

/// "" for a name without a size.
std::string family_of(const std::string& preset) {
  const size_t dash = preset.rfind('-');
  return dash == std::string::npos ? "" : preset.substr(0, dash);
}

FittedPreset with_vocabulary(const Preset& preset, int64_t vocabulary) {
  const std::shared_ptr<ModelConfig> config = preset.config->clone();
  config::read(*config, {{"vocab_size", vocabulary}}, {}, preset.name);
  config->validate();
  return {preset.name, config, config->build()->info()};  // memory is reserved, not touched
}

[[noreturn]] void fail_unknown(const std::string& name) {
  std::set<std::string> families;
  std::vector<std::string> names = preset_names();
  for (const std::string& preset : names)
    if (const std::string family = family_of(preset); !family.empty()) families.insert(family);
  const std::string listed =
      fmt::format("families: {}; presets: {}", fmt::join(families, ", "), fmt::join(names, ", "));
  names.insert(names.end(), families.begin(), families.end());
  const std::string near = config::nearest(name, names);
  fail_usage("[preset] {}: no such preset or family{}; {}", name,
             near.empty() ? "" : fmt::format("; did you mean {}?", near), listed);
}

}  // namespace

FittedPreset fit_preset(const std::string& name, int64_t vocabulary, int64_t parameters) {
  std::optional<FittedPreset> nearest;
  std::vector<std::string> sizes;
  const auto distance = [&](const FittedPreset& one) { return std::abs(one.info.parameters - parameters); };
  for (const Preset& preset : presets()) {
    if (preset.name == name) return with_vocabulary(preset, vocabulary);
    if (family_of(preset.name) != name || preset.config->is_encoder()) continue;
    try {
      const FittedPreset one = with_vocabulary(preset, vocabulary);
      sizes.push_back(fmt::format("{} has {}", one.name, one.info.parameters));
      if (!nearest || distance(one) < distance(*nearest)) nearest = one;
    } catch (const UsageError&) {  // such as one whose output layer is made for a larger vocabulary
      sizes.push_back(fmt::format("{} cannot have this vocabulary", preset.name));
    }
  }
  if (sizes.empty()) fail_unknown(name);
  if (nearest && static_cast<double>(distance(*nearest)) <= kTolerance * static_cast<double>(parameters))
    return *nearest;
  fail_usage("[preset] {}: none of this family is within {:.0f} % of {} parameters with a vocabulary of {}: {}", name,
             100 * kTolerance, parameters, vocabulary, fmt::join(sizes, ", "));
}

}  // namespace megalodon
