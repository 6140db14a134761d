// Fetches files by http and https so that what is published is whole: to NAME.part first, which an interrupted download
// leaves and the next one continues, then checked by size and hash, then renamed.
#pragma once

#include <memory>

#include "base/file.h"
#include "data/catalog.h"
#include "data/verify.h"

namespace megalodon::data {

class Downloader {
 public:
  struct Options {
    int connect_seconds = 30;
    int stall_seconds = 60;  // without a byte
  };

  explicit Downloader(const Options& options);
  ~Downloader();
  Downloader(const Downloader&) = delete;
  Downloader& operator=(const Downloader&) = delete;

  /// Tries the URLs in order, a broken transfer a few times. Proxies are taken from curl's environment variables.
  /// Redirections are followed to http and https alone, from https to https alone. Throws Error naming every URL and
  /// what went wrong there, or why the disk does not take the file.
  void fetch(const RemoteFile& file, const fs::path& target, const ByteProgress& progress = {});

 private:
  struct Connection;
  std::unique_ptr<Connection> connection_;  // kept open from file to file
};

}  // namespace megalodon::data
