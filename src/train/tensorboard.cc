#include "train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>

#include "base/check.h"
#include "base/crc32c.h"

namespace megalodon {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// ---- protobuf's wire format -------------------------------------------------------------------------------------

template <class Number>
void put_little_endian(std::string& out, Number number) {
  static_assert(std::endian::native == std::endian::little);
  out.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void put_varint(std::string& out, uint64_t number) {
  for (; number >= 0x80; number >>= 7) out.push_back(static_cast<char>(number | 0x80));
  out.push_back(static_cast<char>(number));
}

/// A message under construction. Fields appear as they are added; parsers take any order.
class Message {
 public:
  Message& varint(int field, int64_t value) {
    put_varint(bytes_, tag(field, 0));
    put_varint(bytes_, static_cast<uint64_t>(value));
    return *this;
  }
  Message& fixed64(int field, double value) {
    put_varint(bytes_, tag(field, 1));
    put_little_endian(bytes_, value);
    return *this;
  }
  Message& bytes(int field, std::string_view value) {
    put_varint(bytes_, tag(field, 2));
    put_varint(bytes_, value.size());
    bytes_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return bytes(field, value.bytes_); }
  Message& fixed32(int field, float value) {
    put_varint(bytes_, tag(field, 5));
    put_little_endian(bytes_, value);
    return *this;
  }
  const std::string& str() const { return bytes_; }

 private:
  static uint64_t tag(int field, int wire_type) {
    return static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type);
  }
  std::string bytes_;
};

// ---- event.proto, summary.proto, tensor.proto: field numbers -------------------------------------------------------

enum EventField { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum SummaryField { kValue = 1 };
enum ValueField { kTag = 1, kSimpleValue = 2, kTensor = 8, kMetadata = 9 };
enum SessionLogField { kStatus = 1 };
constexpr int64_t kStart = 1;       // SessionLog.SessionStatus.START
constexpr int64_t kStringType = 7;  // DataType.DT_STRING

Message event(double wall_time, int64_t step) {
  Message message;
  message.fixed64(kWallTime, wall_time);
  if (step != 0) message.varint(kStep, step);  // proto3 leaves zeros out
  return message;
}

/// TFRecord's checksum: rotated, so that a checksum of data that holds checksums stays a good one.
uint32_t masked_crc(std::string_view bytes) {
  constexpr uint32_t kDelta = 0xA282EAD8;
  return std::rotr(crc32c(bytes), 15) + kDelta;
}

std::string record(const Message& message) {
  std::string out;
  put_little_endian(out, uint64_t{message.str().size()});
  put_little_endian(out, masked_crc(out));
  out += message.str();
  put_little_endian(out, masked_crc(message.str()));
  return out;
}

/// As TensorBoard's own writers name files: readers take those with "tfevents" in their names, in this order.
fs::path new_file(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "[tensorboard] cannot create '{}': {}", folder.string(), error.message());
  static std::atomic<int> count = 0;
  std::array<char, 256> host{};
  const bool named = gethostname(host.data(), host.size() - 1) == 0 && host[0] != '\0';
  return folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(now()),
                              named ? host.data() : "localhost", getpid(), count++);
}

}  // namespace

namespace event_record {

std::string version(double wall_time) {
  return record(event(wall_time, 0).bytes(kFileVersion, "brain.Event:2"));
}

std::string restart(double wall_time, int64_t step) {
  return record(event(wall_time, step).message(kSessionLog, Message().varint(kStatus, kStart)));
}

std::string scalars(double wall_time, int64_t step, std::span<const Scalar> list) {
  Message summary;
  for (const auto& [tag, value] : list)
    summary.message(kValue, Message().bytes(kTag, tag).fixed32(kSimpleValue, static_cast<float>(value)));
  return record(event(wall_time, step).message(kSummary, summary));
}

std::string text(double wall_time, int64_t step, std::string_view tag, std::string_view markdown) {
  const Message shape = Message().message(2, Message().varint(1, 1));  // dim { size: 1 }
  const Message tensor = Message().varint(1, kStringType).message(2, shape).bytes(8, markdown);
  const Message metadata = Message().message(1, Message().bytes(1, "text"));  // plugin_data { plugin_name }
  const Message value = Message().bytes(kTag, tag).message(kTensor, tensor).message(kMetadata, metadata);
  return record(event(wall_time, step).message(kSummary, Message().message(kValue, value)));
}

}  // namespace event_record

EventWriter::EventWriter(const fs::path& folder, int64_t first_step) : file_(new_file(folder)) {
  file_.append(event_record::version(now()));
  restart(first_step);
}

void EventWriter::restart(int64_t step) {
  file_.append(event_record::restart(now(), step));
}

void EventWriter::scalars(int64_t step, std::span<const Scalar> list) {
  file_.append(event_record::scalars(now(), step, list));
}

void EventWriter::text(int64_t step, std::string_view tag, std::string_view markdown) {
  file_.append(event_record::text(now(), step, tag, markdown));
}

}  // namespace megalodon
