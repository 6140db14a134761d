#include "data/download.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <optional>

#include "base/check.h"
#include "data/part_file.h"
#include "data/verify.h"

namespace megalodon::data {
namespace {

constexpr int kAttempts = 3;  // of one URL, as long as each brings bytes
constexpr long kRedirects = 5;

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

size_t on_header(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const bool fine = guarded(transfer, [&] { return transfer.header({data, size * count}), true; });
  return fine ? size * count : 0;
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  return guarded(transfer, [&] { return transfer.body(data, size * count); }) ? size * count : 0;
}

/// About once a second, also while nothing comes in, so that whoever wants to stop need not wait for a byte.
int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  return guarded(transfer, [&] { return transfer.report(); }) ? 0 : 1;
}

struct HeaderList {
  curl_slist* list = nullptr;
  ~HeaderList() { curl_slist_free_all(list); }
  void add(const std::string& line) {
    curl_slist* longer = curl_slist_append(list, line.c_str());
    check(longer != nullptr, "[download] out of memory");
    list = longer;
  }
};

/// Whether the disk holds what is still to come; better said now than hours later.
void check_space(const RemoteFile& file, const PartFile& part) {
  std::error_code error;
  const auto space = fs::space(part.path().parent_path().empty() ? "." : part.path().parent_path(), error);
  if (error || file.size < 0) return;
  const auto missing = static_cast<uint64_t>(std::max<int64_t>(file.size - static_cast<int64_t>(part.size()), 0));
  check(missing <= space.available, "[download] '{}' needs {} bytes more, but its disk has {} free",
        part.path().string(), missing, space.available);
}

/// Publishes a part that is whole; discards one that is not, and says why.
std::string publish(const RemoteFile& file, PartFile& part, const fs::path& target) {
  std::string wrong = find_mismatch(file, part.path(), target);
  if (wrong.empty()) {
    part.publish();
  } else {
    part.discard();
  }
  return wrong;
}

}  // namespace

struct Downloader::Connection {
  explicit Connection(const Options& options);
  ~Connection() { curl_easy_cleanup(handle); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  template <class Value>
  void set(CURLoption option, Value value) {
    const CURLcode code = curl_easy_setopt(handle, option, value);
    check(code == CURLE_OK, "[download] libcurl refuses option {}: {}", static_cast<int>(option),
          curl_easy_strerror(code));
  }
  /// What went wrong, or "".
  std::string run(Transfer& transfer);
  std::string attempt(const RemoteFile& file, const std::string& url, PartFile& part, const ByteProgress& progress);
  std::string fetch_from(const RemoteFile& file, const std::string& url, PartFile& part, const fs::path& target,
                         const ByteProgress& progress);

  CURL* handle;
  char message[CURL_ERROR_SIZE] = {};
  bool again = false;  // whether the last attempt ended such that another is worth while
};

Downloader::Connection::Connection(const Options& options) : handle(curl_easy_init()) {
  check(handle != nullptr, "[download] libcurl cannot start");
  set(CURLOPT_USERAGENT, "megalodon.cpp");
  set(CURLOPT_ERRORBUFFER, message);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, kRedirects);
  set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(options.connect_seconds));
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(options.stall_seconds));
  set(CURLOPT_BUFFERSIZE, 256L << 10);
  set(CURLOPT_HEADERFUNCTION, &on_header);
  set(CURLOPT_WRITEFUNCTION, &on_body);
  set(CURLOPT_XFERINFOFUNCTION, &on_progress);
  set(CURLOPT_NOPROGRESS, 0L);
}

std::string Downloader::Connection::run(Transfer& transfer) {
  set(CURLOPT_URL, transfer.url.c_str());
  set(CURLOPT_REDIR_PROTOCOLS_STR, transfer.url.starts_with("https:") ? "https" : "http,https");
  set(CURLOPT_HEADERDATA, &transfer);
  set(CURLOPT_WRITEDATA, &transfer);
  set(CURLOPT_XFERINFODATA, &transfer);
  message[0] = '\0';
  const CURLcode code = curl_easy_perform(handle);
  if (transfer.failure) std::rethrow_exception(transfer.failure);
  if (code == CURLE_OK && !transfer.begun) transfer.begin();  // a response without a body
  if (!transfer.refusal.empty()) return transfer.refusal;
  if (transfer.stale || transfer.complete || code == CURLE_OK) return {};
  again = transfer.received > 0;
  return message[0] != '\0' ? message : curl_easy_strerror(code);
}

std::string Downloader::Connection::attempt(const RemoteFile& file, const std::string& url, PartFile& part,
                                            const ByteProgress& progress) {
  again = false;
  Transfer transfer{handle, file, url, part, part.validator(url), progress};
  HeaderList headers;
  if (!transfer.asked.empty()) {
    headers.add(fmt::format("Range: bytes={}-", part.size()));
    headers.add("If-Range: " + transfer.asked);
  }
  set(CURLOPT_HTTPHEADER, headers.list);
  std::string wrong = run(transfer);
  set(CURLOPT_HTTPHEADER, static_cast<curl_slist*>(nullptr));
  if (transfer.stale) {
    part.discard();
    again = true;
    return "the file changed while it was being downloaded";
  }
  if (!wrong.empty()) return wrong;
  if (part.size() == 0 && file.size != 0) return "sent nothing";
  if (file.size >= 0 && part.size() < static_cast<uint64_t>(file.size)) {
    again = transfer.received > 0;
    return fmt::format("ended after {} of {} bytes", part.size(), file.size);
  }
  return {};
}

std::string Downloader::Connection::fetch_from(const RemoteFile& file, const std::string& url, PartFile& part,
                                               const fs::path& target, const ByteProgress& progress) {
  std::string wrong;
  for (int number = 0; number < kAttempts; ++number) {
    wrong = attempt(file, url, part, progress);
    if (wrong.empty() || !again) break;
  }
  if (!wrong.empty()) return wrong;
  wrong = publish(file, part, target);
  return wrong.empty() ? wrong : "what came " + wrong;
}

Downloader::Downloader(const Options& options) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  check(started == CURLE_OK, "[download] libcurl cannot start: {}", curl_easy_strerror(started));
  connection_ = std::make_unique<Connection>(options);
}

Downloader::~Downloader() = default;

void Downloader::fetch(const RemoteFile& file, const fs::path& target, const ByteProgress& progress) {
  PartFile part(target);
  // The last run may have ended between the last byte and the renaming.
  const bool whole = file.size > 0 && part.size() >= static_cast<uint64_t>(file.size);
  if (whole && publish(file, part, target).empty()) return;
  check_space(file, part);
  std::string tried;
  for (const std::string& url : file.urls) {
    const std::string wrong = connection_->fetch_from(file, url, part, target, progress);
    if (wrong.empty()) return;
    tried += fmt::format("{}{}: {}", tried.empty() ? "" : "; ", url, wrong);
  }
  fail("[data get] cannot download '{}': {}. A copy from elsewhere is taken with --from", file.path, tried);
}

}  // namespace megalodon::data
