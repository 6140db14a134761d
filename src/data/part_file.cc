#include "data/part_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"

namespace megalodon::data {
namespace {

[[noreturn]] void fail_system(const char* action, const fs::path& path) {
  fail("[download] cannot {} '{}': {}", action, path.string(), std::strerror(errno));
}

}  // namespace

PartFile::PartFile(const fs::path& target)
    : target_(target), path_(target.string() + ".part"), source_(target.string() + ".part.json") {
  // A link would have us write to wherever it points.
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode_t{0666});
  if (descriptor_ < 0) fail_system("open", path_);
  struct stat opened {
  }, named{};
  // The lock is the file's, not the name's: another process may have published the file between our two calls.
  const bool ours = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 && ::fstat(descriptor_, &opened) == 0 &&
                    ::stat(path_.c_str(), &named) == 0 && opened.st_ino == named.st_ino;
  if (!ours || !S_ISREG(opened.st_mode)) {
    ::close(descriptor_);
    fail("[download] another process is downloading '{}'; wait for it, or end it", path_.string());
  }
  size_ = static_cast<uint64_t>(opened.st_size);
}

PartFile::~PartFile() {
  if (!published_ && size_ == 0) {
    ::unlink(path_.c_str());
    ::unlink(source_.c_str());
  }
  ::close(descriptor_);
}

std::string PartFile::validator(const std::string& url) const {
  if (size_ == 0 || !fs::is_regular_file(source_)) return {};
  try {
    const auto source = parse_json(read_file(source_), source_.string());
    return source.at("url") == url ? source.at("validator").get<std::string>() : std::string();
  } catch (const std::exception&) {
    return {};  // a crash may have torn it: the download starts anew
  }
}

void PartFile::restart(const std::string& url, const std::string& validator) {
  discard();  // first: at no moment does the description go with bytes of another source
  const nlohmann::ordered_json source = {{"url", url}, {"validator", validator}};
  write_file_atomically(source_, source.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void PartFile::append(const char* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t done = ::pwrite(descriptor_, data, bytes, static_cast<off_t>(size_));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_system("write", path_);
    data += done;
    bytes -= static_cast<size_t>(done);
    size_ += static_cast<uint64_t>(done);
  }
}

void PartFile::discard() {
  std::error_code ignored;
  fs::remove(source_, ignored);
  if (::ftruncate(descriptor_, 0) != 0) fail_system("empty", path_);
  size_ = 0;
}

void PartFile::publish() {
  if (::fsync(descriptor_) != 0) fail_system("sync", path_);
  if (std::rename(path_.c_str(), target_.c_str()) != 0) fail_system("rename a finished download to", target_);
  published_ = true;
  std::error_code ignored;
  fs::remove(source_, ignored);
}

}  // namespace megalodon::data
