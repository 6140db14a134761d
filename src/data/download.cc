#include "data/download.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>

#include "base/check.h"
#include "data/part_file.h"
#include "data/transfer.h"
#include "data/verify.h"

namespace megalodon::data {
namespace {

constexpr int kAttempts = 3;  // of one URL, as long as each brings bytes
constexpr long kRedirects = 5;

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
