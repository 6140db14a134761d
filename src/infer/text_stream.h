// A stream of text as a file: the model's stream with its sampler, and what was drawn but cannot be shown yet.
//
// A snapshot (infer/snapshot.h) that keeps besides
//
//   tokenizer  as Tokenizer::describe()
//   sampler    as Sampler::state()
//   pending    the bytes of a character that is not complete
//   turn       the text that begins a turn of a conversation, where that was read last
#pragma once

#include <string>

#include "base/utf8.h"
#include "data/tokenizer.h"
#include "infer/sampler.h"
#include "infer/snapshot.h"

namespace megalodon {

struct TextStream {
  Stream stream;
  Sampler sampler;
  Utf8Stream utf8 = {};   // through which its text is shown
  std::string turn = {};  // as above; "" elsewhere
};

/// Atomic. Throws Error for a stream that has read nothing.
void save_text_stream(const fs::path& path, const Engine& engine, const data::Tokenizer& tokenizer,
                      const TextStream& text);

/// It goes on as if it had never stopped, with the sampler's seed of then. Throws Error as load_snapshot() does, for
/// another tokenizer, and where a sampler of this configuration cannot have left what the file says.
TextStream load_text_stream(const fs::path& path, const Engine& engine, const data::Tokenizer& tokenizer,
                            const SamplerConfig& sampler);
/// The same, of what load_snapshot() returned.
TextStream text_stream_of(const Snapshot& snapshot, const data::Tokenizer& tokenizer, const SamplerConfig& sampler);

}  // namespace megalodon
