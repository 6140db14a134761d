#include "base/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/system_call.h"

namespace megalodon {
namespace {

constexpr int kCannotRun = 127;

/// What fork() leaves a process of several threads with may call little: nothing here takes memory or a lock.
[[noreturn]] void become(char* const* arguments, const char* log, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kCannotRun);  // it ended before it could be told
  ::setpgid(0, 0);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int input = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int output = ::open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (input < 0 || output < 0 || ::dup2(input, 0) < 0 || ::dup2(output, 1) < 0 || ::dup2(output, 2) < 0)
    ::_exit(kCannotRun);
  ::execv(arguments[0], arguments);
  const char* reason = std::strerror(errno);
  for (const char* part : {"cannot run ", static_cast<const char*>(arguments[0]), ": ", reason, "\n"})
    if (::write(2, part, std::strlen(part)) < 0) break;
  ::_exit(kCannotRun);
}

}  // namespace

ChildProcess::ChildProcess(const std::string& program, const std::vector<std::string>& arguments, const fs::path& log) {
  std::vector<std::string> texts = {program};
  texts.insert(texts.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  const pid_t parent = ::getpid();
  process_ = ::fork();
  check(process_ >= 0, "[process] cannot start {}: {}", program, std::strerror(errno));
  if (process_ == 0) become(pointers.data(), log.c_str(), parent);
}

ChildProcess::~ChildProcess() {
  if (exit_code()) return;
  send(SIGKILL);
  retry([&] { return ::waitpid(process_, nullptr, 0); });
}

std::optional<int> ChildProcess::exit_code() {
  if (exit_code_) return exit_code_;
  int status = 0;
  if (retry([&] { return ::waitpid(process_, &status, WNOHANG); }) == process_)
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_code_;
}

void ChildProcess::send(int signal) {
  if (!exit_code()) ::kill(process_, signal);
}

}  // namespace megalodon
