// What there is to run in a folder of reference data.
#pragma once

#include <functional>

#include "case.h"

namespace megalodon::golden {

struct Check {
  std::string name;  // path below the folder, without extension
  std::string kind;
  std::function<void(Comparer&)> run;
};

/// The pairs that index.json lists (without it, every pair below the folder), tables of learning rates, published
/// configurations and published checkpoints. Throws when there is nothing.
std::vector<Check> find_checks(const fs::path& folder);

}  // namespace megalodon::golden
