// Losses of fixed runs, step by step, against those that were recorded (docs/numerics.md, "Traces").
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "base/check.h"
#include "machine.h"
#include "models/architecture_testing.h"
#include "small_run.h"

namespace megalodon {
namespace {

using testing::machine;
using Json = nlohmann::ordered_json;

struct TraceCase {
  std::string name;
  double tolerance;  // relative, where the machine is another one
  double learnt;     // share of the first loss that the last is below: a run that learns nothing would be no test
  std::function<void(RunConfig&)> change;
  friend void PrintTo(const TraceCase& value, std::ostream* out) { *out << value.name; }
};

/// 200 steps of one model in either precision, and ten of each small model of the registry.
std::vector<TraceCase> cases() {
  // Bfloat16 rounds at other places where products are made in another order: 0.4% each.
  std::vector<TraceCase> list = {
      {"float32", 1e-3, 0.6, [](RunConfig&) {}},
      {"bfloat16", 1e-2, 0.6, [](RunConfig& run) { run.train.precision = "bfloat16"; }},
  };
  for (const Preset& preset : testing::tiny_presets())
    list.push_back({preset.name, 1e-3, 0.95, [preset](RunConfig& run) {
                      run.arch = preset.config->architecture(), run.model = preset.config->clone();
                      run.schedule.warmup = 2, run.train.steps = 10;
                    }});
  return list;
}

double worst_difference(const std::vector<double>& got, const std::vector<double>& expected) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(got[i] - expected[i]) / std::abs(expected[i]);
    if (!(difference <= worst)) worst = difference;  // NaN too
  }
  return worst;
}

class Trace : public testing::SmallRunTest, public ::testing::WithParamInterface<TraceCase> {
 protected:
  fs::path file() const { return fs::path(MEGALODON_TESTS_DIR) / "slow" / "traces" / (GetParam().name + ".json"); }

  std::vector<double> run() const {
    RunConfig run = small_run(GetParam().name);
    GetParam().change(run);
    return losses_of(run);
  }

  Json recorded() const {
    check(fs::exists(file()), "[{}] does not exist: MEGALODON_RECORD_TRACES=1 records it", file().string());
    return Json::parse(read_file(file()));
  }

  void record(const std::vector<double>& losses) const {
    const Json trace = {{"machine", machine()}, {"losses", losses}};
    write_file_atomically(file(), trace.dump(1) + "\n");
  }
};

TEST_P(Trace, LossesAreThoseRecorded) {
  const auto losses = run();
  if (std::getenv("MEGALODON_RECORD_TRACES") != nullptr) {
    record(losses);
    GTEST_SKIP() << "recorded " << file();
  }
  const Json trace = recorded();
  const auto expected = trace.at("losses").get<std::vector<double>>();
  ASSERT_EQ(losses.size(), expected.size());
  EXPECT_LT(expected.back(), GetParam().learnt * expected.front());
  // On the machine of the record every bit counts.
  const double tolerance = trace.at("machine") == machine() ? 0 : GetParam().tolerance;
  EXPECT_LE(worst_difference(losses, expected), tolerance)
      << "recorded on " << trace.at("machine") << ", this is " << machine();
}

TEST_P(Trace, AnotherInstructionSetStaysWithinTheTolerance) {
  const std::string best = machine().at("kernels");
  const testing::LeastInstructionSet least;
  if (machine().at("kernels") == best) GTEST_SKIP() << "there is only " << best;
  const auto losses = run(), expected = recorded().at("losses").get<std::vector<double>>();
  ASSERT_EQ(losses.size(), expected.size());
  EXPECT_NE(losses, expected) << "another instruction set rounds elsewhere; was it used at all?";
  EXPECT_LE(worst_difference(losses, expected), GetParam().tolerance);
}

INSTANTIATE_TEST_SUITE_P(, Trace, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return testing::test_name(info.param.name); });

}  // namespace
}  // namespace megalodon
