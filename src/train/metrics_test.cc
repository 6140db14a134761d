#include "train/metrics.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

class Metrics : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove(path_); }
  void TearDown() override { fs::remove(path_); }
  void write(int64_t first, int64_t last) const {
    MetricsLog log(path_, {.step = first - 1, .records = first - 1, .unwritten = {}});
    for (int64_t step = first; step <= last; ++step) log.append({{"step", step}, {"loss", 0.5}});
  }
  std::string content() const { return read_file(path_); }

  const fs::path path_ =
      fs::path(::testing::TempDir()) /
      fmt::format("metrics.{}.jsonl", ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(Metrics, OneObjectPerLine) {
  write(1, 2);
  EXPECT_EQ(content(), "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.5}\n");
}

TEST_F(Metrics, ResumingDropsLaterSteps) {
  write(1, 5);
  const std::string straight = content();
  write(4, 5);
  EXPECT_EQ(content(), straight);
}

TEST_F(Metrics, LinesBehindTheCheckpointAreDropped) {
  write(1, 3);
  const std::string straight = content();
  MetricsLog(path_, {.step = 3, .records = 3, .unwritten = {}}).append({{"step", 3}, {"eval_loss/valid", 0.5}});
  MetricsLog log(path_, {.step = 3, .records = 3, .unwritten = {}});
  EXPECT_EQ(content(), straight) << "of an evaluation that the checkpoint still owes";
  EXPECT_EQ(log.records(), 3);
  log.append({{"step", 4}, {"loss", 0.5}});
  EXPECT_EQ(log.records(), 4);
  EXPECT_EQ(MetricsLog(path_, {.step = 9, .records = 9, .unwritten = {}}).records(), 4) << "a file that lost its end";
}

TEST_F(Metrics, ALineCutShortIsDropped) {
  write(1, 3);
  const std::string straight = content();
  fs::resize_file(path_, fs::file_size(path_) - 4);
  write(3, 3);
  EXPECT_EQ(content(), straight);
}

TEST_F(Metrics, LinesOfOtherKindsEndTheFile) {
  write(1, 2);
  std::ofstream(path_, std::ios::app) << "not json\n[1]\n{\"step\":\"x\"}\n";
  write(3, 3);
  EXPECT_EQ(content(), "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.5}\n{\"step\":3,\"loss\":0.5}\n");
}

TEST_F(Metrics, TheCheckpointHoldsWhatTheDiskDidNotTake) {
  write(1, 6);
  const std::string straight = content();
  const auto line = [](int64_t step) { return Json{{"step", step}, {"loss", 0.5}}.dump() + "\n"; };
  const MetricsLog::Position position = {.step = 4, .records = 4, .unwritten = {line(3), line(4)}};
  // None of the lines that a checkpoint holds came into the file later, or one and a half, or all and more.
  for (const double lines : {2.0, 3.5, 6.0}) {
    SCOPED_TRACE(lines);
    fs::resize_file(path_, static_cast<uintmax_t>(lines * static_cast<double>(line(1).size())));
    MetricsLog log(path_, position);
    EXPECT_EQ(log.records(), 4);
    for (const int64_t step : {5, 6}) log.append({{"step", step}, {"loss", 0.5}});
    EXPECT_EQ(content(), straight);
    log.rewind(position);
    EXPECT_EQ(content(), straight.substr(0, 4 * line(1).size()));
    for (const int64_t step : {5, 6}) log.append({{"step", step}, {"loss", 0.5}});
    EXPECT_EQ(content(), straight);
  }
}

}  // namespace
}  // namespace megalodon
