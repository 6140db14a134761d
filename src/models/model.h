// What every architecture looks like from outside. Trainer, decoder, evaluation and converters know only this.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "models/carry.h"
#include "nn/linear.h"

namespace megalodon {

class Model;
class Encoder;

/// An architecture's hyperparameters.
class ModelConfig {
 public:
  virtual ~ModelConfig() = default;
  virtual std::string architecture() const = 0;
  virtual void visit(config::Visitor& visitor) = 0;
  /// Throws UsageError naming the fields that do not fit together, and their values.
  virtual void validate() const = 0;
  virtual std::unique_ptr<ModelConfig> clone() const = 0;
  /// A model with float32 parameters that hold nothing meaningful yet: init_weights() or load_weights() comes next.
  virtual std::unique_ptr<Model> build() const = 0;
  /// The layers alone, over whole sequences and seeing both directions, with a norm at the end where the architecture
  /// has one; vocabulary and outputs play no part. As build(), and throws UsageError where there is no such thing.
  virtual std::unique_ptr<Encoder> build_encoder() const;
  /// Whether build_encoder() is all that there is: batch norms see the steps to come.
  virtual bool is_encoder() const { return false; }
  virtual int64_t vocabulary() const = 0;
  virtual int64_t outputs() const = 0;  // classes of the output layer; normally the vocabulary
};

/// A stretch of tokens.
struct ModelInput {
  Tensor tokens_BL;        // int64
  Tensor starts_BL;        // bool, true where a document begins; undefined: nowhere but where the stream does
  Tensor padding_BL = {};  // bool, true where a row has no step; undefined: nowhere. Mega, Transformers and encoders
};

/// Of the keys and values that attention keeps of a stream.
struct CacheShape {
  int64_t slots = 0;  // the carry's slots 0 … that have caches
  int64_t steps = 0;  // of a chunk, whose keys and values those of the next overwrite; 0: all are kept
  int64_t heads = 0, key_width = 0, value_width = 0;  // heads: of keys and values, not of queries

  /// How many steps are kept after so many tokens.
  int64_t kept(int64_t tokens) const { return slots == 0 ? 0 : steps > 0 ? tokens % steps : tokens; }
};

struct ModelInfo {
  int64_t chunk_size = 0;         // steps per attention chunk; 0: no chunks
  int64_t window = 0;             // keys that a step sees at most; 0: all of its chunk
  int64_t parameters = 0;         // trained, tied ones once
  int64_t matrix_parameters = 0;  // those that matrix products read for every token
  // Of the forward pass of a token, multiply and add counted apart: without attention, and for each key that it sees.
  double flops = 0, flops_per_key = 0;
  int64_t state_bytes_fixed = 0;    // of a float32 stream of batch 1, without keys and values
  int64_t state_bytes_full = 0;     // with those of a full chunk
  int64_t state_bytes_a_token = 0;  // that it grows by, where attention sees everything
  CacheShape cache;
  /// Whether what a step of one token queues on a GPU depends on nothing but the number of rows, once it has been made
  /// before: with caches, it asks the GPU for nothing and reads no position of the host's.
  bool repeats_steps = false;

  /// Of a token, on average over a sequence of `length` tokens.
  double mean_forward_flops(int64_t length) const;
};

class Model : public torch::nn::Module {
 public:
  virtual const ModelConfig& config() const = 0;
  /// [B,L,D]: what the output layer is applied to.
  virtual Tensor hidden(const ModelInput& input, Carry& carry) = 0;
  /// [..,D] to [..,V]; its weight may be the embedding's.
  virtual const nn::Linear& output() const = 0;
  /// All that are part of it, the output layer last.
  virtual std::vector<nn::Linear*> linears() = 0;
  /// Fills all parameters as the architecture's paper says, as a pure function of the seed.
  virtual void init_weights(uint64_t seed) = 0;
  virtual ModelInfo info() const = 0;
  /// Replaces the normalization statistics in `carry` by those in `fresh` and leaves the rest, as the published
  /// evaluator does with long inputs. Throws Error for architectures without such statistics.
  virtual void replace_norm_statistics(StreamCarry& carry, const StreamCarry& fresh) const;

  /// Throws Error for a slot's state, one row, of the right types and shapes and with finite numbers, that no stream of
  /// so many tokens can have.
  virtual void check_state(int64_t slot, const State& state, int64_t tokens) const;

  /// Throws Error where no document can be of so many tokens. Who hands over caches asks before each pass: with them
  /// the pass itself does not, since what a GPU repeats cannot refuse.
  virtual void check_length(int64_t tokens) const;

  /// Of a tensor of a slot's state whose axis 1 is as long as the stream makes it: how long after so many tokens.
  virtual std::optional<int64_t> state_steps(int64_t slot, size_t tensor, int64_t tokens) const;

  /// Of the parameters. Tokens, starts and targets may be elsewhere: they are brought there.
  torch::Device device() const { return output().weight.device(); }

  /// [B,L,V], float32 or wider.
  Tensor logits(const ModelInput& input, Carry& carry);
  /// [B,L] negative log likelihoods; 0 where the target is -100. Never holds all logits.
  Tensor nll(const ModelInput& input, const Tensor& targets_BL, Carry& carry);
  /// Of what hidden() returns, [..,D] to [..,V], in the model's precision unless told otherwise.
  virtual Tensor logits_of(const Tensor& hidden, std::optional<nn::Precision> precision = {}) const;

  /// The masks of all dropout sites follow from this key; a trainer sets a new one for every forward pass.
  void set_dropout_key(uint64_t key) { dropout_key_ = key; }
  /// What matrix products are made of; float32 unless told otherwise. The parameters are float32 in either case.
  virtual void set_precision(nn::Precision precision) { precision_ = precision; }
  /// For inference, for good, on the device where the model is: the matrices of all linear layers in a type of fewer
  /// bytes. Embedding, norms and moving averages stay float32.
  void fix(ops::FixedType type);
  /// Recompute the activations of one layer in `every` in the backward pass instead of storing them; 0: of none.
  void set_checkpointing(int64_t every) { checkpoint_every_ = every; }
  /// Called with (layer, output_BLD) after every layer when set: for tests and debugging.
  void set_observer(std::function<void(int64_t, const Tensor&)> observer) { observer_ = std::move(observer); }

 protected:
  /// The nll() of what hidden() returns.
  virtual Tensor nll_of(const Tensor& hidden_BLD, const Tensor& targets_BL) const;
  /// The same on the device of the parameters.
  ModelInput here(const ModelInput& input) const;

  uint64_t dropout_key_ = 0;
  nn::Precision precision_ = nn::Precision::kFloat32;
  int64_t checkpoint_every_ = 0;
  std::function<void(int64_t, const Tensor&)> observer_;
};

/// The names of models.def.
std::vector<std::string> architectures();
/// Default hyperparameters. Throws UsageError naming the known architectures.
std::unique_ptr<ModelConfig> make_config(const std::string& architecture);
/// Named configurations of all architectures ("mega200M", …).
struct Preset {
  std::string name, note;
  std::shared_ptr<const ModelConfig> config;
};
const std::vector<Preset>& presets();
std::vector<std::string> preset_names();
/// Throws UsageError naming the known presets.
std::unique_ptr<ModelConfig> make_preset(const std::string& name);

}  // namespace megalodon
