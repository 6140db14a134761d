// WAV files. What is accepted has whole samples that all lie in the file.
#include "data/wav.h"

#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  data::Sound sound;
  if (fuzz::accepts([&] { sound = data::parse_wav(fuzz::bytes_of(data, size), "fuzz"); })) {
    fuzz::require(sound.rate > 0 && sound.samples.size() % sizeof(int16_t) == 0 && sound.samples.size() <= size);
    fuzz::touch(sound.samples);
  }
  return 0;
}
