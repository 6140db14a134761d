#include "base/progress.h"

#include <gtest/gtest.h>

#include <memory>

namespace megalodon {
namespace {

std::string written(std::FILE* file) {
  std::rewind(file);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  return text;
}

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

TEST(Progress, APipeGetsPlainLinesOnly) {
  const std::unique_ptr<std::FILE, Close> file(std::tmpfile());
  ASSERT_TRUE(file);
  Progress progress("work", "items", file.get(), Progress::Plain::kNothing);
  EXPECT_FALSE(progress.interactive());
  for (int64_t i = 0; i <= 1000; ++i) progress.update(i, 1000);
  progress.print("half way");
  progress.finish();
  EXPECT_EQ(written(file.get()), "half way\n");
}

TEST(Progress, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(75.4), "1:15");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(3700), "1:01:40");
  EXPECT_EQ(format_duration(-1), "?");
}

TEST(Progress, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(99999), "99999");
  EXPECT_EQ(format_count(100000), "100k");
  EXPECT_EQ(format_count(1234567), "1.23M");
  EXPECT_EQ(format_count(999999), "1M");
}

}  // namespace
}  // namespace megalodon
