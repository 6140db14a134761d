#include "base/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include <optional>
#include <thread>

#include "base/testing.h"

namespace megalodon {
namespace {

class Child : public FolderTest {
 protected:
  ChildProcess shell(const std::string& script) const { return {"/bin/sh", {"-c", script}, log()}; }
  fs::path log() const { return folder_ / "log"; }

  static int wait(ChildProcess& child) {
    while (true) {
      if (const auto code = child.exit_code()) return *code;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  int result(const std::string& script) const {
    ChildProcess child = shell(script);
    return wait(child);
  }
  /// Until it is ready for signals.
  void wait_for_log() const {
    while (!fs::exists(log()) || fs::file_size(log()) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
};

TEST_F(Child, TellsHowItEndedAndAppendsToTheLog) {
  EXPECT_EQ(result("echo one; echo two >&2; exit 3"), 3);
  EXPECT_EQ(result("cat; echo three"), 0) << "there is nothing to read";
  EXPECT_EQ(read_file(log()), "one\ntwo\nthree\n");
}

TEST_F(Child, RunsUntilASignalIsSent) {
  ChildProcess child = shell("echo ready; exec sleep 1000");
  wait_for_log();
  EXPECT_FALSE(child.exit_code());
  child.send(SIGTERM);
  EXPECT_EQ(wait(child), 128 + SIGTERM);
  child.send(SIGTERM);  // to nobody
  EXPECT_EQ(wait(child), 128 + SIGTERM);
}

TEST_F(Child, HasNoSignalsBlockedAndAGroupOfItsOwn) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  ChildProcess child = shell("trap 'exit 7' TERM; echo $$; while :; do sleep 0.01; done");
  wait_for_log();
  const pid_t process = std::stoi(read_file(log()));
  EXPECT_EQ(::getpgid(process), process);
  child.send(SIGTERM);
  EXPECT_EQ(wait(child), 7);
  ASSERT_EQ(pthread_sigmask(SIG_UNBLOCK, &set, nullptr), 0);
}

/// A log that nobody reads yet keeps the child before exec: what this program catches would be lost there.
TEST_F(Child, ASignalThatComesBeforeTheProgramRunsIsNotLost) {
  ASSERT_EQ(::mkfifo(log().c_str(), 0600), 0);
  struct sigaction caught {
  }, before{};
  caught.sa_handler = [](int) {};
  caught.sa_flags = SA_RESTART;
  ASSERT_EQ(::sigaction(SIGTERM, &caught, &before), 0);
  ChildProcess child = shell("exit 0");
  child.send(SIGTERM);
  const int reader = ::open(log().c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  EXPECT_EQ(wait(child), 128 + SIGTERM);
  ::close(reader);
  ASSERT_EQ(::sigaction(SIGTERM, &before, nullptr), 0);
}

/// As under some init programs: the system then forgets how children ended.
TEST_F(Child, TellsHowItEndedWhereSigchldWasIgnored) {
  ASSERT_NE(::signal(SIGCHLD, SIG_IGN), SIG_ERR);
  EXPECT_EQ(result("sleep 0.01; exit 3"), 3);
}

TEST_F(Child, EndsWithWhatStartedIt) {
  const auto is_gone = [](pid_t process) { return ::kill(process, 0) != 0; };
  {
    const ChildProcess child = shell("echo $$; exec sleep 1000");
    wait_for_log();
  }
  EXPECT_TRUE(is_gone(std::stoi(read_file(log()))));

  std::optional<ChildProcess> child;
  std::thread([&] {
    fs::remove(log());
    child.emplace("/bin/sh", std::vector<std::string>{"-c", "echo ready; exec sleep 1000"}, log());
    wait_for_log();
  }).join();
  EXPECT_EQ(wait(*child), 128 + SIGKILL);
}

TEST_F(Child, AProgramThatCannotRunSaysSo) {
  ChildProcess child("/nowhere/program", {}, log());
  EXPECT_EQ(wait(child), 127);
  EXPECT_EQ(read_file(log()), "cannot run /nowhere/program: No such file or directory\n");
}

}  // namespace
}  // namespace megalodon
