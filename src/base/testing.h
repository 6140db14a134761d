// What tests of all folders share.
#pragma once

#include <gtest/gtest.h>

#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/file.h"

namespace megalodon {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kMeasuresMemory = false;  // the sanitizer's own dwarfs what is measured
#elif defined(__has_feature)
inline constexpr bool kMeasuresMemory = !__has_feature(address_sanitizer);
#else
inline constexpr bool kMeasuresMemory = true;
#endif

/// A fresh folder for each test and process (two checkouts may be tested at once), removed afterwards.
class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = fmt::format("{}.{}.{}", test->test_suite_name(), test->name(), ::getpid());
    for (char& c : name)
      if (c == '/') c = '.';  // of parameterized tests
    folder_ = fs::path(::testing::TempDir()) / name;
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path put(const fs::path& name, std::string_view content) const {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    // Neither atomic nor over the old file: ext4 syncs a file that is cut to nothing and rewritten, and syncing
    // thousands of little files would take all of the tests' time.
    fs::remove(path);
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  /// Of what lies in the folder itself.
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_)) found.insert(entry.path().filename());
    return found;
  }

  fs::path folder_;
};

/// The message of the Error that `action` throws; fails the test where it throws none.
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an Error";
  return {};
}

inline void expect_contains(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' in: " << text;
}

}  // namespace megalodon
