// A stream as a file: it goes on from there as if it had never stopped, without reading a token of its past again.
//
// A safetensors file, of the size of the stream's state whatever it has read; at the end of a chunk it holds no keys
// and values.
//
// Where a model's state has changed its form, an older file is refused by its tensors; the version is that of the
// format.
//
//   metadata   content "megalodon.cpp stream", content_version "1", model (Engine::fingerprint()), tokens, more (JSON)
//   tensors    logits [V] · state.<slot>.<i> · keys.<slot> [t,G,K] and values.<slot> [t,G,V], the open chunk's t steps
#pragma once

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "infer/engine.h"

namespace megalodon {

struct Snapshot {
  Stream stream;
  nlohmann::ordered_json more;  // what the caller keeps with it: tokenizer, sampler
};

/// Atomic. Throws Error for a stream that has read nothing.
void save_snapshot(const fs::path& path, const Engine& engine, const Snapshot& snapshot);

/// Throws Error saying what was expected and what was found for a file that is none, truncated, of another model or
/// version, or holds numbers that no stream of this model can have.
Snapshot load_snapshot(const fs::path& path, const Engine& engine);
/// The same, of a file that is read already; `path` names it in messages.
Snapshot snapshot_of(const io::TensorFile& file, const Engine& engine, const fs::path& path);

}  // namespace megalodon
