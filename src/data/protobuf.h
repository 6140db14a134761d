// Reads protobuf messages that nobody vouches for: every tag, number and length is checked before it is used.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace megalodon::data {

/// One field of a message. Its value is `number` for varints and fixed-size numbers, `bytes` for the rest.
struct ProtobufField {
  uint32_t id;
  enum Type { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 } type;
  uint64_t number;
  std::string_view bytes;
  size_t offset;       // of the field in the file, for messages
  size_t body_offset;  // of `bytes`
};

class ProtobufReader {
 public:
  /// `source` names the file in errors, `offset` is where the message begins in it.
  ProtobufReader(std::string_view message, std::string_view source, size_t offset = 0)
      : rest_(message), source_(source), offset_(offset) {}

  /// The next field, or none at the end. Throws Error for what is no field, groups included.
  std::optional<ProtobufField> next();

  // The value of a field, which must be of that type.
  uint64_t varint(const ProtobufField& field) const;
  bool boolean(const ProtobufField& field) const { return varint(field) != 0; }
  float float32(const ProtobufField& field) const;
  std::string_view bytes(const ProtobufField& field) const;

  [[noreturn]] void fail_at(size_t offset, std::string_view rule) const;

 private:
  uint64_t read_varint();
  std::string_view take(uint64_t size);
  void expect_type(const ProtobufField& field, ProtobufField::Type type) const;

  std::string_view rest_, source_;
  size_t offset_;
};

}  // namespace megalodon::data
