// What the tests of this folder share.
#pragma once

#include <string>
#include <vector>

#include "base/testing.h"
#include "data/token_files.h"

namespace megalodon::data {

/// A fresh folder for each test, with corpora in it.
class CorpusTest : public FolderTest {
 protected:
  fs::path put_documents(const std::string& name, const std::vector<std::vector<int32_t>>& documents,
                         int64_t vocabulary) const {
    TokenFileWriter writer(folder_ / name, vocabulary);
    for (const auto& document : documents) writer.add_document(document);
    writer.finish();
    return folder_ / name;
  }
};

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
