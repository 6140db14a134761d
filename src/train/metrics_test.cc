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
    MetricsLog log(path_, first - 1, first - 1);
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
  MetricsLog(path_, 3, 3).append({{"step", 3}, {"eval_loss/valid", 0.5}});
  MetricsLog log(path_, 3, 3);
  EXPECT_EQ(content(), straight) << "of an evaluation that the checkpoint still owes";
  EXPECT_EQ(log.records(), 3);
  log.append({{"step", 4}, {"loss", 0.5}});
  EXPECT_EQ(log.records(), 4);
  EXPECT_EQ(MetricsLog(path_, 9, 9).records(), 4) << "a file that lost its end";
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

}  // namespace
}  // namespace megalodon
