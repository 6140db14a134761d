#include "data/unpack.h"

#include <archive.h>
#include <archive_entry.h>

#include <memory>

#include "data/testing.h"

namespace megalodon::data {
namespace {

struct Entry {
  std::string name;
  std::string content = {};
  unsigned kind = AE_IFREG;
  std::string link = {};      // target of a symbolic link
  std::string hardlink = {};  // target of a hard link
};

enum class Format { kZip, kTar, kTarGz, kTarZst };

class Unpack : public FolderTest {
 protected:
  fs::path put_archive(Format format, const std::vector<Entry>& entries) const {
    const fs::path path = folder_ / "archive";
    const std::unique_ptr<archive, int (*)(archive*)> out(archive_write_new(), archive_write_free);
    if (format == Format::kZip) {
      EXPECT_EQ(archive_write_set_format_zip(out.get()), ARCHIVE_OK);
    } else {
      EXPECT_EQ(archive_write_set_format_pax_restricted(out.get()), ARCHIVE_OK);
    }
    if (format == Format::kTarGz) archive_write_add_filter_gzip(out.get());
    if (format == Format::kTarZst) archive_write_add_filter_zstd(out.get());
    EXPECT_EQ(archive_write_open_filename(out.get(), path.c_str()), ARCHIVE_OK);
    for (const Entry& each : entries) {
      const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(), archive_entry_free);
      archive_entry_set_pathname(entry.get(), each.name.c_str());
      archive_entry_set_filetype(entry.get(), each.kind);
      archive_entry_set_perm(entry.get(), 04777);
      archive_entry_set_size(entry.get(), static_cast<int64_t>(each.content.size()));
      if (!each.link.empty()) archive_entry_set_symlink(entry.get(), each.link.c_str());
      if (!each.hardlink.empty()) archive_entry_set_hardlink(entry.get(), each.hardlink.c_str());
      EXPECT_EQ(archive_write_header(out.get(), entry.get()), ARCHIVE_OK) << archive_error_string(out.get());
      if (!each.content.empty()) archive_write_data(out.get(), each.content.data(), each.content.size());
    }
    EXPECT_EQ(archive_write_close(out.get()), ARCHIVE_OK);
    return path;
  }

  void unpack_archive(const UnpackLimits& limits = {}) const { unpack(folder_ / "archive", folder_ / "out", limits); }

  /// The message of the refusal; nothing may be left behind.
  std::string refusal(Format format, const std::vector<Entry>& entries, const UnpackLimits& limits = {}) const {
    put_archive(format, entries);
    std::string message = error_of([&] { unpack_archive(limits); });
    std::vector<std::string> left;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) left.push_back(entry.path().filename());
    EXPECT_EQ(left, std::vector<std::string>{"archive"});
    return message;
  }
};

TEST_F(Unpack, FilesAndFolders) {
  for (const Format format : {Format::kZip, Format::kTar, Format::kTarGz, Format::kTarZst}) {
    const std::string large(3000000, 'x');
    put_archive(format, {{"top", "", AE_IFDIR}, {"top/a.txt", "one"}, {"./deep/er/b.bin", large}, {"empty"}});
    uint64_t done = 0, total = 0;
    unpack(folder_ / "archive", folder_ / "out", {}, [&](uint64_t d, uint64_t t) { done = d, total = t; });
    EXPECT_EQ(read_file(folder_ / "out/top/a.txt"), "one");
    EXPECT_EQ(read_file(folder_ / "out/deep/er/b.bin"), large);
    EXPECT_EQ(read_file(folder_ / "out/empty"), "");
    EXPECT_EQ(done, total);
    EXPECT_EQ(total, fs::file_size(folder_ / "archive"));
    const auto mode = fs::status(folder_ / "out/top/a.txt").permissions();
    EXPECT_EQ(mode & (fs::perms::set_uid | fs::perms::owner_exec | fs::perms::others_exec), fs::perms::none);
  }
}

TEST_F(Unpack, ReplacesAFolderWhole) {
  put("out/old.txt", "old");
  put_archive(Format::kZip, {{"new.txt", "new"}});
  unpack_archive();
  EXPECT_FALSE(fs::exists(folder_ / "out/old.txt"));
  EXPECT_EQ(read_file(folder_ / "out/new.txt"), "new");
}

TEST_F(Unpack, RefusesPathsThatLeave) {
  for (const Format format : {Format::kZip, Format::kTarGz}) {
    expect_contains(refusal(format, {{"fine", "x"}, {"../evil", "x"}}), {"'../evil'", "'..'"});
    expect_contains(refusal(format, {{"a/../../evil", "x"}}), {"a/../../evil", "'..'"});
    expect_contains(refusal(format, {{"a/..", "x"}}), {"'..'"});
    expect_contains(refusal(format, {{"/tmp/evil", "x"}}), {"'/tmp/evil'", "absolute"});
  }
  expect_contains(refusal(Format::kTar, {{"..\\evil", "x"}}), {"backslash"});
  expect_contains(refusal(Format::kZip, {{"..\\evil", "x"}}), {"'../evil'"});  // libarchive takes it for a slash
  EXPECT_FALSE(fs::exists(folder_.parent_path() / "evil"));
}

TEST_F(Unpack, RefusesLinksAndDevices) {
  for (const Format format : {Format::kZip, Format::kTarGz})
    expect_contains(refusal(format, {{"door", "", AE_IFLNK, "/etc"}, {"door/passwd", "x"}}), {"'door'", "link"});
  expect_contains(refusal(Format::kTar, {{"a", "x"}, {"b", "", AE_IFREG, "", "a"}}), {"'b'", "is a link"});
  expect_contains(refusal(Format::kTar, {{"b", "", AE_IFREG, "", "/etc/passwd"}}), {"is a link"});
  expect_contains(refusal(Format::kTar, {{"pipe", "", AE_IFIFO}}), {"neither a file nor a folder"});
  expect_contains(refusal(Format::kTar, {{"null", "", AE_IFCHR}}), {"neither a file nor a folder"});
}

TEST_F(Unpack, RefusesNamesInEachOthersWay) {
  expect_contains(refusal(Format::kTar, {{"a", "1"}, {"a", "2"}}), {"'a'", "twice"});
  expect_contains(refusal(Format::kTar, {{"a", "1"}, {"./a", "2"}}), {"'a'", "twice"});
  expect_contains(refusal(Format::kTar, {{"a", "1"}, {"a/b", "2"}}), {"'a/b'", "cannot be made"});
  expect_contains(refusal(Format::kTar, {{"a/b", "1"}, {"a", "2"}}), {"'a'", "twice"});
}

TEST_F(Unpack, RefusesBombs) {
  std::string zeros;
  zeros.resize(20000000);
  for (const Format format : {Format::kZip, Format::kTarGz}) {
    expect_contains(refusal(format, {{"zeros", zeros}}), {"'zeros'", "limit of"});
    expect_contains(refusal(format, {{"a", "abc"}, {"b", "defg"}}, {6, 10}), {"'b'", "limit of 6 bytes"});
    expect_contains(refusal(format, {{"a"}, {"b"}, {"c"}}, {100, 2}), {"'c'", "2 entries"});
  }
  put_archive(Format::kZip, {{"a", "abc"}, {"b", "defg"}});
  unpack_archive({7, 2});
}

/// A size that the header understates must not get more than the limit through: the data is counted, not the claim.
TEST_F(Unpack, RefusesUnderstatedSizes) {
  const std::string zeros(5000000, '\0');
  const fs::path path = put_archive(Format::kZip, {{"zeros", zeros}});
  std::string zip = read_file(path);
  const std::string size = {'\x40', '\x4b', '\x4c', '\x00'};  // 5,000,000 little-endian
  size_t changed = 0;
  for (size_t at = zip.find(size); at != std::string::npos; at = zip.find(size, at + 1), ++changed)
    zip.replace(at, 4, std::string("\x01\x00\x00\x00", 4));
  ASSERT_GT(changed, 0U);
  put("archive", zip);
  const std::string message = error_of([&] { unpack_archive({1000, 10}); });
  EXPECT_FALSE(message.empty());
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Unpack, RefusesDamage) {
  const fs::path path = put_archive(Format::kTarGz, {{"a", std::string(100000, 'a')}, {"b", "b"}});
  const std::string whole = read_file(path);
  put("archive", whole.substr(0, whole.size() / 2));
  expect_contains(error_of([&] { unpack_archive(); }), {"[unpack]", "archive"});
  put("archive", "this is no archive, whatever its name says");
  expect_contains(error_of([&] { unpack_archive(); }), {"[unpack]", "archive"});
  put("archive", "");
  expect_contains(error_of([&] { unpack_archive(); }), {"[unpack]"});
  fs::remove(path);
  expect_contains(error_of([&] { unpack_archive(); }), {"not a file"});
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Unpack, EndsWhenProgressThrows) {
  put_archive(Format::kTar, {{"a", std::string(3000000, 'a')}});
  EXPECT_THROW(unpack(folder_ / "archive", folder_ / "out", {}, [](uint64_t, uint64_t) { fail("stop"); }), Error);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace megalodon::data
