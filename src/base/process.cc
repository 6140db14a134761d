#include "base/process.h"

#include <malloc.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <string>
#include <string_view>
#include <thread>

namespace megalodon {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

int64_t peak_resident_bytes() {
  // Not getrusage()'s, which begins with what the process that started this one had.
  constexpr std::string_view kPeak = "VmHWM:";
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(kPeak)) return std::stoll(line.substr(kPeak.size())) * 1024;
  return 0;
}

void reset_peak_resident_bytes() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  std::ofstream("/proc/self/clear_refs") << "5";
}

void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kNever = std::numeric_limits<int>::max();
  if (mallopt(M_MMAP_THRESHOLD, kNever) == 0) return;  // an old C library: the others alone would make it worse
  mallopt(M_TRIM_THRESHOLD, kNever);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

void leave(int code) {
  std::cout.flush();
  const bool written = std::cout.good() && std::fflush(nullptr) == 0 && std::ferror(stdout) == 0;
  if (!written && code == 0) {
    std::fputs("megalodon: standard output could not be written to its end\n", stderr);
    code = 1;
  }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::exit(code);  // sanitizers report at the exit
#else
  std::_Exit(code);
#endif
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace megalodon
