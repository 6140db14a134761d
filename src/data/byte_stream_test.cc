#include "data/byte_stream.h"

#include "data/archive_testing.h"

namespace megalodon::data {
namespace {

constexpr const char* kSuffixes[] = {"", ".gz", ".zst", ".xz", ".bz2", ".lz4"};

std::string some_text(size_t bytes) {
  std::string text;
  for (uint64_t i = 0; text.size() < bytes; ++i) text += fmt::format("line {} of {}\n", i, i * 2654435761 % 1000003);
  text.resize(bytes);
  return text;
}

std::unique_ptr<ByteStream> open_named(const fs::path& path) {
  return open_stream(path, format_of(path.filename().string()).compression);
}

template <class Reader>
std::string read_all(Reader& reader, size_t piece = 70000) {
  std::string text, buffer(piece, '\0');
  while (const size_t got = reader.read(buffer.data(), buffer.size())) text.append(buffer, 0, got);
  return text;
}

std::string content_of(const fs::path& path) {
  const auto stream = open_named(path);
  std::string text = read_all(*stream);
  EXPECT_EQ(stream->position(), fs::file_size(path)) << path;
  return text;
}

class ByteStreams : public FolderTest {};

TEST_F(ByteStreams, EveryPackingGivesTheContent) {
  for (const char* suffix : kSuffixes) {
    for (const size_t size : {size_t{0}, size_t{1}, size_t{1000000}}) {
      if (size == 0 && std::string_view(suffix) == ".lz4") continue;  // libarchive 3.6 crashes writing it
      const fs::path path = put_packed(folder_ / fmt::format("a.txt{}", suffix), some_text(size));
      EXPECT_EQ(content_of(path), some_text(size)) << suffix << " " << size;
    }
  }
}

TEST_F(ByteStreams, SeveralStreamsInOneFileAreOneText) {
  for (const char* suffix : {".gz", ".zst", ".xz", ".bz2"}) {
    const std::string one = read_file(put_packed(folder_ / fmt::format("a{}", suffix), "one "));
    const std::string two = read_file(put_packed(folder_ / fmt::format("a{}", suffix), "two"));
    EXPECT_EQ(content_of(put(fmt::format("both{}", suffix), one + two)), "one two") << suffix;
  }
}

TEST_F(ByteStreams, AFileCutShortIsAnError) {
  for (const char* suffix : kSuffixes) {
    if (*suffix == '\0') continue;
    const std::string whole = read_file(put_packed(folder_ / fmt::format("a.txt{}", suffix), some_text(300000)));
    for (const size_t size : {whole.size() / 2, whole.size() - 1}) {
      const fs::path cut = put(fmt::format("cut.txt{}", suffix), std::string_view(whole).substr(0, size));
      expect_contains(error_of([&] { content_of(cut); }), {"cannot decompress", "cut.txt"});
    }
  }
}

TEST_F(ByteStreams, DamageIsAnError) {
  for (const char* suffix : {".gz", ".xz", ".bz2"}) {
    const std::string whole = read_file(put_packed(folder_ / fmt::format("a.txt{}", suffix), some_text(300000)));
    for (const size_t at : {whole.size() / 3, whole.size() - 6}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 1);
      const fs::path path = put(fmt::format("b.txt{}", suffix), damaged);
      expect_contains(error_of([&] { content_of(path); }), {"cannot decompress", "b.txt"});
    }
  }
}

TEST_F(ByteStreams, AnotherKindOfDataThanTheNameSays) {
  for (const char* suffix : kSuffixes) {
    if (*suffix == '\0') continue;
    const fs::path path = put(fmt::format("a.txt{}", suffix), "plain text, and enough of it to look at");
    expect_contains(error_of([&] { content_of(path); }), {"a.txt", "is not", "as its name says", "rename"});
  }
  expect_contains(error_of([&] { open_stream(folder_ / "none", Compression::kNone); }),
                  {"cannot open", "none", "No such"});
}

TEST_F(ByteStreams, ABombIsStopped) {
  const fs::path path = put_packed(folder_ / "a.txt.zst", std::string(size_t{300} << 20, 'a'));
  ASSERT_LT(fs::file_size(path), size_t{100} << 10);
  const auto stream = open_named(path);
  std::string buffer(size_t{1} << 20, '\0');
  size_t delivered = 0;
  expect_contains(error_of([&] {
                    while (const size_t got = stream->read(buffer.data(), buffer.size())) delivered += got;
                  }),
                  {"a.txt.zst", "unpacks to more than", "200 times", "by hand"});
  EXPECT_LT(delivered, size_t{290} << 20);
}

class Tars : public FolderTest {
 protected:
  using Files = std::vector<std::pair<std::string, std::string>>;
  static Files files_of(const fs::path& path) {
    TarReader tar(open_named(path));
    Files files;
    while (tar.next()) {
      std::string name = tar.name();
      files.emplace_back(std::move(name), read_all(tar));
    }
    return files;
  }
};

TEST_F(Tars, FilesInTheirOrderWhateverTheCompression) {
  for (const char* suffix : kSuffixes) {
    const fs::path path =
        put_tar(folder_ / fmt::format("a.tar{}", suffix),
                {{"d", "", AE_IFDIR}, {"d/one.txt", "1"}, {"empty.txt", ""}, {"two", some_text(100000)}});
    EXPECT_EQ(files_of(path), (Files{{"d/one.txt", "1"}, {"empty.txt", ""}, {"two", some_text(100000)}})) << suffix;
  }
}

TEST_F(Tars, NamesAreOnlyNames) {
  const std::string up = "../escaped.txt", root = (folder_ / "absolute.txt").string(), longest(3000, 'n');
  const fs::path path = put_tar(folder_ / "a.tar", {{up, "a"},
                                                    {root, "b"},
                                                    {"link.txt", "/etc/passwd", AE_IFLNK},
                                                    {"pipe", "", AE_IFIFO},
                                                    {"\x1B[2Jé\xFF\n.txt", "c"},
                                                    {longest, "d"}});
  const Files files = files_of(path);
  ASSERT_EQ(files.size(), 4U);
  EXPECT_EQ(files[0], std::make_pair(up, std::string("a")));
  EXPECT_EQ(files[1].second, "b");
  EXPECT_EQ(files[2].second, "c");
  EXPECT_EQ(files[3].first, longest);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "nothing may be written";
  EXPECT_FALSE(fs::exists(folder_.parent_path() / "escaped.txt"));
}

TEST_F(Tars, WhatIsNoArchiveInOrder) {
  put("text.tar", some_text(5000));
  expect_contains(error_of([&] { files_of(folder_ / "text.tar"); }), {"text.tar", "not a tar archive"});
  const std::string whole =
      read_file(put_tar(folder_ / "a.tar", {{"one.txt", some_text(5000)}, {"two.txt", some_text(5000)}}));
  put("cut.tar", std::string_view(whole).substr(0, 3000));
  expect_contains(error_of([&] { files_of(folder_ / "cut.tar"); }), {"cut.tar", "not a tar archive"});
  put("both.tar", whole + read_file(put_tar(folder_ / "b.tar", {{"three.txt", "3"}})));
  EXPECT_EQ(files_of(folder_ / "both.tar").size(), 3U);
  put("garbage.tar", whole + some_text(2000));
  expect_contains(error_of([&] { files_of(folder_ / "garbage.tar"); }), {"garbage.tar", "not a tar archive"});
  const std::string packed = read_file(put_tar(folder_ / "a.tgz", {{"one.txt", some_text(50000)}}));
  put("cut.tgz", std::string_view(packed).substr(0, packed.size() - 4));
  expect_contains(error_of([&] { files_of(folder_ / "cut.tgz"); }), {"cut.tgz", "cannot decompress"});
}

}  // namespace
}  // namespace megalodon::data
