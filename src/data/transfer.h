// One HTTP response on its way from libcurl into a PartFile.
#pragma once

#include <curl/curl.h>

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "data/catalog.h"
#include "data/part_file.h"
#include "data/verify.h"

namespace megalodon::data {

/// One response as it comes in. Exceptions must not pass through curl: they wait in `failure`.
struct Transfer {
  CURL* handle;
  const RemoteFile& file;
  const std::string& url;
  PartFile& part;
  std::string asked;  // validator sent with the range that was asked for; "": the whole file was
  const ByteProgress& progress;

  std::string etag = {}, modified = {}, range = {};  // headers of the last response
  uint64_t total = 0;                                // 0: not known
  uint64_t received = 0;
  bool begun = false, stale = false, complete = false;
  std::string refusal = {};
  std::exception_ptr failure = {};

  std::string validator() const { return !etag.empty() && !etag.starts_with("W/") ? etag : modified; }
  void header(std::string_view line);
  void begin();
  void begin_whole();
  void begin_rest();
  bool body(const char* data, size_t bytes);
  bool report();
  void limit_size();
};

// libcurl's callbacks, with a Transfer as their user data.
size_t on_header(char* data, size_t size, size_t count, void* user);
size_t on_body(char* data, size_t size, size_t count, void* user);
/// About once a second, also while nothing comes in, so that whoever wants to stop need not wait for a byte.
int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t);

}  // namespace megalodon::data
