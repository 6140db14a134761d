// Inference over endless texts: many independent streams of one model, each at its own position and with a state of
// constant size, joining and leaving a batch at any step.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "infer/batch_states.h"
#include "infer/repeated_step.h"
#include "io/tensor_file.h"
#include "models/folder_parts.h"
#include "models/model.h"

namespace megalodon {

struct EngineOptions {
  torch::ScalarType cache_type = torch::kFloat32;  // of keys and values: float32 or bfloat16
  int64_t block = 2048;                            // the most tokens of a stream that one pass of the model reads
  /// What records the steps of a batch, which a GPU then repeats; null: each is queued anew.
  ops::Recorder (*recorder)(torch::Device) = ops::recorder_of;
};

/// A text that tokens are appended to. A copy is a stream of its own; it shares memory with the original until one of
/// the two reads on, and then all but the keys and values of the open chunk.
class Stream {
 public:
  /// Read so far.
  int64_t tokens() const { return tokens_; }
  /// [V], float32: of the token that comes next; undefined before the first.
  const Tensor& logits() const { return logits_; }

 private:
  friend class Engine;
  std::shared_ptr<const BatchStates> batch_;  // of the one that it was last part of
  int64_t row_ = 0;
  std::shared_ptr<std::vector<ops::KeyValueCache>> caches_;  // of each slot that has one
  int64_t tokens_ = 0;
  Tensor logits_;
  bool torn_ = false;  // an error ended a pass that had begun to overwrite the open chunk
};

/// Not to be used by two threads at a time; nor is the model meanwhile.
class Engine {
 public:
  /// The model must outlive the engine, and neither its parameters nor its precision change meanwhile.
  explicit Engine(Model& model, const EngineOptions& options = {});

  /// Called after each pass with the hidden states of the tokens from `begin` on.
  using UseHidden = std::function<void(int64_t begin, const Tensor& hidden_LD)>;
  /// Appends tokens, in passes of at most `block`; up to rounding the result does not depend on how they are split into
  /// calls. Throws Error for tokens that the model cannot read, or not so many, and then changes nothing.
  void read(Stream& stream, std::span<const int64_t> tokens, const UseHidden& use = {}) const;
  /// Appends one token to each of several streams in one pass. Streams that stay together from step to step cost
  /// nothing to put together.
  void step(std::span<Stream* const> streams, std::span<const int64_t> tokens) const;

  const Model& model() const { return model_; }
  /// Of hyperparameters and weights, 16 hexadecimal digits: what a stream's state is bound to. Reads all weights once.
  const std::string& fingerprint() const;

  /// A copy to be kept: it shares no memory with batches that the stream was part of, and at the end of a chunk it
  /// holds no room for keys and values.
  Stream parked(const Stream& stream) const;
  /// Of the stream's own state, logits and room for keys and values.
  int64_t bytes(const Stream& stream) const;

  /// All that a stream is, besides the number of its tokens, which must not be 0; names as in infer/snapshot.h.
  NamedTensors tensors(const Stream& stream) const;
  /// Throws Error for tensors that no stream of this model and so many tokens can have.
  Stream restore(const io::TensorFile& file, int64_t tokens) const;

 private:
  /// Returns the hidden states [B,L,D].
  Tensor advance(std::span<Stream* const> streams, const Tensor& tokens_BL) const;
  void check_tokens(std::span<const int64_t> tokens) const;
  void make_caches(Stream& stream, int64_t more) const;
  std::vector<State> restore_states(const io::TensorFile& file, int64_t tokens) const;
  std::vector<ops::KeyValueRows> caches(std::span<Stream* const> streams) const;
  static std::shared_ptr<const BatchStates> states(std::span<Stream* const> streams);

  Model& model_;
  EngineOptions options_;
  CacheShape shape_;
  std::unique_ptr<RepeatedStep> repeated_;  // null where steps are not repeated
  mutable std::string fingerprint_;         // once it was asked for
};

}  // namespace megalodon
