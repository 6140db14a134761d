// Lists of words, behind an <unk> so that every text has tokens, and a text to encode with those that are accepted.
#include "data/word_tokenizer.h"
#include "tests/fuzz/tokenizer_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t length = std::min<size_t>(data[0], size - 1);
  std::string input(data, data + size);
  input[0] = static_cast<char>(length);
  input.insert(1 + length, "<unk>\n");
  return megalodon::fuzz::run_tokenizer<megalodon::data::WordTokenizer>(reinterpret_cast<const uint8_t*>(input.data()),
                                                                        input.size());
}
