#include "base/log_file.h"

#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

#include "base/testing.h"
#include "tests/support/faults.h"

namespace megalodon {
namespace {

using faults::Fault;
using faults::Faults;
using faults::kShortWrite;

/// Writing beyond so many bytes fails while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  sighandler_t handler_;
};

class LogFileTest : public FolderTest {
 protected:
  fs::path path() const { return folder_ / "log"; }
  std::string content() const { return read_file(path()); }
};

TEST_F(LogFileTest, AppendsAtOnceAndGoesOnWhereItEnded) {
  {
    LogFile log(path());
    log.append("one\n");
    EXPECT_EQ(content(), "one\n");
  }
  LogFile log(path());
  log.append("two\n");
  EXPECT_EQ(content(), "one\ntwo\n");
  log.cut(4);
  EXPECT_EQ(content(), "one\n");
  log.append("three\n");
  EXPECT_EQ(content(), "one\nthree\n");
  EXPECT_NO_THROW(log.finish());
  EXPECT_EQ(log.take_news(), "");
}

TEST_F(LogFileTest, WhatAFullDiskDoesNotTakeComesLater) {
  for (const int error : {ENOSPC, EIO, EDQUOT}) {
    SCOPED_TRACE(std::strerror(error));
    fs::remove(path());
    LogFile log(path());
    log.append("one\n");
    std::optional<Faults> faults(Fault{.at = 0, .error = error, .lasting = true});
    log.append("two\n");
    log.append("three\n");
    EXPECT_EQ(log.unwritten().size(), 2U);
    const std::string news = log.take_news();
    expect_contains(news, {"warning", path().string(), std::strerror(error)});
    log.append("four\n");
    EXPECT_EQ(log.take_news(), "") << "said once";
    expect_contains(error_of([&] { log.finish(); }), {path().string(), std::strerror(error), "last 3 records"});
    faults.reset();
    EXPECT_EQ(content(), "one\n");
    log.append("five\n");
    EXPECT_EQ(content(), "one\ntwo\nthree\nfour\nfive\n");
    EXPECT_TRUE(log.unwritten().empty());
    expect_contains(log.take_news(), {path().string(), "complete again"});
    EXPECT_EQ(log.take_news(), "");
  }
}

TEST_F(LogFileTest, EveryCallFailsAndNoRecordIsTornOrTwice) {
  const auto work = [&](LogFile& log) {
    for (const char* record : {"one\n", "two\n"}) log.append(record);
    log.cut(4);
    for (const char* record : {"three\n", "four\n"}) log.append(record);
  };
  for (const int error : {ENOSPC, EIO, EINTR, kShortWrite})
    for (int64_t at = 0; at < 8; ++at) {
      SCOPED_TRACE(fmt::format("call {}, error {}", at, error));
      fs::remove(path());
      LogFile log(path());
      {
        const Faults faults({.at = at, .error = error});
        work(log);
        const bool unsynced = at == 5 && (error == ENOSPC || error == EIO);
        if (unsynced) {
          expect_contains(error_of([&] { log.finish(); }), {path().string(), std::strerror(error)});
        } else {
          log.finish();
        }
        const bool missed = at > 5 || (error == kShortWrite && (at == 2 || at == 5));
        EXPECT_EQ(faults.failed().empty(), missed);
      }
      EXPECT_EQ(content(), "one\nthree\nfour\n");
    }
}

/// A disk that is full within a record.
TEST_F(LogFileTest, ATornRecordIsCompletedOrCutAway) {
  for (const bool completed : {true, false}) {
    fs::remove(path());
    LogFile log(path());
    log.append("one\n");
    {
      const FileSizeLimit limit(7);
      log.append("twotwo\n");
      expect_contains(log.take_news(), {std::strerror(EFBIG)});
    }
    EXPECT_EQ(content(), "one\ntwo");
    EXPECT_EQ(log.unwritten().front(), "twotwo\n") << "whole";
    if (!completed) log.cut(4);
    log.append("three\n");
    EXPECT_EQ(content(), completed ? "one\ntwotwo\nthree\n" : "one\nthree\n");
  }
}

TEST_F(LogFileTest, WhatIsLeftIsWrittenAtTheEnd) {
  std::optional<LogFile> log(path());
  {
    const Faults faults({.at = 0, .error = ENOSPC, .lasting = true});
    log->append("one\n");
  }
  log.reset();
  EXPECT_EQ(content(), "one\n");
}

TEST_F(LogFileTest, AFileThatCannotBeIsNamed) {
  expect_contains(error_of([&] { LogFile(folder_ / "missing" / "log"); }), {"missing", "No such file"});
}

}  // namespace
}  // namespace megalodon
