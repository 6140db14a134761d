// SentencePiece models, and a text to encode with those that are accepted.
#include "data/sentencepiece_tokenizer.h"
#include "tests/fuzz/tokenizer_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return megalodon::fuzz::run_tokenizer<megalodon::data::SentencePieceTokenizer>(data, size);
}
