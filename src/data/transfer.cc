#include "data/transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

namespace megalodon::data {
namespace {

/// "bytes 100-199/200" or "bytes */200" of a Content-Range header.
struct ContentRange {
  std::optional<uint64_t> begin, total;
};

ContentRange parse_range(std::string_view text) {
  const auto number = [](std::string_view digits) -> std::optional<uint64_t> {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    return value;
  };
  if (!text.starts_with("bytes ")) return {};
  text.remove_prefix(6);
  const size_t slash = text.find('/'), dash = text.find('-');
  if (slash == std::string_view::npos) return {};
  return {dash < slash ? number(text.substr(0, dash)) : std::nullopt, number(text.substr(slash + 1))};
}

/// Runs `action` for curl: false where it failed or says so.
template <class Action>
bool guarded(Transfer& transfer, const Action& action) {
  try {
    return action();
  } catch (...) {
    transfer.failure = std::current_exception();
    return false;
  }
}

}  // namespace

void Transfer::header(std::string_view line) {
  if (line.starts_with("HTTP/")) etag = modified = range = {};  // a redirection's headers are not the file's
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return;
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  const size_t first = line.find_first_not_of(" \t", colon + 1), last = line.find_last_not_of(" \t\r\n");
  if (first == std::string_view::npos || last < first) return;
  const std::string value(line.substr(first, last - first + 1));
  if (name == "etag") etag = value;
  if (name == "last-modified") modified = value;
  if (name == "content-range") range = value;
}

void Transfer::limit_size() {
  if (total == 0) return;
  if (file.size >= 0 && total != static_cast<uint64_t>(file.size)) {
    refusal = fmt::format("offers {} bytes, expected {}", total, file.size);
  } else if (total > static_cast<uint64_t>(file.max_bytes)) {
    refusal = fmt::format("offers {} bytes, the limit is {}", total, file.max_bytes);
  }
}

void Transfer::begin_whole() {
  curl_off_t length = -1;
  curl_easy_getinfo(handle, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  total = length > 0 ? static_cast<uint64_t>(length) : 0;
  limit_size();
  if (refusal.empty()) part.restart(url, validator());
}

void Transfer::begin_rest() {
  const ContentRange got = parse_range(range);
  // A server that does not know If-Range sends a part of whatever the file is now.
  stale = got.begin != part.size() || (!validator().empty() && validator() != asked);
  total = got.total.value_or(0);
  if (!stale) limit_size();
}

/// Called once, with the headers complete.
void Transfer::begin() {
  begun = true;
  long status = 0;
  curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status);
  if (status == 200) {
    begin_whole();
  } else if (status == 206 && !asked.empty()) {
    begin_rest();
  } else if (status == 416 && !asked.empty()) {
    // Nothing beyond what is there: the part is whole, or the file is another one now.
    complete = parse_range(range).total == part.size();
    stale = !complete;
  } else {
    refusal = fmt::format("HTTP status {}", status);
  }
}

bool Transfer::body(const char* data, size_t bytes) {
  if (!begun) begin();
  if (stale || complete || !refusal.empty()) return false;
  if (part.size() + bytes > static_cast<uint64_t>(file.max_bytes)) {
    refusal = fmt::format("sends more than {} bytes", file.max_bytes);
    return false;
  }
  part.append(data, bytes);
  received += bytes;
  return report();
}

bool Transfer::report() {
  if (progress) progress(part.size(), total > 0 ? total : static_cast<uint64_t>(std::max<int64_t>(file.size, 0)));
  return true;
}

size_t on_header(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const bool fine = guarded(transfer, [&] { return transfer.header({data, size * count}), true; });
  return fine ? size * count : 0;
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  return guarded(transfer, [&] { return transfer.body(data, size * count); }) ? size * count : 0;
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  return guarded(transfer, [&] { return transfer.report(); }) ? 0 : 1;
}

}  // namespace megalodon::data
