// Small encoders of every architecture, for the tests of encoders and classifiers.
#pragma once

#include "models/encoder.h"
#include "models/mega.h"
#include "models/s4.h"
#include "models/testing.h"

namespace megalodon::testing {

struct NamedEncoder {
  std::string name;
  std::shared_ptr<const ModelConfig> config;
};

inline void PrintTo(const NamedEncoder& encoder, std::ostream* out) {
  *out << encoder.name;
}

/// Megalodon's with full attention.
inline MegalodonConfig tiny_encoder_config() {
  MegalodonConfig config = tiny_config();
  config.chunk_size = 0;
  return config;
}

/// Every architecture's, with every switch that changes what an encoder is.
inline std::vector<NamedEncoder> tiny_encoders() {
  std::vector<NamedEncoder> all;
  const auto add = [&](const char* name, const auto& config) {
    all.push_back({name, std::make_shared<std::decay_t<decltype(config)>>(config)});
  };
  add("megalodon", tiny_encoder_config());
  add("megalodon_in_chunks", tiny_config());
  S4Config s4d;
  s4d.num_layers = 2, s4d.model_dim = 16, s4d.state_dim = 8;
  add("s4d", s4d);
  S4Config s4 = s4d;
  s4.kernel = "s4", s4.init = "legs", s4.discretization = "bilinear", s4.kernel_length = 16, s4.prenorm = false;
  add("s4_postnorm", s4);
  TransformerConfig rotary = tiny_transformer("rotary");
  rotary.layer.num_kv_heads = 2;
  add("transformer", rotary);
  rotary.layer.chunk_size = 8;
  add("transformer_in_chunks", rotary);
  TransformerConfig vanilla = tiny_transformer("sinusoidal");
  vanilla.layer.norm = "layer", vanilla.layer.activation = "relu", vanilla.layer.prenorm = false;
  vanilla.layer.bias = true;
  add("transformer_vanilla", vanilla);
  add("transformer_learned", tiny_transformer("learned"));
  MegaConfig mega;
  mega.num_layers = 2, mega.layer.model_dim = 16, mega.layer.z_dim = 8, mega.layer.value_dim = 24;
  mega.layer.ffn_hidden_dim = 20, mega.layer.ema_ndim = 4;
  add("mega", mega);
  mega.layer.chunk_size = 8, mega.layer.attention = "laplace", mega.layer.position = "simple";
  mega.layer.truncation = 6, mega.layer.norm = "scale", mega.layer.prenorm = false, mega.norm_emb = true;
  add("mega_chunk", mega);
  return all;
}

inline std::unique_ptr<Encoder> noisy_encoder(const ModelConfig& config, int64_t seed = 1) {
  return with_noise(config.build_encoder(), seed);
}

/// Of rows with so many steps, [B,length].
inline Tensor padding_of(const std::vector<int64_t>& steps, int64_t length) {
  return torch::arange(length) >= torch::tensor(steps).unsqueeze(1);
}

}  // namespace megalodon::testing
