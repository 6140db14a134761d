#include "train/tensorboard.h"

#include <fmt/format.h>

#include <cstring>

#include "base/crc32c.h"
#include "data/testing.h"

namespace megalodon {
namespace {

std::string hex(std::string_view bytes) {
  std::string out;
  for (const unsigned char byte : bytes) out += fmt::format("{:02x}", byte);
  return out;
}

/// The messages of a file, whose lengths and checksums must be right.
std::vector<std::string> messages(std::string_view bytes) {
  const auto masked = [](std::string_view text) {
    const uint32_t crc = crc32c(text);
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
  };
  std::vector<std::string> list;
  while (!bytes.empty()) {
    uint64_t length = 0;
    uint32_t crc = 0;
    std::memcpy(&length, bytes.data(), 8);
    std::memcpy(&crc, bytes.data() + 8, 4);
    EXPECT_EQ(crc, masked(bytes.substr(0, 8)));
    list.emplace_back(bytes.substr(12, length));
    std::memcpy(&crc, bytes.data() + 12 + length, 4);
    EXPECT_EQ(crc, masked(list.back()));
    bytes.remove_prefix(16 + length);
  }
  return list;
}

TEST(EventRecord, PublishedVectors) {
  EXPECT_EQ(hex(event_record::version(1.0)),
            "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a");
  const Scalar loss{"loss", 2.5};
  EXPECT_EQ(hex(event_record::scalars(2.0, 10, {&loss, 1})),
            "1a00000000000000129bd82d090000000000000040100a2a0d0a0b0a046c6f73731500002040097a8f44");
}

TEST(EventRecord, NumbersOfManyBytes) {
  const Scalar loss{"x", 1};
  const auto list = messages(event_record::scalars(2.0, 300, {&loss, 1}));
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(hex(list[0]),
            "090000000000000040"
            "10ac02"
            "2a0a0a08"
            "0a0178"
            "150000803f");
}

TEST(EventRecord, TextAndRestart) {
  EXPECT_EQ(hex(messages(event_record::restart(2.0, 5))[0]),
            "090000000000000040"
            "1005"
            "3a020801");
  // Value { tag "c", tensor { DT_STRING, shape [1], "hi" }, metadata { plugin "text" } }
  EXPECT_EQ(hex(messages(event_record::text(2.0, 0, "c", "hi"))[0]),
            "090000000000000040"
            "2a1d0a1b"
            "0a0163"
            "420c0807"
            "120412020801"
            "42026869"
            "4a080a060a0474657874");
}

class EventFile : public FolderTest {};

TEST_F(EventFile, HoldsWholeRecords) {
  const fs::path folder = folder_ / "run" / "tensorboard";
  EventWriter writer(folder, 8);
  const std::vector<Scalar> scalars = {{"loss", 2.5}, {"lr", 1e-3}};
  const auto count = [&] { return messages(read_file(writer.file().path())).size(); };
  EXPECT_EQ(count(), 2U);
  writer.scalars(8, scalars);
  EXPECT_EQ(count(), 3U) << "written at once";
  writer.text(8, "config", std::string(100'000, 'x'));
  writer.restart(4);
  const auto list = messages(read_file(writer.file().path()));
  ASSERT_EQ(list.size(), 5U);
  expect_contains(list[0], {"brain.Event:2"});
  expect_contains(list[2], {"loss", "lr"});
  expect_contains(writer.file().path().filename().string(), {"events.out.tfevents.", std::to_string(getpid())});
}

TEST_F(EventFile, EveryWriterHasItsOwn) {
  EventWriter first(folder_, 1), second(folder_, 1);
  EXPECT_NE(first.file().path(), second.file().path());
  EXPECT_LT(first.file().path(), second.file().path()) << "readers take files in the order of their names";
}

TEST_F(EventFile, AFolderThatCannotBeIsNamed) {
  const fs::path file = put("file", "x");
  expect_contains(error_of([&] { EventWriter(file / "below", 1); }), {"tensorboard", "below"});
}

}  // namespace
}  // namespace megalodon
