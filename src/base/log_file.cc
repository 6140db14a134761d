#include "base/log_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/system_call.h"

namespace megalodon {

LogFile::LogFile(fs::path path) : path_(std::move(path)) {
  const auto open = [&] { return ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, mode_t{0666}); };
  descriptor_ = retry(open);
  check(descriptor_ >= 0, "[log] cannot open '{}': {}", path_.string(), std::strerror(errno));
}

LogFile::~LogFile() {
  flush();
  ::close(descriptor_);
}

void LogFile::append(std::string record) {
  unwritten_.push_back(std::move(record));
  flush();
}

void LogFile::cut(size_t bytes) {
  unwritten_.clear();
  torn_ = 0;
  size_ = bytes;
  uncut_ = true;
  flush();
}

void LogFile::flush() {
  if (uncut_) uncut_ = retry([&] { return ::ftruncate(descriptor_, static_cast<off_t>(size_)); }) != 0;
  bool written = !uncut_;
  while (written && !unwritten_.empty()) written = write_first();
  error_ = written ? "" : std::strerror(errno);
}

/// Goes on within the record where the last try got to. False with errno where the disk takes no more.
bool LogFile::write_first() {
  const std::string& record = unwritten_.front();
  while (torn_ < record.size()) {
    const ssize_t part = retry([&] { return ::write(descriptor_, record.data() + torn_, record.size() - torn_); });
    if (part < 0) return false;
    torn_ += static_cast<size_t>(part);
  }
  unwritten_.pop_front();
  torn_ = 0;
  return true;
}

void LogFile::finish() {
  flush();
  check(error_.empty(), "[log] cannot write to '{}': {}; its last {} records are missing", path_.string(), error_,
        unwritten_.size());
  // Network file systems report here what they could not write. What cannot be synced at all (a pipe) is as it should
  // be.
  const bool synced = retry([&] { return ::fsync(descriptor_); }) == 0 || errno == EINVAL || errno == EROFS;
  check(synced, "[log] cannot write to '{}': {}", path_.string(), std::strerror(errno));
}

std::string LogFile::take_news() {
  if (reported_ == !error_.empty()) return {};
  reported_ = !error_.empty();
  if (!reported_) return fmt::format("'{}' is complete again", path_.string());
  return fmt::format("warning: cannot write to '{}': {}; what is missing is kept and tried again with every record",
                     path_.string(), error_);
}

}  // namespace megalodon
