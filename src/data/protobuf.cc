#include "data/protobuf.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace megalodon::data {

void ProtobufReader::fail_at(size_t offset, std::string_view rule) const {
  fail("[tokenizer] '{}', byte {}: {}", source_, offset, rule);
}

uint64_t ProtobufReader::read_varint() {
  uint64_t value = 0;
  const size_t begin = offset_;
  for (int shift = 0; shift < 70; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(1)[0]);
    if (shift == 63 && byte > 1) break;
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  fail_at(begin, "expected a number of at most 64 bits");
}

std::string_view ProtobufReader::take(uint64_t size) {
  if (size > rest_.size())
    fail_at(offset_,
            fmt::format("expected {} bytes, {} follow in this message; is the file truncated?", size, rest_.size()));
  const std::string_view taken = rest_.substr(0, size);
  rest_.remove_prefix(size);
  offset_ += size;
  return taken;
}

std::optional<ProtobufField> ProtobufReader::next() {
  if (rest_.empty()) return std::nullopt;
  ProtobufField field{};
  field.offset = offset_;
  const uint64_t tag = read_varint();
  const auto number = [](std::string_view bytes) {
    static_assert(std::endian::native == std::endian::little);
    uint64_t value = 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  };
  if (tag >> 3 == 0 || tag >> 3 >= uint64_t{1} << 29)
    fail_at(field.offset, fmt::format("expected a field number in [1, 2^29), got {}", tag >> 3));
  field.id = static_cast<uint32_t>(tag >> 3);
  field.type = static_cast<ProtobufField::Type>(tag & 7);
  switch (field.type) {
    case ProtobufField::kVarint:
      field.number = read_varint();
      break;
    case ProtobufField::kFixed64:
      field.number = number(take(8));
      break;
    case ProtobufField::kFixed32:
      field.number = number(take(4));
      break;
    case ProtobufField::kBytes: {
      const uint64_t size = read_varint();
      field.body_offset = offset_;
      field.bytes = take(size);
      break;
    }
    default:
      fail_at(field.offset, fmt::format("expected a field of wire type 0, 1, 2 or 5, got {}", tag & 7));
  }
  return field;
}

void ProtobufReader::expect_type(const ProtobufField& field, ProtobufField::Type type) const {
  if (field.type != type)
    fail_at(field.offset, fmt::format("expected field {} to have wire type {}, got {}", field.id,
                                      static_cast<int>(type), static_cast<int>(field.type)));
}

uint64_t ProtobufReader::varint(const ProtobufField& field) const {
  expect_type(field, ProtobufField::kVarint);
  return field.number;
}

float ProtobufReader::float32(const ProtobufField& field) const {
  expect_type(field, ProtobufField::kFixed32);
  return std::bit_cast<float>(static_cast<uint32_t>(field.number));
}

std::string_view ProtobufReader::bytes(const ProtobufField& field) const {
  expect_type(field, ProtobufField::kBytes);
  return field.bytes;
}

}  // namespace megalodon::data
