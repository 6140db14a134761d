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

/// Handlers are this program's, not the child's: what they took before exec would be lost.
void forget_handlers() {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) ::signal(signal, SIG_DFL);
  }
}

/// What fork() leaves a process of several threads with may call little: nothing here takes memory or a lock.
[[noreturn]] void become(char* const* arguments, const char* log, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kCannotRun);  // it ended before it could be told
  ::setpgid(0, 0);
  forget_handlers();
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
  struct sigaction ended {};
  if (::sigaction(SIGCHLD, nullptr, &ended) == 0 && ended.sa_handler == SIG_IGN) ::signal(SIGCHLD, SIG_DFL);
  const pid_t parent = ::getpid();
  // Until the child has forgotten the handlers, none of them runs in it.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  process_ = ::fork();
  if (process_ == 0) become(pointers.data(), log.c_str(), parent);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  check(process_ >= 0, "[process] cannot start {}: {}", program, std::strerror(error));
}

ChildProcess::~ChildProcess() {
  if (exit_code_) return;
  ::kill(process_, SIGKILL);
  retry([&] { return ::waitpid(process_, nullptr, 0); });
}

std::optional<int> ChildProcess::exit_code() {
  if (exit_code_) return exit_code_;
  int status = 0;
  const pid_t ended = retry([&] { return ::waitpid(process_, &status, WNOHANG); });
  check(ended >= 0, "[process] cannot tell how {} ended: {}", process_, std::strerror(errno));
  if (ended == process_) exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_code_;
}

void ChildProcess::send(int signal) {
  if (!exit_code()) ::kill(process_, signal);
}

}  // namespace megalodon
