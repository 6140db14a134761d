// A program that runs beside this one.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace megalodon {

class ChildProcess {
 public:
  /// Starts a program with these arguments, behind its name; what it prints is appended to the file `log`, and it has
  /// nothing to read. Signals reach it through send() alone: it is in a process group of its own, where a terminal's
  /// Ctrl-C does not go. One that comes before the program runs ends it. Throws Error where no process can be made; a
  /// program that cannot run ends with 127. Where this process was started with SIGCHLD ignored, it no longer is:
  /// nobody would know how a child ended.
  ChildProcess(const std::string& program, const std::vector<std::string>& arguments, const fs::path& log);
  /// Kills it where it still runs, which also happens when the thread that started it ends.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Nothing while it runs; where a signal ended it 128 + that signal, as shells say. Throws Error where the system
  /// does not know it.
  std::optional<int> exit_code();
  void send(int signal);

 private:
  pid_t process_ = -1;
  std::optional<int> exit_code_;
};

}  // namespace megalodon
