#include "base/file.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <stdexcept>

#include "base/testing.h"

namespace megalodon {
namespace {

class File : public FolderTest {};

using Names = std::set<std::string>;

template <class Action>
void expect_error(const Action& action, const std::string& part, const std::string& reason) {
  try {
    action();
    ADD_FAILURE() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
  }
}

TEST_F(File, WritesAndReadsBackAnySize) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{65535}, size_t{65536}, size_t{3} << 20}) {
    std::string content(size, 'x');
    for (size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 31 % 251);
    write_file_atomically(folder_ / "a", content);
    EXPECT_EQ(read_file(folder_ / "a"), content);
    const MappedFile mapped(folder_ / "a");
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size()), content);
  }
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(File, ReadsFilesThatReportNoSize) {
  EXPECT_FALSE(read_file("/proc/self/status").empty());
}

TEST_F(File, PiecesAndOverwritesEndUpInPlace) {
  AtomicFile file(folder_ / "a");
  file.write("head");
  std::string expected = "head";
  for (int i = 0; i < 5000; ++i) {
    const std::string piece(static_cast<size_t>(i % 700), static_cast<char>('a' + i % 26));
    file.write(piece);
    expected += piece;
  }
  file.write_at(0, "HE", 2);
  file.write_at(expected.size() - 1, "!", 1);
  file.write("tail");
  expected.replace(0, 2, "HE").back() = '!';
  expected += "tail";
  EXPECT_EQ(file.size(), expected.size());
  std::string back(6, '.');
  file.read_at(expected.size() - 5, back.data(), 5);
  EXPECT_EQ(back, "!tail.");
  expect_error([&] { file.read_at(expected.size() - 5, back.data(), 6); }, "read_at", "beyond");
  expect_error([&] { file.write_at(expected.size(), "x", 1); }, "write_at", "beyond");
  EXPECT_FALSE(fs::exists(folder_ / "a"));
  file.publish();
  EXPECT_EQ(read_file(folder_ / "a"), expected);
  expect_error([&] { file.publish(); }, "a'", "published already");
  expect_error([&] { file.write("x"); }, "a'", "is closed");
}

TEST_F(File, ASealedFileIsWholeButNotThereYet) {
  {
    AtomicFile dropped(folder_ / "b"), file(folder_ / "a");
    file.write("content");
    file.seal();
    file.seal();
    dropped.seal();
    EXPECT_FALSE(fs::exists(folder_ / "a"));
    expect_error([&] { file.write("x"); }, "a'", "is closed");
    file.publish();
    EXPECT_EQ(read_file(folder_ / "a"), "content");
    expect_error([&] { file.seal(); }, "a'", "published already");
  }
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(File, WithoutPublishTheOldContentStays) {
  write_file_atomically(folder_ / "a", "old");
  {
    AtomicFile file(folder_ / "a");
    file.write(std::string(size_t{2} << 20, 'n'));
    EXPECT_EQ(names().size(), 2U);
  }
  EXPECT_EQ(read_file(folder_ / "a"), "old");
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(File, ErrorsCarryPathAndReason) {
  const fs::path missing = folder_ / "none" / "a";
  expect_error([&] { read_file(missing); }, missing, "No such file");
  expect_error([&] { MappedFile file(missing); }, missing, "No such file");
  expect_error([&] { write_file_atomically(missing, ""); }, "none", "No such file");
  expect_error([&] { read_file(folder_); }, folder_, "Is a directory");
  expect_error([&] { MappedFile file(folder_); }, folder_, "not a regular file");
  fs::create_directory(folder_ / "sub");
  expect_error([&] { write_file_atomically(folder_ / "sub", ""); }, "sub", "Is a directory");
  expect_error([&] { write_file_atomically(folder_ / "", ""); }, folder_, "name of a file");
  if (fs::exists("/dev/full")) {
    const fs::path full = folder_ / "full";
    fs::create_symlink("/dev/full", folder_ / fmt::format(".full.tmp-{}", getpid()));
    expect_error([&] { write_file_atomically(full, "x"); }, full, "No space left");
  }
  EXPECT_EQ(names(), Names{"sub"});
}

TEST_F(File, MappingOutlivesTheObjectItWasCopiedFrom) {
  write_file_atomically(folder_ / "a", "shark");
  auto first = std::make_unique<MappedFile>(folder_ / "a");
  const MappedFile copy = *first;
  first.reset();
  EXPECT_EQ(static_cast<char>(copy.bytes()[4]), 'k');
}

TEST_F(File, WhatAKilledProcessLeftIsRemovedAndNothingElse) {
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(folder_ / "a");
    file.write(std::string(size_t{2} << 20, 'x'));
    _exit(0);  // no destructor runs, as when it is killed
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const auto name = [&](const char* target, auto process) { return fmt::format(".{}.tmp-{}", target, process); };
  ASSERT_EQ(names(), Names{name("a", child)});
  Names others = {"a",
                  name("b", child),
                  name("a", getpid()),
                  name("a", 1),
                  name("a", fmt::format("{}x", child)),
                  name("a", fmt::format("0{}", child)),
                  name("a", -child),
                  name("a", ""),
                  name("a", "99999999999"),
                  fmt::format("a.tmp-{}", child),
                  fmt::format(".a.old-{}", child),
                  name("aa", child)};
  for (const std::string& other : others) put(other, "stays");
  const auto remove = [&] { return remove_abandoned(folder_, [](std::string_view target) { return target == "a"; }); };
  const Removed removed = remove();
  EXPECT_EQ(removed.files, 1);
  EXPECT_EQ(removed.bytes, uint64_t{2} << 20);
  EXPECT_EQ(names(), others);
  fs::create_directory(folder_ / name("a", child));
  put(name("a", child) + "/one", "stays");
  put(name("a", child) + "/two", "stays");
  EXPECT_EQ(remove().files, 2) << "write_folder_atomically's";
  EXPECT_EQ(names(), others);
  EXPECT_EQ(remove_abandoned(folder_ / "none", [](std::string_view) { return true; }).files, 0);
}

TEST_F(File, FolderAppearsWholeAndReplacesTheOldOne) {
  const auto fill = [&](const std::string& content) {
    return [this, content](const fs::path& temporary) {
      EXPECT_NE(temporary, folder_ / "run");
      fs::create_directory(temporary / "deep");
      write_file_atomically(temporary / "deep" / content, content);
    };
  };
  write_folder_atomically(folder_ / "run", fill("one"));
  EXPECT_EQ(read_file(folder_ / "run" / "deep" / "one"), "one");
  write_folder_atomically(folder_ / "run" / "", fill("two"));
  EXPECT_EQ(read_file(folder_ / "run" / "deep" / "two"), "two");
  EXPECT_FALSE(fs::exists(folder_ / "run" / "deep" / "one"));
  EXPECT_EQ(names(), Names{"run"});
}

TEST_F(File, FolderWhoseFillFailsLeavesTheOldOne) {
  write_folder_atomically(folder_ / "run", [](const fs::path& t) { write_file_atomically(t / "a", "old"); });
  const auto fill = [](const fs::path& temporary) {
    write_file_atomically(temporary / "a", "new");
    throw std::runtime_error("stop");
  };
  EXPECT_THROW(write_folder_atomically(folder_ / "run", fill), std::runtime_error);
  EXPECT_EQ(read_file(folder_ / "run" / "a"), "old");
  EXPECT_EQ(names(), Names{"run"});
  expect_error([&] { write_folder_atomically(folder_ / "none" / "run", fill); }, "none", "No such file");
}

}  // namespace
}  // namespace megalodon
