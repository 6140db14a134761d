// Every system call of the writing functions fails in turn, in every way that disks have.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "base/file.h"
#include "base/testing.h"
#include "tests/support/faults.h"

namespace megalodon {
namespace {

using faults::Fault;
using faults::Faults;
using faults::kShortWrite;

class FileFaults : public FolderTest {
 protected:
  /// An empty folder, filled without waiting for the disk.
  template <class Fill>
  void begin_with(const Fill& fill) const {
    const Faults none;
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fill();
  }

  /// What `action` threw under the fault ("" if nothing), and the call that failed.
  template <class Action>
  static std::pair<std::string, std::string> run(const Fault& fault, const Action& action) {
    const Faults faults(fault);
    std::string message;
    try {
      action();
    } catch (const Error& error) {
      message = error.what();
    }
    return {message, faults.failed()};
  }

  template <class Action>
  static int64_t count_calls(const Action& action) {
    const Faults faults;
    action();
    return faults.calls();
  }

  /// round(fault) for every error, once and lasting, at each of the calls that `action` makes.
  template <class Action, class Round>
  static void for_every_fault(const Action& action, const Round& round) {
    const int64_t calls = count_calls(action);
    ASSERT_GE(calls, 3);
    for (int64_t at = 0; at < calls; ++at)
      for (const int error : {ENOSPC, EIO, EDQUOT, EINTR, kShortWrite}) {
        SCOPED_TRACE(
            fmt::format("call {} of {}: {}", at, calls, error == kShortWrite ? "short" : std::strerror(error)));
        round(Fault{.at = at, .error = error});
        if (error == ENOSPC) round(Fault{.at = at, .error = error, .lasting = true});
      }
  }

  /// One line with the path and the system's reason; none for what is no failure.
  void expect_clear(const std::string& message, const Fault& fault) const {
    if (message.empty()) return;
    ASSERT_TRUE(fault.error != EINTR && fault.error != kShortWrite) << message;
    EXPECT_NE(message.find(folder_.string()), std::string::npos) << message;
    EXPECT_NE(message.find(std::strerror(fault.error)), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
};

TEST_F(FileFaults, AFileIsOldOrNewAndErrorsAreTold) {
  const std::string fresh(size_t{5} << 19, 'n');  // several writes
  const auto write = [&] {
    AtomicFile file(folder_ / "a");
    file.write(fresh);
    file.write_at(7, "n", 1);
    file.publish();
  };
  int failures = 0;
  for_every_fault(write, [&](const Fault& fault) {
    begin_with([&] { write_file_atomically(folder_ / "a", "old"); });
    const auto [message, failed] = run(fault, write);
    expect_clear(message, fault);
    failures += !message.empty();
    const std::string content = read_file(folder_ / "a");
    EXPECT_TRUE(content == fresh || (content == "old" && !message.empty())) << message;
    // What cannot be deleted stays; everything else is cleaned up.
    EXPECT_TRUE(failed == "unlink" || names() == std::set<std::string>{"a"}) << message;
  });
  EXPECT_GT(failures, 20);
}

TEST_F(FileFaults, AFolderIsOldOrNewAndErrorsAreTold) {
  const auto write = [&](const std::string& content) {
    write_folder_atomically(folder_ / "run", [&](const fs::path& folder) {
      fs::create_directory(folder / "deep");
      write_file_atomically(folder / "deep" / "a", content);
      write_file_atomically(folder / "b", content);
    });
  };
  int failures = 0;
  for_every_fault(
      [&] {
        write("first");
        write("second");
      },
      [&](const Fault& fault) {
        begin_with([&] { write("old"); });
        const auto [message, failed] = run(fault, [&] { write("new"); });
        expect_clear(message, fault);
        failures += !message.empty();
        const std::string content = read_file(folder_ / "run" / "b");
        EXPECT_EQ(read_file(folder_ / "run" / "deep" / "a"), content);
        EXPECT_TRUE(content == "new" || (content == "old" && !message.empty())) << message;
        // A folder that is in place, but perhaps not for good, keeps its predecessor beside it.
        const bool in_doubt = !message.empty() && content == "new";
        const bool stays = failed.starts_with("unlink") || in_doubt;
        EXPECT_TRUE(stays || names() == std::set<std::string>{"run"}) << message;
      });
  EXPECT_GT(failures, 20);
}

TEST_F(FileFaults, ARemovedFolderIsWholeOrGone) {
  const auto remove = [&] { remove_folder(folder_ / "run"); };
  const auto fill = [&] {
    write_folder_atomically(folder_ / "run", [](const fs::path& folder) {
      write_file_atomically(folder / "a", "text");
      write_file_atomically(folder / "b", "text");
    });
  };
  fill();
  for_every_fault(remove, [&](const Fault& fault) {
    begin_with(fill);
    const auto [message, failed] = run(fault, remove);
    expect_clear(message, fault);
    if (fs::exists(folder_ / "run")) {
      EXPECT_FALSE(message.empty());
      EXPECT_TRUE(fs::exists(folder_ / "run" / "a") && fs::exists(folder_ / "run" / "b"));
    }
  });
}

}  // namespace
}  // namespace megalodon
