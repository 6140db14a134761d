#include "data/wav.h"

#include "data/wav_testing.h"

namespace megalodon::data {
namespace {

std::string wav_refusal(const std::string& file) {
  const std::string message = error_of([&] { parse_wav(io::as_bytes(file), "sound"); });
  expect_contains(message, {"[wav] sound: "});
  return message;
}

TEST(Wav, FindsTheSamples) {
  const std::string file = wav_of({1, -2, 300});
  const Sound sound = parse_wav(io::as_bytes(file), "sound");
  EXPECT_EQ(sound.rate, 16000U);
  EXPECT_EQ(io::as_text(sound.samples), from_hex("0100feff2c01"));
  EXPECT_TRUE(parse_wav(io::as_bytes(wav_of({})), "sound").samples.empty());
}

TEST(Wav, PassesOverOtherChunksAndTakesTheExtensibleKind) {
  std::string file = wav_of({5});
  file.insert(36, std::string("LIST\3\0\0\0abc\0", 12));  // of odd size, so with a byte behind it
  EXPECT_EQ(io::as_text(parse_wav(io::as_bytes(file), "sound").samples), from_hex("0500"));
  file += "trailing";
  EXPECT_EQ(parse_wav(io::as_bytes(file), "sound").samples.size(), 2U);
  std::string extensible = with(with(wav_of({5}), 16, uint32_t{40}), 20, uint16_t{0xFFFE});
  extensible.insert(36, with(std::string(24, '\0'), 8, uint16_t{1}));
  EXPECT_EQ(io::as_text(parse_wav(io::as_bytes(extensible), "sound").samples), from_hex("0500"));
}

TEST(Wav, RefusesEverythingElse) {
  const std::string file = wav_of({1, 2});
  for (size_t size = 0; size < file.size(); ++size) wav_refusal(file.substr(0, size));
  expect_contains(wav_refusal(with(file, 0, 'X')), {"RIFF"});
  expect_contains(wav_refusal(with(file, 8, 'X')), {"WAVE"});
  expect_contains(wav_refusal(with(file, 20, uint16_t{3})), {"16-bit PCM", "format 3"});
  expect_contains(wav_refusal(with(file, 22, uint16_t{2})), {"1 channel", "2 channels"});
  expect_contains(wav_refusal(with(file, 24, uint32_t{0})), {"rate above 0"});
  expect_contains(wav_refusal(with(file, 34, uint16_t{8})), {"8 bits"});
  expect_contains(wav_refusal(with(file, 12, 'X')), {"\"fmt \" must come before"});
  expect_contains(wav_refusal(with(file, 36, 'X')), {"before a chunk \"data\""});
  expect_contains(wav_refusal(with(file, 40, uint32_t{3})), {"even number of bytes, got 3"});
  expect_contains(wav_refusal(with(file, 40, uint32_t{5})), {"5 bytes expected at offset 44"});
  expect_contains(wav_refusal(with(file, 40, UINT32_MAX)), {"4294967295 bytes expected"});
}

}  // namespace
}  // namespace megalodon::data
