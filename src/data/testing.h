// What the tests of this folder share.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "base/testing.h"
#include "data/examples.h"
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

inline std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return bytes;
}

// Documents [1, 2, 3] and [4] as u16, the .idx and .bin that Megatron and gpt-neox write.
inline const std::string kIndex = from_hex(
    "4d4d4944494458000001000000000000000802000000000000000300000000000000030000000100000000000000000000000600000000"
    "000000000000000000000001000000000000000200000000000000");
inline const std::string kTokens = from_hex("0100020003000400");

/// The bytes with a value written over some of them.
template <class T>
std::string with(std::string bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
  return bytes;
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

inline std::vector<int64_t> tokens_of(const ExampleFile& file, int64_t example, int64_t sequence = 0) {
  std::vector<int64_t> tokens(static_cast<size_t>(file.length(example, sequence)));
  file.read_tokens(example, sequence, tokens);
  return tokens;
}

inline std::vector<float> vectors_of(const ExampleFile& file, int64_t example) {
  std::vector<float> numbers(static_cast<size_t>(file.length(example, 0) * file.width()));
  file.read_vectors(example, 0, numbers);
  return numbers;
}

inline std::vector<int64_t> all_tokens(const TokenFile& file) {
  std::vector<int64_t> tokens(static_cast<size_t>(file.tokens()));
  file.read(0, tokens);
  return tokens;
}

}  // namespace megalodon::data
