// What encoders and classifiers are tested on: the small presets that make an encoder, of whatever architecture, and
// variants that have what those leave off. A TEST_P(Encoders, …) anywhere runs on all of them.
#pragma once

#include "base/check.h"
#include "models/architecture_testing.h"
#include "models/encoder.h"
#include "models/mega.h"
#include "models/megalodon.h"
#include "models/s4.h"
#include "models/testing.h"
#include "models/transformer.h"

namespace megalodon::testing {

class Encoders : public Architecture {
 protected:
  std::unique_ptr<Encoder> encoder() const { return config().build_encoder(); }
  std::unique_ptr<Encoder> noisy_encoder() const { return with_noise(encoder(), /*seed=*/1); }
};

/// tiny_config() with full attention.
inline MegalodonConfig tiny_encoder_config() {
  MegalodonConfig config = tiny_config();
  config.chunk_size = 0;
  return config;
}

inline std::vector<Preset> tiny_encoders() {
  std::vector<Preset> all;
  for (const Preset& preset : tiny_presets()) {
    try {
      preset.config->build_encoder();
      all.push_back(preset);
    } catch (const UsageError&) {  // it reads from left to right only
    }
  }
  all.push_back({"megalodon_full", "", tiny_encoder_config().clone()});
  MegaConfig laplace;
  laplace.num_layers = 2, laplace.layer.model_dim = 16, laplace.layer.z_dim = 8, laplace.layer.value_dim = 24;
  laplace.layer.ffn_hidden_dim = 20, laplace.layer.ema_ndim = 4, laplace.layer.chunk_size = 8;
  laplace.layer.attention = "laplace", laplace.layer.position = "simple", laplace.layer.truncation = 6;
  laplace.layer.norm = "scale", laplace.layer.prenorm = false, laplace.norm_emb = true;
  all.push_back({"mega_laplace", "", laplace.clone()});
  MegaConfig batch = laplace;
  batch.layer.norm = "batch", batch.layer.prenorm = true, batch.layer.attention = "softmax";
  batch.layer.position = "rotary", batch.layer.truncation = 0;
  all.push_back({"mega_batch", "", batch.clone()});
  S4Config postnorm;
  postnorm.num_layers = 2, postnorm.model_dim = 16, postnorm.state_dim = 8, postnorm.prenorm = false;
  all.push_back({"s4_postnorm", "", postnorm.clone()});
  S4Config blocks = postnorm;
  blocks.num_layers = 1, blocks.layers_per_block = "s4,ffn,s4", blocks.norm = "batch", blocks.prenorm = true;
  blocks.final_norm = true, blocks.dt_transform = "softplus", blocks.dropout_tied = true;
  all.push_back({"s4_batch", "", blocks.clone()});
  TransformerConfig chunked;
  chunked.num_layers = 2, chunked.layer.model_dim = 32, chunked.layer.num_heads = 4, chunked.layer.num_kv_heads = 2;
  chunked.layer.ffn_hidden_dim = 64, chunked.layer.chunk_size = 8;
  TransformerConfig learned = chunked;
  learned.layer.position = "learned", learned.max_positions = 64, learned.layer.chunk_size = 0;
  all.push_back({"transformer_chunked", "", chunked.clone()});
  all.push_back({"transformer_learned", "", learned.clone()});
  return all;
}

/// Of rows with so many steps, [B,length].
inline Tensor padding_of(const std::vector<int64_t>& steps, int64_t length) {
  return torch::arange(length) >= torch::tensor(steps).unsqueeze(1);
}

}  // namespace megalodon::testing
