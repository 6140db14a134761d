// Mega: moving averages, norms, biases, gated attention, layers, language models, encoder and decoder, optimizer.
#include <fmt/format.h>

#include <array>

#include "base/check.h"
#include "cases.h"
#include "models/classifier.h"
#include "models/mega.h"
#include "nn/adaptive_vocabulary.h"
#include "nn/ema.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace megalodon::golden {
namespace {

Tensor batch_first(const Tensor& t) {
  return t.defined() ? t.transpose(0, 1) : t;
}

/// Masks are bytes, 1 at padding.
Tensor mask(const Pass& pass, const std::string& name) {
  const Tensor found = pass.find(name);
  return found.defined() ? found.to(torch::kBool) : found;
}

/// True at the steps from each row's length on.
Tensor beyond(const Tensor& length_B, int64_t length) {
  return torch::arange(length, length_B.options()) >= length_B.unsqueeze(1);
}

std::string without_norm(const std::string& name) {
  return name == "layernorm" ? "layer" : name == "rmsnorm" ? "rms" : name == "scalenorm" ? "scale" : "batch";
}

/// Fields that a case does not have keep their defaults; numbers that mean "none" become 0.
MegaLayerConfig layer_config(const Json& json) {
  MegaLayerConfig c;
  const auto size = [&](const char* name, int64_t& value) {
    if (!json.contains(name)) return;
    value = json.at(name).is_number() ? std::max<int64_t>(json.at(name).get<int64_t>(), 0) : 0;
  };
  size("embed_dim", c.model_dim);
  size("z_dim", c.z_dim);
  size("hidden_dim", c.value_dim);
  size("ffn_hidden_dim", c.ffn_hidden_dim);
  size("n_dim", c.ema_ndim);
  size("ndim", c.ema_ndim);
  size("truncation", c.truncation);
  size("chunk_size", c.chunk_size);
  size("max_positions", c.max_positions);
  c.attention = json.value("attention_activation", "softmax");
  c.position = json.value("rel_pos_bias", "simple");
  c.activation = json.value("activation", "silu");
  c.norm = without_norm(json.value("norm_type", "layernorm"));
  c.prenorm = json.value("prenorm", true);
  c.bidirectional = json.contains("bidirectional") ? json.at("bidirectional").get<bool>() : !json.value("causal", true);
  return c;
}

/// The state dict of a module as a case has it: under other names, norms with weights that are not minus one.
class PublishedMega {
 public:
  using Name = std::function<std::string(const std::string&)>;
  PublishedMega(
      torch::nn::Module& module, Name name = [](const std::string& ours) { return ours; })
      : module_(module), name_(std::move(name)) {}

  /// A norm is one of a sequence there, so that its parameters lie one level deeper.
  std::string published(const std::string& ours) const {
    std::string name = name_(ours);
    const size_t dot = ours.rfind('.');
    if (dot != std::string::npos && in_norm(ours.substr(0, dot))) name.insert(name.rfind('.'), ".norm");
    return name;
  }

  void load(const Pass& pass) const {
    const torch::NoGradGuard no_grad;
    module_.to(target().device, pass.dtype());
    const auto fill = [&](const std::string& ours, Tensor tensor) {
      const std::string name = published(ours);
      tensor.copy_(pass.get("param." + name).view(tensor.sizes()) - (is_scale(ours) ? 1 : 0));
    };
    for (const auto& item : module_.named_parameters()) fill(item.key(), item.value());
    for (const auto& item : module_.named_buffers()) fill(item.key(), item.value());
  }

  void compare_buffers(Pass& pass) const {
    for (const auto& item : module_.named_buffers()) pass.output("buffer." + published(item.key()), item.value());
  }

  /// Differentiates and compares the gradients of parameters and inputs.
  void finish(Pass& pass, const Tensor& loss = {}) const {
    pass.finish(loss);
    compare_gradients(pass);
  }

  void compare_gradients(Pass& pass) const {
    for (const auto& item : module_.named_parameters()) {
      const std::string name = "grad." + published(item.key());
      if (!pass.source().has(name)) continue;
      const Tensor expected = pass.source().tensor(name);
      pass.comparer().near(name, item.value().grad().view(expected.sizes()), expected,
                           pass.source().widened(pass.source().gradient_tolerance(), name));
    }
  }

 private:
  static bool in_norm(const std::string& path) {
    const std::string last = path.substr(path.rfind('.') + 1);
    return last == "norm" || last == "embed_norm" || last == "final_norm";
  }
  static bool is_scale(const std::string& ours) {
    const size_t dot = ours.rfind('.');
    const std::string last = ours.substr(dot + 1);
    return (last == "weight" || last == "scalar") && (dot == std::string::npos || in_norm(ours.substr(0, dot)));
  }

  torch::nn::Module& module_;
  Name name_;
};

void set_mode(torch::nn::Module& module, const Json& config) {
  module.train(config.value("mode", "train") == "train");
}

/// forward(piece, carry) of pieces of so many steps, one behind the other.
template <class Forward>
Tensor in_pieces(const Tensor& x, const Json& pieces, StreamCarry& carry, const Forward& forward) {
  std::vector<Tensor> parts;
  int64_t at = 0;
  for (const auto& piece : pieces) {
    const auto steps = piece.get<int64_t>();
    parts.push_back(forward(x.narrow(1, at, steps), carry));
    at += steps;
  }
  return torch::cat(parts, 1);
}

/// The published state of an average: ours times p β.
Tensor published_state(const MovingAverage& average, const Tensor& beta, const Tensor& ema_BDN) {
  return torch::real(ema_BDN) * average.coefficients().p_DN * beta.squeeze(-1);
}

}  // namespace

// ---- pieces ---------------------------------------------------------------------------------------------------------

void run_moving_average(Pass& pass) {
  const MegaLayerConfig config = layer_config(pass.source().config());
  MovingAverage average(config);
  const PublishedMega published(average);
  published.load(pass);
  const Tensor x_BLD = batch_first(pass.leaf("in.x"));
  pass.output("y", batch_first(average.forward(x_BLD, {{}, {}, mask(pass, "in.padding_mask")}, {}, nullptr)));
  const nn::EmaCoefficients ema = average.coefficients();
  pass.output("p", ema.p_DN.unsqueeze(-1));
  pass.output("q", ema.q_DN.unsqueeze(-1));
  const int64_t L = x_BLD.size(1);
  pass.output("kernel", nn::ema_kernel(ema, config.truncation > 0 ? std::min(L, config.truncation) : L));
  published.finish(pass);
}

void run_moving_average_in_pieces(Pass& pass) {
  const torch::NoGradGuard no_grad;
  MovingAverage average(layer_config(pass.source().config()));
  PublishedMega(average).load(pass);
  const Tensor x_BLD = batch_first(pass.get("in.x"));
  pass.output("y_parallel", batch_first(average.forward(x_BLD, {}, {}, nullptr)));
  MegaLayerState state;
  std::vector<Tensor> parts;
  int64_t at = 0;
  for (const auto& piece : pass.source().config().at("pieces")) {
    MegaLayerState after;
    parts.push_back(average.forward(x_BLD.narrow(1, at, piece.get<int64_t>()), {}, state, &after));
    state = after;
    pass.output(fmt::format("state_after_piece{}", parts.size() - 1),
                published_state(average, pass.get("param.beta"), state.ema_BDN));
    at += piece.get<int64_t>();
  }
  pass.output("y_incremental", batch_first(torch::cat(parts, 1)));
}

void run_mega_norm(Pass& pass) {
  const Json& config = pass.source().config();
  nn::Norm norm(without_norm(config.at("norm_type").get<std::string>()), config.at("embed_dim").get<int64_t>(),
                config.at("eps").get<double>(), config.at("affine").get<bool>());
  const PublishedMega published(norm, [](const std::string& ours) { return "norm." + ours; });
  set_mode(norm, config);
  published.load(pass);
  for (int64_t i = 0; i < config.at("steps").get<int64_t>(); ++i)
    pass.output(fmt::format("y{}", i), batch_first(norm.forward(batch_first(pass.leaf(fmt::format("in.x{}", i))))));
  published.compare_buffers(pass);
  published.finish(pass);
}

void run_mega_ffn(Pass& pass) {
  nn::FeedForward ffn(layer_config(pass.source().config()).feed_forward());
  const PublishedMega published(ffn);
  set_mode(ffn, pass.source().config());
  published.load(pass);
  pass.output("y", batch_first(ffn.forward(batch_first(pass.leaf("in.x")), 0)));
  published.compare_buffers(pass);
  published.finish(pass);
}

void run_relative_bias(Pass& pass) {
  const Json& config = pass.source().config();
  const bool rotary = config.at("kind").get<std::string>() == "rotary";
  RelativeBias bias(rotary ? "rotary" : "simple", config.at("max_positions").get<int64_t>(),
                    rotary ? config.at("dim").get<int64_t>() : 0);
  const PublishedMega published(bias);
  published.load(pass);
  const auto L = config.at("seq_len").get<int64_t>();
  pass.output("bias", ops::offset_matrix(bias.table(L), 0, L, 0, L));
  published.finish(pass);
}

void run_score_function(Pass& pass) {
  const bool laplace = pass.source().config().at("function").get<std::string>() == "laplace";
  pass.output("y", ops::score_function(laplace ? ops::Scores::kLaplace : ops::Scores::kRelu2, pass.leaf("in.x")));
  pass.finish();
}

void run_gated_attention(Pass& pass) {
  const MegaLayerConfig config = layer_config(pass.source().config());
  GatedAttention attention(config);
  const PublishedMega published(attention);
  set_mode(attention, pass.source().config());
  published.load(pass);
  const Tensor x_BLD = batch_first(pass.leaf("in.x"));
  const ModelInput input = {{}, {}, mask(pass, "in.padding_mask")};
  NoCarry whole;
  pass.output("y", batch_first(attention.forward(x_BLD, input, whole, 0, 0)));
  published.compare_buffers(pass);
  published.finish(pass);

  // The weights are what attention makes of values that say which step they are of.
  const torch::NoGradGuard no_grad;
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1);
  const int64_t C = config.chunk_size > 0 && config.chunk_size < L ? config.chunk_size : L;
  const auto projected = attention.project(x_BLD, input, {}, nullptr, 0);
  const Tensor step_BLC = torch::eye(C, x_BLD.options()).repeat({L / C, 1}).expand({B, L, C}).contiguous();
  pass.output("attn_weights",
              attention.attend(projected.z_BLZ, step_BLC, input, nullptr, {}, nullptr, 0).view({B, L / C, C, C}));
}

void run_gated_attention_in_pieces(Pass& pass) {
  const torch::NoGradGuard no_grad;
  const Json& config = pass.source().config();
  const MegaLayerConfig layer = layer_config(config);
  GatedAttention attention(layer);
  PublishedMega(attention).load(pass);
  attention.eval();
  const Tensor x_BLD = batch_first(pass.get("in.x"));
  NoCarry whole;
  pass.output("y_parallel", batch_first(attention.forward(x_BLD, {}, whole, 0, 0)));
  StreamCarry carry;
  pass.output("y_incremental",
              batch_first(in_pieces(x_BLD, config.at("pieces"), carry, [&](const Tensor& piece, Carry& stream) {
                return attention.forward(piece, {}, stream, 0, 0);
              })));
  const auto state = MegaLayerState::unpack(carry.slots().at(0), layer.truncation > 0);
  MovingAverage average(layer);
  PublishedMega(average, [](const std::string& ours) { return "move." + ours; }).load(pass);
  pass.output("ema_state", published_state(average, pass.get("param.move.beta"), state.ema_BDN));
  // With a rotary bias, keys hold the bias behind their own features.
  if (state.k_BTHK.size(1) == 0) return;
  pass.output("cache_key", state.k_BTHK.squeeze(2).slice(2, 0, layer.z_dim));
  pass.output("cache_value", state.v_BTHV.squeeze(2));
}

void run_cross_attention(Pass& pass) {
  GatedCrossAttention attention(layer_config(pass.source().config()));
  const PublishedMega published(attention);
  published.load(pass);
  const Tensor x_BLD = batch_first(pass.leaf("in.query"));
  const Memory memory = {batch_first(pass.leaf("in.memory")), mask(pass, "in.key_padding_mask")};
  NoCarry whole;
  pass.output("y", batch_first(attention.forward(x_BLD, memory, 0, whole, 0, 0)));
  published.finish(pass);
  const torch::NoGradGuard no_grad;
  const int64_t B = memory.x_BJD.size(0), J = memory.x_BJD.size(1);
  const Tensor step_BJJ = torch::eye(J, x_BLD.options()).expand({B, J, J}).contiguous();
  pass.output("attn_weights", attention.attend(attention.project(x_BLD).q_BLZ, attention.keys(memory), step_BJJ,
                                               memory.padding_BJ, 0, 0));
}

void run_mega_layer(Pass& pass) {
  const Json& config = pass.source().config();
  MegaLayerConfig layer = layer_config(config);
  layer.bidirectional = pass.source().kind() == "mega_encoder_layer";
  layer.cross = config.value("cross_attention", false);
  MegaLayer module(layer);
  const PublishedMega published(module);
  published.load(pass);
  const Tensor memory_BJD = layer.cross ? batch_first(pass.leaf("in.memory")) : Tensor();
  NoCarry whole;
  pass.output("y", batch_first(module.forward(batch_first(pass.leaf("in.x")), {{}, {}, mask(pass, "in.padding_mask")},
                                              {{memory_BJD, mask(pass, "in.memory_padding_mask")}}, whole, 0, 0)));
  published.compare_buffers(pass);
  published.finish(pass);
}

// ---- models ---------------------------------------------------------------------------------------------------------

namespace {

MegaConfig model_config(const Json& json) {
  MegaConfig config;
  config.layer = layer_config(json);
  config.num_layers = json.at("layers").get<int64_t>();
  config.vocab_size = json.at("vocab").get<int64_t>();
  config.scale_emb = json.at("embed_scale").get<double>() != 1;
  config.norm_emb = json.at("normalize_embedding").get<bool>();
  config.share_emb = json.at("tie_embeddings").get<bool>();
  config.final_norm_affine = json.at("affine_final_norm").get<bool>();
  if (json.contains("adaptive")) {
    config.adaptive.cutoffs = json.at("adaptive").at("cutoff").get<std::string>();
    config.adaptive.factor = json.at("adaptive").at("factor").get<int64_t>();
    config.share_emb = true;
  }
  return config;
}

std::string name_in_model(const std::string& ours, bool adaptive) {
  static const std::string kBands = "decoder.embed_tokens.embeddings.";
  if (ours == "embed.weight") return adaptive ? kBands + "0.0.weight" : "decoder.embed_tokens.weight";
  if (ours == "output.output.weight") return "decoder.output_projection.weight";
  if (ours == "output.classes.weight") return "decoder.adaptive_softmax.head.class_proj.weight";
  for (const auto& [part, place] :
       std::initializer_list<std::pair<std::string, std::string>>{{"embed.map_", ".1"}, {"embed.band_", ".0"}})
    if (ours.rfind(part, 0) == 0) {
      const size_t dot = ours.rfind('.');
      return kBands + ours.substr(part.size(), dot - part.size()) + place + ours.substr(dot);
    }
  return "decoder." + ours;
}

Tensor padded(const Tensor& t_BL, int64_t more, double value) {
  return more > 0 ? torch::constant_pad_nd(t_BL, {0, more}, value) : t_BL;
}

}  // namespace

void run_mega_model(Pass& pass) {
  const Json& json = pass.source().config();
  const MegaConfig config = model_config(json);
  const auto built = config.build();
  Model& model = *built;
  const PublishedMega published(
      model, [&](const std::string& ours) { return name_in_model(ours, !config.adaptive.cutoffs.empty()); });
  published.load(pass);

  // The published model pads to whole chunks, and its inner states show it.
  const Tensor tokens_BL = pass.get("in.tokens"), targets_BL = pass.get("in.targets");
  const auto pad = json.at("pad_id").get<int64_t>();
  const int64_t L = tokens_BL.size(1), C = config.layer.chunk_size;
  const int64_t more = C > 0 && L > C && L % C != 0 ? C - L % C : 0;
  const Tensor whole_BL = padded(tokens_BL, more, static_cast<double>(pad)), padding_BL = whole_BL.eq(pad);
  const ModelInput input = {whole_BL, {}, padding_BL.any().item<bool>() ? padding_BL : Tensor()};
  const auto time_first = [](const Tensor& t) { return batch_first(t); };
  std::vector<Tensor> inner;
  model.set_observer([&](int64_t, const Tensor& x_BLD) { inner.push_back(time_first(x_BLD.detach())); });
  NoCarry none;
  const Tensor features_BLD = model.hidden(input, none).narrow(1, 0, L);
  model.set_observer({});
  pass.output("features", features_BLD);
  for (size_t i = 0; i < inner.size(); ++i) pass.output(fmt::format("inner_state{}", i + 1), inner[i]);
  const std::string scores = config.adaptive.cutoffs.empty() ? "logits" : "log_probs";
  pass.output(scores, model.logits_of(features_BLD));

  const Tensor ignored_BL = padded(targets_BL.masked_fill(targets_BL.eq(pad), -100), more, -100);
  const Tensor nll_BL = model.nll(input, ignored_BL, none);
  const Tensor loss = nll_BL.sum() / json.at("n_target_tokens").get<int64_t>();
  pass.output("loss", loss);
  published.finish(pass, loss);

  const torch::NoGradGuard no_grad;
  model.eval();
  pass.comparer().require(config.layer.prenorm == json.at("final_norm").get<bool>(), "final_norm",
                          "is where layers begin with norms");
  if (!json.at("incremental_pieces").is_null()) {
    StreamCarry carry;
    pass.output("logits_incremental",
                in_pieces(tokens_BL, json.at("incremental_pieces"), carry, [&](const Tensor& piece, Carry& stream) {
                  return model.logits({piece, {}}, stream);
                }));
  }
  // What the first layer reads: no layer changes it if there are none.
  MegaStackConfig empty;
  empty.layer = config.layer, empty.num_layers = 0, empty.norm_emb = config.norm_emb, empty.final_norm_affine = false;
  MegaStack stack(empty);
  PublishedMega(stack, [](const std::string& ours) { return "decoder." + ours; }).load(pass);
  stack.set_observer([&](int64_t, const Tensor& x_BLD) { pass.output("inner_state0", time_first(x_BLD)); });
  const Tensor rows_BLD =
      config.adaptive.cutoffs.empty()
          ? torch::embedding(pass.get("param.decoder.embed_tokens.weight"), whole_BL)
          : [&] {
              torch::nn::Module bands;
              const nn::AdaptiveVocabulary vocabulary(bands, config.adaptive.bounds(config.vocab_size),
                                                      config.vocab_size, config.layer.model_dim,
                                                      config.adaptive.factor);
              PublishedMega(bands, [&](const std::string& ours) { return name_in_model(ours, true); }).load(pass);
              return vocabulary.embed(whole_BL,
                                      nn::Linear(pass.get("param.decoder.embed_tokens.embeddings.0.0.weight")),
                                      nn::Precision::kFloat32);
            }();
  stack.forward(rows_BLD * json.at("embed_scale").get<double>(), input.padding_BL, 0);
}

void run_mega_classifier(Pass& pass) {
  const Json& json = pass.source().config();
  MegaStackConfig stack;
  stack.layer = layer_config(json), stack.num_layers = json.at("layers").get<int64_t>();
  stack.layer.bidirectional = true, stack.norm_emb = json.at("normalize_embedding").get<bool>();
  const auto encoder = std::make_shared<MegaStack>(stack);
  const bool tokens = json.at("input_type").get<std::string>() == "text";
  ClassifierConfig config;
  config.input = tokens ? "tokens" : "vectors";
  if (tokens) config.vocab_size = json.at("vocab").get<int64_t>();
  config.classes = json.at("classes").get<int64_t>();
  config.pooling = json.at("pooling").get<std::string>() == "mean" ? "mean" : "first";
  config.head_layers = json.at("classifier_layers").get<int64_t>();
  config.head_dim = json.at("classifier_out").get<int64_t>();
  config.output_bias = false, config.two_inputs = json.at("two_inputs").get<bool>();
  SequenceClassifier model(config, encoder);
  const PublishedMega published(model, [&](const std::string& ours) -> std::string {
    if (ours.rfind("embed.", 0) == 0)
      return "encoder.encoder.embed_tokens." + (tokens ? "embed." + ours.substr(6) : ours.substr(6));
    if (ours.rfind("encoder.", 0) == 0) return "encoder." + ours;
    if (ours == "output.weight") return "sentence_projection_layer.weight";
    const size_t dot = ours.find('.', 5);  // of head.<i>.weight
    return "classifier." + ours.substr(5, dot - 5) + ".0" + ours.substr(dot);
  });
  set_mode(model, json);
  published.load(pass);

  const auto sequences = [&](const std::string& which) {
    Tensor x = pass.get("in.tokens" + which);
    const Tensor padding_BL = beyond(pass.get("in.lengths" + which), x.size(1));
    if (!tokens) x = x.unsqueeze(2);
    return Sequences{x, padding_BL.any().item<bool>() ? padding_BL : Tensor()};
  };
  const Sequences first = sequences(""), second = config.two_inputs ? sequences("1") : Sequences();
  const Tensor logits_BC = model.logits(first, second);
  published.compare_buffers(pass);
  pass.output("logits", logits_BC);
  const Tensor loss = torch::cross_entropy_loss(logits_BC, pass.get("in.target"));
  pass.output("loss", loss);
  published.finish(pass, loss);

  // Of the first sequence alone, and inside the encoder.
  const torch::NoGradGuard no_grad;
  bool of_first = true;
  encoder->set_observer([&](int64_t layer, const Tensor& x_BLD) {
    if (of_first) pass.output(fmt::format("inner_state{}", layer + 1), batch_first(x_BLD));
    of_first = of_first && layer + 1 < stack.num_layers;
  });
  pass.output("sentence_rep",
              model.representation(first, second).slice(1, config.two_inputs ? stack.layer.model_dim : 0));
}

void run_mega_encoder_decoder(Pass& pass) {
  const Json& json = pass.source().config();
  MegaStackConfig config;
  config.layer = layer_config(json), config.num_layers = json.at("layers").get<int64_t>();
  MegaStackConfig of_encoder = config;
  of_encoder.layer.bidirectional = true, config.layer.cross = true;
  MegaStack encoder(of_encoder), decoder(config);
  const PublishedMega published_encoder(encoder, [](const std::string& ours) { return "encoder." + ours; });
  const PublishedMega published_decoder(decoder, [](const std::string& ours) { return "decoder." + ours; });
  published_encoder.load(pass);
  published_decoder.load(pass);

  const Tensor embedding = pass.leaf("param.encoder.embed_tokens.weight");
  const auto embed = [&](const Tensor& tokens) {
    return torch::embedding(embedding, tokens) * json.at("embed_scale").get<double>();
  };
  const Tensor source_BJ = pass.get("in.src_tokens"), padding_BJ = source_BJ.eq(json.at("pad_id").get<int64_t>());
  const Tensor memory_BJD = encoder.forward(embed(source_BJ), padding_BJ, 0);
  pass.output("encoder_out", batch_first(memory_BJD));
  const Tensor previous_BL = pass.get("in.prev_tokens"), targets_BL = pass.get("in.targets");
  const auto logits_of = [&](const Tensor& tokens_BL, Carry& carry) {
    return torch::matmul(decoder.forward(embed(tokens_BL), {}, {memory_BJD, padding_BJ}, carry, 0), embedding.t());
  };
  NoCarry whole;
  const Tensor logits_BLV = logits_of(previous_BL, whole);
  pass.output("logits", logits_BLV);
  const Tensor loss = torch::cross_entropy_loss(logits_BLV.flatten(0, 1), targets_BL.flatten());
  pass.output("loss", loss);
  pass.finish(loss);
  published_encoder.compare_gradients(pass);
  published_decoder.compare_gradients(pass);

  const torch::NoGradGuard no_grad;
  StreamCarry carry;
  std::vector<Tensor> steps;
  for (int64_t t = 0; t < previous_BL.size(1); ++t) steps.push_back(logits_of(previous_BL.narrow(1, t, 1), carry));
  pass.output("logits_incremental", torch::cat(steps, 1));
}

// ---- optimizer ------------------------------------------------------------------------------------------------------

void run_mega_optimizer(Pass& pass) {
  const Json& json = pass.source().config();
  OptimizerConfig config;
  config.lr = json.at("lr").get<double>(), config.eps = json.at("eps").get<double>();
  config.beta1 = json.at("betas")[0].get<double>(), config.beta2 = json.at("betas")[1].get<double>();
  config.weight_decay = json.at("weight_decay").get<double>(), config.clip = json.at("clip_norm").get<double>();
  config.decay_all = config.eps_uncorrected = true;
  ScheduleConfig schedule;
  schedule.kind = "linear", schedule.warmup = json.at("warmup_updates").get<int64_t>();
  schedule.warmup_power = json.at("warmup_power").get<double>();
  schedule.init_ratio = json.at("warmup_init_lr").get<double>() / config.lr;
  schedule.end_ratio = json.at("end_learning_rate").get<double>() / config.lr;
  const auto total = json.at("total_num_update").get<int64_t>();
  const auto rate = [&](int64_t step) { return config.lr * lr_multiplier(schedule, step, total); };

  std::vector<std::pair<std::string, Tensor>> parameters;
  for (const char* name : {"w", "b"})
    parameters.emplace_back(name, pass.get(fmt::format("in.{}", name)).clone().set_requires_grad(true));
  AdamW optimizer(parameters, config);
  std::vector<double> rates, norms, scheduled;
  for (int64_t step = 0; step < json.at("steps").get<int64_t>(); ++step) {
    for (auto& [name, parameter] : parameters)
      parameter.mutable_grad() = pass.get(fmt::format("in.grad_{}{}", name, step)).clone();
    rates.push_back(rate(step));
    norms.push_back(optimizer.gradient_norm());
    optimizer.step(rates.back(), norms.back());
    for (const auto& [name, parameter] : parameters)
      pass.output(fmt::format("{}{}", name, step), parameter.detach().clone());
  }
  const Tensor at_S = pass.source().tensor("out.schedule_steps");
  for (int64_t i = 0; i < at_S.size(0); ++i) scheduled.push_back(rate(at_S[i].item<int64_t>()));
  const auto row = [](const std::vector<double>& values) { return torch::tensor(values, torch::kFloat64); };
  pass.output("lr", row(rates));
  pass.output("grad_norm", row(norms));
  pass.output("schedule_steps", at_S);
  pass.output("schedule_lr", row(scheduled));
}

}  // namespace megalodon::golden
