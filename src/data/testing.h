// What the tests of this folder share.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "data/token_files.h"

namespace megalodon::data {

/// A fresh folder for each test, removed afterwards.
class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / fmt::format("{}.{}", test->test_suite_name(), test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path put(const std::string& name, std::string_view content) const {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    // Neither atomic nor over the old file: ext4 syncs a file that is cut to nothing and rewritten, and syncing
    // thousands of little files would take all of the tests' time.
    fs::remove(path);
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  fs::path put_documents(const std::string& name, const std::vector<std::vector<int32_t>>& documents,
                         int64_t vocabulary) const {
    TokenFileWriter writer(folder_ / name, vocabulary);
    for (const auto& document : documents) writer.add_document(document);
    writer.finish();
    return folder_ / name;
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

/// The documents of a pair whose tokens are bytes.
inline std::vector<std::string> documents_of(const fs::path& prefix) {
  const TokenFile file(prefix);
  std::vector<std::string> documents;
  for (int64_t i = 0; i < file.documents(); ++i) {
    std::vector<int64_t> tokens(static_cast<size_t>(file.document_length(i)));
    file.read(file.document_begin(i), tokens);
    documents.emplace_back(tokens.begin(), tokens.end());
  }
  return documents;
}

inline std::vector<int64_t> all_tokens(const TokenFile& file) {
  std::vector<int64_t> tokens(static_cast<size_t>(file.tokens()));
  file.read(0, tokens);
  return tokens;
}

}  // namespace megalodon::data
