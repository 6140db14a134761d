#include "data/token_files.h"

#include <cstring>
#include <fstream>
#include <set>

#include "data/testing.h"
#include "data/tokenizer.h"

namespace megalodon::data {
namespace {

class TokenFiles : public CorpusTest {
 protected:
  fs::path put_pair(const std::string& index, const std::string& tokens) const {
    put("a.bin", tokens);
    put("a.idx", index);
    return folder_ / "a";
  }
};

TEST_F(TokenFiles, WritesTheFormatByteForByte) {
  put_documents("a", {{1, 2, 3}, {4}}, 1000);
  EXPECT_EQ(read_file(folder_ / "a.idx"), kIndex);
  EXPECT_EQ(read_file(folder_ / "a.bin"), kTokens);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 2);
}

TEST_F(TokenFiles, RoundTripInEveryWidthWithEmptyDocuments) {
  const std::vector<std::pair<int64_t, int>> widths = {{2, 1},     {256, 1},   {257, 8},
                                                       {65499, 8}, {65500, 4}, {int64_t{1} << 31, 4}};
  for (const auto& [vocabulary, code] : widths) {
    const auto last = static_cast<int32_t>(vocabulary - 1);
    const TokenFile file(put_documents("a", {{}, {last, 0}, {}, {}, {1, last, last}, {}}, vocabulary));
    EXPECT_EQ(file.dtype_code(), code);
    EXPECT_EQ(file.documents(), 6);
    EXPECT_EQ(file.tokens(), 5);
    EXPECT_EQ(all_tokens(file), (std::vector<int64_t>{last, 0, 1, last, last}));
    EXPECT_EQ(file.document_length(0), 0);
    EXPECT_EQ(file.document_length(4), 3);
    EXPECT_EQ(file.document_begin(4), 2);
    EXPECT_EQ(file.document_of(0), 1);
    EXPECT_EQ(file.document_of(1), 1);
    EXPECT_EQ(file.document_of(2), 4);
    EXPECT_EQ(file.document_of(4), 4);
    error_of([&] { (void)file.document_of(5); });
    error_of([&] { (void)file.document_of(-1); });
  }
}

TEST_F(TokenFiles, EveryRangeReadsTheSame) {
  const TokenFile file(put_documents("a", {{0, 1, 2}, {}, {3}, {4, 5, 6, 7}}, 10));
  for (int64_t begin = 0; begin <= 8; ++begin) {
    for (int64_t end = begin; end <= 8; ++end) {
      std::vector<int64_t> out(static_cast<size_t>(end - begin));
      file.read(begin, out);
      for (int64_t i = begin; i < end; ++i) EXPECT_EQ(out[static_cast<size_t>(i - begin)], i);
    }
  }
  std::vector<int64_t> out(2);
  expect_contains(error_of([&] { file.read(7, out); }), {"2 tokens at 7", "8"});
  error_of([&] { file.read(-1, out); });
  error_of([&] { file.read(9, {}); });
}

TEST_F(TokenFiles, OpensWithEitherSuffixOrNone) {
  const fs::path prefix = put_documents("corpus.v2", {{1}}, 256);
  for (const char* suffix : {"", ".bin", ".idx"}) EXPECT_EQ(TokenFile(prefix.string() + suffix).tokens(), 1);
}

TEST_F(TokenFiles, NothingAppearsBeforeFinish) {
  {
    TokenFileWriter writer(folder_ / "a", 256);
    writer.add_document(std::vector<int32_t>{1});
    EXPECT_FALSE(fs::exists(folder_ / "a.bin"));
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(TokenFiles, LongDocumentsBecomeSeveralSequences) {
  TokenFileWriter writer(folder_ / "a", 256, 3);
  writer.append("ab");
  writer.append("cdefgh");
  writer.end_document();
  writer.append("xyz");
  writer.end_document();
  writer.end_document();
  EXPECT_EQ(writer.documents(), 3);
  writer.finish();
  const TokenFile file(folder_ / "a");
  EXPECT_EQ(file.sequences(), 5);
  ASSERT_EQ(file.documents(), 3);
  EXPECT_EQ(file.document_length(0), 8);
  EXPECT_EQ(file.document_length(1), 3);
  EXPECT_EQ(file.document_length(2), 0);
  const std::string text = "abcdefghxyz";
  EXPECT_EQ(all_tokens(file), std::vector<int64_t>(text.begin(), text.end()));
}

TEST_F(TokenFiles, PartsAppearTogetherOrNotAtAll) {
  put_documents("a", {{1}}, 256);
  put_documents("b", {{2}}, 256);
  const std::string old = read_file(folder_ / "a.bin");
  TokenFileWriter a(folder_ / "a", 256), b(folder_ / "b", 256);
  a.add_document(std::vector<int32_t>{3, 4});
  b.add_document(std::vector<int32_t>{5, 6});
  // A folder where b's index should go: nothing of the set may be usable, least of all the new a beside the old b.
  fs::remove(folder_ / "b.idx");
  fs::create_directories(folder_ / "b.idx" / "in the way");
  TokenFileWriter* const both[] = {&a, &b};
  EXPECT_ANY_THROW(TokenFileWriter::finish_together(both));
  EXPECT_FALSE(fs::exists(folder_ / "a.idx"));
}

TEST_F(TokenFiles, WriterRefusesWhatTheFormatCannotHold) {
  TokenFileWriter writer(folder_ / "a", 300);
  expect_contains(error_of([&] { writer.add_document(std::vector<int32_t>{5, 300}); }), {"[0, 300)", "300"});
  expect_contains(error_of([&] { writer.add_document(std::vector<int32_t>{-1}); }), {"[0, 300)", "-1"});
  EXPECT_EQ(writer.tokens(), 0);
  EXPECT_EQ(writer.documents(), 0);
  for (const int64_t vocabulary : {int64_t{0}, int64_t{-1}, (int64_t{1} << 31) + 1})
    expect_contains(error_of([&] { TokenFileWriter(folder_ / "b", vocabulary); }), {"vocabulary"});
}

TEST_F(TokenFiles, ReadsSeveralSequencesPerDocumentInAnyOrderOfBytesAndModes) {
  // Two documents: sequences {3, 4} and {1} + {}; the stored order is [1 2 3 4], byte offsets 4, 0, 8 into u16.
  std::string index = kIndex.substr(0, 18);
  const auto put_value = [&](auto value) { index.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  for (const uint64_t count : {3, 3}) put_value(count);
  for (const int32_t length : {2, 1, 0}) put_value(length);
  for (const int64_t offset : {4, 0, 8}) put_value(offset);
  for (const int64_t first : {0, 1, 3}) put_value(first);
  const std::string modes(3, '\0');
  for (const std::string& tail : {std::string(), modes}) {
    const TokenFile file(put_pair(index + tail, kTokens));
    EXPECT_EQ(file.sequences(), 3);
    EXPECT_EQ(file.documents(), 2);
    EXPECT_EQ(file.document_length(0), 2);
    EXPECT_EQ(file.document_length(1), 1);
    EXPECT_EQ(all_tokens(file), (std::vector<int64_t>{3, 4, 1}));
  }
}

TEST_F(TokenFiles, ReadsEveryIntegerType) {
  const auto read_as = [&](int code, const std::string& tokens, int32_t first, int32_t second) {
    const size_t width = tokens.size() / 4;
    const std::string index = with(with(kIndex, 17, static_cast<uint8_t>(code)), 50, static_cast<int64_t>(3 * width));
    const TokenFile file(put_pair(index, tokens));
    const std::vector<int64_t> got = all_tokens(file);
    EXPECT_EQ(got[0], first) << code;
    EXPECT_EQ(got[3], second) << code;
  };
  read_as(1, from_hex("FF000002"), 255, 2);
  read_as(2, from_hex("FF000002"), -1, 2);
  read_as(3, from_hex("FFFF000000000200"), -1, 2);
  read_as(8, from_hex("FFFF000000000200"), 65535, 2);
  read_as(4, from_hex("FFFFFF7F000000000000000002000000"), 0x7FFFFFFF, 2);
  read_as(5,
          from_hex("FFFFFFFFFFFFFFFF0000000000000000000000000000000002000000000000"
                   "00"),
          -1, 2);
}

TEST_F(TokenFiles, PartsOfAnOlderSplitGoBeforeTheNewOneIsThere) {
  const ByteTokenizer bytes;
  const auto write = [&](const std::vector<const char*>& parts) {
    std::vector<std::unique_ptr<TokenFileWriter>> writers;
    std::vector<TokenFileWriter*> all;
    for (const char* part : parts) {
      all.push_back(writers.emplace_back(std::make_unique<TokenFileWriter>(folder_ / part, bytes)).get());
      all.back()->add_document(std::vector<int32_t>{1});
    }
    TokenFileWriter::finish_together(all, folder_);
  };
  const auto files_of = [](const std::vector<std::string>& parts) {
    std::set<std::string> files;
    for (const std::string& part : parts)
      for (const char* suffix : {".bin", ".idx", ".json"}) files.insert(part + suffix);
    return files;
  };
  write({"train", "valid", "test"});
  // A folder where the new split's first index should go: by then nothing of the old one may be usable.
  fs::remove(folder_ / "valid.idx");
  fs::create_directories(folder_ / "valid.idx" / "in the way");
  EXPECT_ANY_THROW(write({"train", "valid"}));
  for (const char* part : {"train", "test"}) EXPECT_FALSE(fs::exists(folder_ / (std::string(part) + ".idx"))) << part;
  fs::remove_all(folder_ / "valid.idx");
  write({"train", "valid", "test"});
  // A crash after the index went.
  fs::remove(folder_ / "test.idx");
  write({"train", "valid"});
  EXPECT_EQ(names(), files_of({"train", "valid"}));
  // Megatron's pairs go too, files of other kinds under such names stay.
  put_documents("test", {{1}}, 256);
  put("test.json", "[1]");
  write({"train"});
  auto expected = files_of({"train"});
  expected.insert("test.json");
  EXPECT_EQ(names(), expected);
  put("valid.bin", "not ours");
  expected.insert("valid.bin");
  write({"train"});
  EXPECT_EQ(names(), expected);
}

TEST_F(TokenFiles, FingerprintsTellDataApart) {
  const std::vector<std::vector<int32_t>> documents = {{1, 2, 3}, {4, 5}};
  const std::string print = TokenFile(put_documents("a", documents, 256)).fingerprint();
  EXPECT_EQ(print.size(), 16U);
  EXPECT_EQ(TokenFile(put_documents("b", documents, 256)).fingerprint(), print) << "wherever it lies";
  EXPECT_NE(TokenFile(put_documents("c", {{1, 2, 3}, {4, 6}}, 256)).fingerprint(), print) << "another token";
  EXPECT_NE(TokenFile(put_documents("d", {{1, 2}, {3, 4, 5}}, 256)).fingerprint(), print) << "another edge";
}

TEST_F(TokenFiles, FingerprintsOfHugeFilesReadBlocks) {
  // 64 MiB and a bit, most of it a hole in the file.
  const auto bytes = size_t{65} << 20;
  TokenFileWriter writer(folder_ / "a", 256);
  writer.add_document({});
  writer.finish();
  fs::resize_file(folder_ / "a.bin", bytes);
  const auto change = [&](size_t at) {
    std::fstream file(folder_ / "a.bin", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<int64_t>(at));
    file.put('x');
    file.close();
    return TokenFile(folder_ / "a").fingerprint();
  };
  std::set<std::string> prints = {TokenFile(folder_ / "a").fingerprint()};
  EXPECT_TRUE(prints.insert(change(0)).second);
  EXPECT_TRUE(prints.insert(change(bytes - 1)).second);
  EXPECT_TRUE(prints.insert(change(bytes / 1023 * 300)).second);
  EXPECT_FALSE(prints.insert(change((size_t{64} << 10) + 9)).second) << "between two blocks";
}

}  // namespace
}  // namespace megalodon::data
