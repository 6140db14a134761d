// What the visitors of config.h that need to know keys share.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"

namespace megalodon::config {

/// Knows where the walk is. A section without a name adds nothing to the keys of its fields.
class Walk : public Visitor {
 protected:
  const std::string& prefix() const { return prefixes_.back(); }
  std::string dotted(std::string_view name) const {
    return prefix().empty() ? std::string(name) : fmt::format("{}.{}", prefix(), name);
  }
  void enter(std::string_view name) { prefixes_.push_back(name.empty() ? prefix() : dotted(name)); }
  void leave() { prefixes_.pop_back(); }

 private:
  std::vector<std::string> prefixes_ = {""};
};

}  // namespace megalodon::config
