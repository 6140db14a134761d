#pragma once

#include "case.h"

namespace megalodon::golden {

/// The tables of lr_schedules.json.
void check_schedules(const fs::path& file, Comparer& comparer);

}  // namespace megalodon::golden
