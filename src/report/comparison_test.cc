#include "report/comparison.h"

#include "base/testing.h"

namespace megalodon::report {
namespace {

/// With evaluations every 100 tokens, the losses given, a step of 100 tokens taking so many seconds.
System system(const std::string& name, double step_seconds, const std::vector<double>& losses) {
  System one = {name, "s4", 1000, 6000, 2048, 0, {}, ""};
  one.run.held_out = {{"valid", {}, false}};
  for (const double loss : losses) {
    RunRecord& run = one.run;
    ++run.steps, run.tokens += 100, run.seconds += step_seconds;
    run.training.push_back({run.steps, run.tokens, run.seconds, loss - 0.5, {}});
    run.held_out[0].list.push_back({run.steps, run.tokens, run.seconds, loss, 2 * loss});
  }
  one.run.tokens_per_s = 100 / step_seconds, one.run.peak_mib = 300.25;
  return one;
}

const std::vector<System> kSystems = {system("fast", 1, {6, 5, 4, 3}), system("slow", 2, {5.5, 4.5, 3.5})};

std::string cell(const Table& table, size_t row, const std::string& heading) {
  for (size_t i = 0; i < table.headings.size(); ++i)
    if (table.headings[i] == heading) return table.rows.at(row).at(i);
  ADD_FAILURE() << "no column " << heading;
  return {};
}

TEST(Comparison, BudgetsAreWhatAllHaveHad) {
  EXPECT_EQ(common_budget(kSystems, Axis::kTokens), 300);
  EXPECT_EQ(common_budget(kSystems, Axis::kSeconds), 4);
  EXPECT_EQ(common_budget({kSystems[0], System{}}, Axis::kTokens), 400) << "who was not evaluated does not count";
  EXPECT_FALSE(common_budget({System{}}, Axis::kTokens));
}

TEST(Comparison, LossesAreThoseAtEqualTokensAndAtEqualSeconds) {
  const Table numbers = result_numbers(kSystems);
  ASSERT_EQ(numbers.rows.size(), 2U);
  EXPECT_EQ(cell(numbers, 0, "equal_tokens"), "300");
  EXPECT_EQ(cell(numbers, 0, "loss_at_equal_tokens"), "4");
  EXPECT_EQ(cell(numbers, 1, "loss_at_equal_tokens"), "3.5");
  EXPECT_EQ(cell(numbers, 1, "bits_per_byte_at_equal_tokens"), "7");
  EXPECT_EQ(cell(numbers, 0, "equal_seconds"), "4");
  EXPECT_EQ(cell(numbers, 0, "loss_at_equal_seconds"), "3");
  EXPECT_EQ(cell(numbers, 1, "loss_at_equal_seconds"), "4.5");
  EXPECT_EQ(cell(numbers, 1, "held_out_set"), "valid");
  EXPECT_EQ(cell(numbers, 0, "tokens_per_s"), "100");
  EXPECT_EQ(cell(numbers, 0, "peak_rss_mib"), "300.25");
  EXPECT_EQ(cell(numbers, 0, "peak_gpu_mib"), "");
  EXPECT_EQ(cell(numbers, 0, "seconds"), "4");

  const Table between = result_numbers({system("fast", 1, {6, 5, 4}), system("slow", 2, {5, 4})});
  EXPECT_EQ(cell(between, 0, "equal_seconds"), "3");
  EXPECT_EQ(cell(between, 1, "loss_at_equal_seconds"), "4.5") << "half way from 2 to 4 seconds";
}

TEST(Comparison, ALossBeforeTheFirstEvaluationIsUnknown) {
  const std::vector<System> systems = {system("fast", 1, {6}), system("slow", 20, {5}),
                                       System{"new", "s4", 1, 1, 8, 4, {}, ""}};
  const Table numbers = result_numbers(systems), table = result_table(systems);
  EXPECT_EQ(cell(numbers, 1, "loss_at_equal_seconds"), "");
  EXPECT_EQ(cell(table, 1, "loss after 1 s"), "-");
  EXPECT_EQ(cell(table, 2, "loss after 100 tokens"), "-");
  EXPECT_EQ(cell(table, 2, "tokens/s"), "-");
  EXPECT_EQ(cell(table, 2, "peak memory"), "-");
  EXPECT_EQ(cell(table, 2, "state of a stream"), "8 B + 4 B a token");
}

TEST(Comparison, WhoFailedOrDivergedIsNamedAndDoesNotShortenTheOthersBudget) {
  std::vector<System> systems = {kSystems[0], system("bad", 1, {6, 5}), system("worse", 1, {6})};
  systems[1].run.held_out[0].diverged = true, systems[2].failure = "out of <memory>";
  EXPECT_EQ(common_budget(systems, Axis::kTokens), 400);
  EXPECT_EQ(common_budget(systems, Axis::kSeconds), 4);
  const Table numbers = result_numbers(systems), table = result_table(systems);
  EXPECT_EQ(cell(numbers, 0, "outcome"), "");
  EXPECT_EQ(cell(numbers, 1, "outcome"), "diverged");
  EXPECT_EQ(cell(numbers, 1, "loss_at_equal_tokens"), "");
  EXPECT_EQ(cell(numbers, 2, "outcome"), "failed");
  EXPECT_EQ(cell(table, 0, "system"), "fast");
  EXPECT_EQ(cell(table, 1, "system"), "bad (diverged)");
  EXPECT_EQ(cell(table, 2, "system"), "worse (failed)");
  EXPECT_EQ(cell(table, 2, "loss after 400 tokens"), "-");
  expect_contains(comparison_page({}, systems), {"bad (diverged)", "<li>worse failed: out of &lt;memory&gt;</li>"});
}

TEST(Comparison, SecondsInHeadingsHaveThreeDigits) {
  const auto heading = [](double seconds) { return result_table({system("one", seconds, {6})}).headings.at(4); };
  EXPECT_EQ(heading(0.0417), "loss after 0.0417 s");
  EXPECT_EQ(heading(7.25), "loss after 7.25 s");
  EXPECT_EQ(heading(1234.4), "loss after 1,234 s");
}

TEST(Comparison, AGpusMemoryIsShownWhereThereIsOne) {
  EXPECT_EQ(cell(result_table(kSystems), 0, "peak memory"), "300 MiB");
  std::vector<System> systems = kSystems;
  systems[0].run.peak_gpu_mib = 1000;
  EXPECT_EQ(cell(result_table(systems), 0, "peak GPU memory"), "1000 MiB");
  EXPECT_EQ(cell(result_table(systems), 1, "peak GPU memory"), "-");
}

TEST(Comparison, CurvesHaveEveryLoss) {
  const Table curves = curve_numbers(kSystems);
  EXPECT_EQ(curves.rows.size(), 2U * 4 + 2U * 3);
  EXPECT_EQ(curves.headings.size(), 7U);
  EXPECT_EQ(curves.rows[0], (std::vector<std::string>{"fast", "training", "1", "100", "1", "5.5", ""}));
  EXPECT_EQ(curves.rows[4], (std::vector<std::string>{"fast", "valid", "1", "100", "1", "6", "12"}));
  System without_bits = system("one", 1, {6});
  without_bits.run.held_out[0].list[0].bits_per_byte.reset();
  EXPECT_EQ(curve_numbers({without_bits}).rows[1].back(), "");
  EXPECT_EQ(cell(result_numbers({without_bits}), 0, "bits_per_byte_at_equal_tokens"), "");
}

TEST(Comparison, SizesAreToldBeforeAnythingIsTrained) {
  const Table sizes = size_table({System{"a-1M", "s4", 1'234'567, 7e6, 1536, 0, {}, ""}});
  EXPECT_EQ(sizes.rows[0], (std::vector<std::string>{"a-1M", "s4", "1,234,567", "7,000,000", "1.5 KiB"}));
}

TEST(Comparison, ThePageIsWholeAndNeedsNothingElse) {
  const std::string page = comparison_page(
      {"megalodon 1", "a <fast> machine", "today", "megalodon compare 'a&b.toml'", "x = \"<tag>\"\n"}, kSystems);
  expect_contains(
      page, {"<!DOCTYPE html>", "</html>", "a &lt;fast&gt; machine", "compare &#39;a&amp;b.toml&#39;",
             "x = &quot;&lt;tag&gt;&quot;", "loss after 300 tokens", "Held-out text: valid.", "Held-out loss by tokens",
             "Training loss, smoothed, by seconds of training", "prefers-color-scheme: dark"});
  for (const char* part : {"http", "src=", "href=", "<script", "@import", "url("})
    EXPECT_EQ(page.find(part), std::string::npos) << part;
}

}  // namespace
}  // namespace megalodon::report
