// Several systems that were trained on the same data, side by side: as tables, curves and a page.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/plot.h"
#include "report/run_record.h"
#include "report/table.h"

namespace megalodon::report {

struct System {
  std::string name, architecture;
  int64_t parameters = 0;
  double training_flops_a_token = 0;
  int64_t state_bytes = 0, state_bytes_a_token = 0;  // of a stream: at most, and what it grows by with every token
  RunRecord run;
  std::string failure;  // the error that ended its training, if one did
};

/// How much of tokens or seconds all systems that were evaluated have had at their last evaluation, without those that
/// failed or diverged; nothing where none was.
std::optional<double> common_budget(const std::vector<System>& systems, Axis axis);

/// What is known before anything is trained, for people.
Table size_table(const std::vector<System>& systems);
/// What came out, for people: held-out losses at equal tokens and at equal seconds, speed, memory.
Table result_table(const std::vector<System>& systems);
/// The same and more, for programs: one row a system, empty cells for what is not known. The
/// column `outcome` is "failed", "diverged" or empty.
Table result_numbers(const std::vector<System>& systems);
/// Every loss of every system: the column `series` is "training" or the name of a held-out set.
Table curve_numbers(const std::vector<System>& systems);
/// Training loss (smoothed) and held-out loss against tokens and against seconds.
std::vector<Plot> loss_plots(const std::vector<System>& systems);

/// How a comparison was made.
struct Circumstances {
  std::string version, machine, date, command, run_file;
};

/// An HTML document that needs no other file and no network, of one system or more, with records.
std::string comparison_page(const Circumstances& made, const std::vector<System>& systems);

}  // namespace megalodon::report
