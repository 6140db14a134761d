#include "io/zip.h"

#include <fmt/format.h>

#include "io/testing.h"

namespace megalodon::io::zip_test {
namespace {

using testing::exact;

std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries, uint64_t zip64_from = 0xFFFFFFFF) {
  std::string file;
  ZipWriter zip([&](std::string_view bytes) { file += bytes; }, zip64_from);
  for (const auto& [name, data] : entries) zip.add(name, as_bytes(data));
  zip.finish();
  return file;
}

std::string error_of(const std::string& file) {
  return testing::error_of([&] {
    const auto bytes = exact(file);
    const ZipReader zip(*bytes);
    for (const ZipEntry& entry : zip.entries()) check_crc(entry);
  });
}

template <class T>
std::string patched(std::string file, size_t offset, T value) {
  std::memcpy(file.data() + offset, &value, sizeof value);
  return file;
}

size_t local_of(const std::string& file, int n = 0) {
  size_t offset = file.find("PK\3\4");
  for (; n > 0; --n) offset = file.find("PK\3\4", offset + 1);
  return offset;
}
size_t directory_of(const std::string& file) {
  return file.find("PK\1\2");
}
size_t end_of(const std::string& file) {
  return file.rfind("PK\5\6");
}

TEST(Zip, KnownArchiveReads) {
  // printf hi > a; zip -0 -X (no extra fields), by hand.
  std::string file("PK\3\4\x0a\0\0\0\0\0\0\0\x21\0\xac\x2a\x93\xd8\2\0\0\0\2\0\0\0\1\0\0\0ahi", 33);
  file += std::string(
      "PK\1\2\x1e\3\x0a\0\0\0\0\0\0\0\x21\0\xac\x2a\x93\xd8\2\0\0\0\2\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a", 47);
  file += std::string("PK\5\6\0\0\0\0\1\0\1\0\x2f\0\0\0\x21\0\0\0\3\0end", 25);  // with a comment
  const auto bytes = exact(file);
  const ZipReader zip(*bytes);
  ASSERT_NE(zip.find("a"), nullptr);
  EXPECT_EQ(as_text(zip.find("a")->data), "hi");
  EXPECT_EQ(zip.find("b"), nullptr);
  check_crc(*zip.find("a"));
}

TEST(Zip, RoundTripIsAligned) {
  const std::vector<std::pair<std::string, std::string>> entries = {
      {"x/data.pkl", "12345"}, {"x/data/0", std::string(1000, 'z')}, {"x/empty", ""}, {"x/é", "u"}};
  for (const uint64_t zip64_from : {uint64_t{0xFFFFFFFF}, uint64_t{900}, uint64_t{0}}) {
    const auto bytes = exact(zip_of(entries, zip64_from));
    const ZipReader zip(*bytes);
    ASSERT_EQ(zip.entries().size(), entries.size());
    for (size_t i = 0; i < entries.size(); ++i) {
      const ZipEntry& entry = zip.entries()[i];
      EXPECT_EQ(entry.name, entries[i].first);
      EXPECT_EQ(as_text(entry.data), entries[i].second);
      EXPECT_EQ((entry.data.data() - bytes->data()) % 64, 0) << entry.name;
      check_crc(entry);
    }
  }
}

TEST(Zip, SixtyFourBitFormIsUsedAndNeeded) {
  const std::string plain = zip_of({{"a", "data"}}), large = zip_of({{"a", "data"}}, 0);
  EXPECT_EQ(plain.find("PK\6\6"), std::string::npos);
  ASSERT_NE(large.find("PK\6\6"), std::string::npos);
  EXPECT_EQ(error_of(large), "no error");
  const size_t record = large.find("PK\6\6"), locator = large.find("PK\6\7");
  EXPECT_NE(error_of(patched(large, record, uint32_t{0})), "no error");
  EXPECT_NE(error_of(patched(large, locator, uint32_t{0})), "no error");
  for (const uint64_t offset : {uint64_t{0}, uint64_t{large.size()}, uint64_t{1} << 63, UINT64_MAX}) {
    EXPECT_NE(error_of(patched(large, locator + 8, offset)), "no error") << offset;
    EXPECT_NE(error_of(patched(large, record + 48, offset)), "no error") << offset;  // of the directory
  }
  for (const uint64_t count : {uint64_t{0}, uint64_t{2}, uint64_t{1} << 60}) {
    EXPECT_NE(error_of(patched(large, record + 32, count)), "no error") << count;
  }
  // The entry's own size and offset, in the extra field that ends its directory header.
  const size_t extra = record - 24;
  for (const uint64_t value : {uint64_t{1} << 40, UINT64_MAX}) {
    EXPECT_NE(error_of(patched(large, extra, value)), "no error");
    EXPECT_NE(error_of(patched(patched(large, extra, value), extra + 8, value)), "no error");
    EXPECT_NE(error_of(patched(large, extra + 16, value)), "no error");
  }
}

TEST(Zip, RefusesWhatTorchSaveNeverWrites) {
  const std::string file = zip_of({{"a", "data"}, {"b", "more"}});
  const size_t directory = directory_of(file), end = end_of(file);
  ASSERT_EQ(error_of(file), "no error");
  EXPECT_TRUE(error_of(patched(file, directory + 8, uint16_t{1})).ends_with("is encrypted"));
  EXPECT_TRUE(
      error_of(patched(file, directory + 10, uint16_t{8})).starts_with("zip entry 'a' is compressed (method 8"));
  EXPECT_TRUE(error_of(patched(file, directory + 24, uint32_t{1} << 30)).starts_with("zip entry 'a' is compressed"));
  EXPECT_TRUE(error_of(patched(file, end + 4, uint16_t{1})).ends_with("split over several files"));
}

TEST(Zip, RefusesBrokenStructure) {
  const std::string file = zip_of({{"a", "data"}, {"b", "more"}});
  const size_t directory = directory_of(file), end = end_of(file);
  const auto expect = [](const std::string& broken, std::string_view part) {
    EXPECT_NE(error_of(broken).find(part), std::string::npos) << error_of(broken);
  };
  expect("", "too short for a zip archive");
  expect(std::string(1000, 'x'), "no end record");
  expect(file + "x", "no end record");  // bytes behind the end that no comment covers
  expect(patched(file, end + 10, uint16_t{1}), "follow the 1 entries");
  expect(patched(file, end + 10, uint16_t{3}), "do not fit");
  expect(patched(file, end + 12, uint32_t{1000000}), "outside the file");
  expect(patched(file, end + 16, uint32_t{0xFFFFFFFF}), "outside the file");
  expect(patched(file, end + 16, uint32_t{1}), "no entry where one is expected");
  expect(patched(file, directory, uint32_t{0}), "no entry where one is expected");
  expect(patched(file, directory + 28, uint16_t{60000}), "bytes expected at offset");  // length of the name
  expect(patched(file, directory + 42, uint32_t{1}), "no local header");
  expect(patched(file, directory + 42, static_cast<uint32_t>(directory)), "outside the file");
  expect(patched(file, local_of(file) + 30, 'c'), "another name in its local header");
  expect(patched(file, local_of(file) + 28, uint16_t{60000}), "bytes expected at offset");  // length of the extra field
  std::string same = file;                                                                  // both entries named "a"
  same[local_of(same, 1) + 30] = 'a';
  same[same.find('b', directory)] = 'a';
  expect(same, "two zip entries are named 'a'");
}

TEST(Zip, RefusesOverlappingEntries) {
  // The first entry is stretched over the second: the trick of zip bombs that need no compression.
  const std::string file = zip_of({{"a", std::string(64, 'x')}, {"b", "more"}});
  const size_t directory = directory_of(file);
  const std::string stretched = patched(patched(file, directory + 20, uint32_t{100}), directory + 24, uint32_t{100});
  EXPECT_TRUE(error_of(stretched).ends_with("overlaps the one that follows it")) << error_of(stretched);
}

TEST(Zip, RefusesNamesThatLeaveTheFolder) {
  for (const char* name : {"/etc/passwd", "..", "../a", "x/../../a", "x/..", "x\\..\\a", "C:\\a"}) {
    EXPECT_TRUE(error_of(zip_of({{name, "data"}})).ends_with("is named as a path that leaves its folder")) << name;
  }
  EXPECT_EQ(error_of(zip_of({{"x/.data/..a", "data"}})), "no error");
}

TEST(Zip, RefusesBytesInFrontOfTheArchive) {
  // Offsets moved along, as in an archive that unpacks itself: two files of different kinds in one.
  const std::string front = "other file", file = zip_of({{"a", "data"}});
  const size_t directory = directory_of(file), end = end_of(file);
  const auto moved = [&](std::string whole, size_t at) {
    uint32_t offset = 0;
    std::memcpy(&offset, whole.data() + at, sizeof offset);
    return patched(whole, at, static_cast<uint32_t>(offset + front.size()));
  };
  EXPECT_EQ(error_of(front + moved(moved(file, directory + 42), end + 16)), "10 bytes in front of the zip archive");
}

TEST(Zip, RefusesDamagedData) {
  std::string file = zip_of({{"a", "data"}});
  file[file.find("data")] = 'D';
  EXPECT_TRUE(error_of(file).starts_with("zip entry 'a' is damaged: checksum ")) << error_of(file);
}

TEST(Zip, DamagedFilesAreRefusedOrRead) {
  for (const uint64_t zip64_from : {uint64_t{0xFFFFFFFF}, uint64_t{0}}) {
    const std::string file = zip_of({{"x/data.pkl", "12345"}, {"x/data/0", std::string(20, 'z')}}, zip64_from);
    const int refused = testing::damage(file, 4000, [](const auto& bytes) {
      const ZipReader zip(*bytes);
      for (const ZipEntry& entry : zip.entries()) check_crc(entry);
    });
    EXPECT_GT(refused, 1000);
    EXPECT_LT(refused, 4000);
  }
}

}  // namespace
}  // namespace megalodon::io::zip_test
