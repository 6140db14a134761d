// S4 and S4D, a layer (Gu et al., 2021 and 2022):
//
//   x' = A x + B u,  y = 2 Re(C x) + D u      for each feature, with a step size of its own
//   z  = GLU(W gelu(y) + b)                   GLU([a, b]) = a ⊙ sigmoid(b)
//   out = u + z of norm(u)                    or norm(u + z)
//
// Between such layers there may be feed-forward ones, z = W2 gelu(W1 u + b1) + b2 (the model of WikiText-103).
//
// S4D has a diagonal A and runs as a recurrence. S4's A is diagonal minus a product p p^*; training convolves with its
// kernel by FFT, streaming runs the recurrence. Both are one function: any split of a sequence into calls gives the
// result of one pass.
//
// Departures from the published code: the output row that S4 trains is attuned to a length that the configuration names
// and longer sequences do not change it; coefficients are computed in float64; biases begin at zero. An adaptive
// vocabulary is Mega's: its softmax has no biases, and no map in front of the first band.
//
// Shapes: B batch · L time · D = H features · N half the states · S matrices · C channels · R = 1 rank.
#include "models/s4.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/check.h"
#include "base/philox.h"
#include "models/config_checks.h"
#include "nn/dropout.h"
#include "nn/hippo.h"
#include "nn/init.h"
#include "nn/parameters.h"
#include "ops/long_convolution/long_convolution.h"
#include "ops/row_norm/row_norm.h"

namespace megalodon {

using nn::drop;
using nn::register_at;

namespace {

enum S4Site : uint64_t { kOnS4Activation, kOnS4Output };

}  // namespace

// ---- convolution ----------------------------------------------------------------------------------------------------

S4Convolution::S4Convolution(const S4LayerConfig& config) : config_(config) {
  const int64_t H = config.features, N = config.state_dim / 2, S = config.matrices > 0 ? config.matrices : H;
  check(H > 0 && H % S == 0, "[s4] {} features cannot share {} matrices evenly", H, S);
  skip_CD_ = register_at(*this, "D", {config.channels, H});
  parameters_.inv_dt = register_at(*this, "kernel.inv_dt", {H, 1});
  parameters_.A_real = register_at(*this, "kernel.A_real", {S, N});
  parameters_.A_imag = register_at(*this, "kernel.A_imag", {S, N});
  parameters_.B = register_at(*this, "kernel.B", {1, S, N, 2});
  parameters_.C = register_at(*this, "kernel.C", {config.channels * (config.bidirectional ? 2 : 1), H, N, 2});
  if (config.rank > 0) parameters_.P = register_at(*this, "kernel.P", {config.rank, S, N, 2});
}

Tensor S4Convolution::forward(const Tensor& x_BLD, const Tensor& starts_BL, Carry& carry, int64_t slot) {
  const State before = carry.before(slot);
  const Tensor state_BDN = before.empty() ? Tensor() : before[0];
  const int64_t L = x_BLD.size(1);
  const bool is_recurrence = !config_.bidirectional && config_.longest_kernel == 0;
  check(is_recurrence || (!carry.wants_after() && before.empty() && !starts_BL.defined()),
        "[s4] a layer that is bidirectional or has a longest kernel reads whole sequences, not streams or documents");
  const bool crosses = !before.empty() || carry.wants_after();
  if (is_recurrence && (config_.rank == 0 || (crosses && !is_training()))) {
    const auto out = scan(x_BLD, {state_BDN, starts_BL, carry.wants_after()});
    if (carry.wants_after()) carry.after(slot, {out.h_BDN});
    return out.y_BLD;
  }
  const nn::StateSpace space = this->space();
  Tensor y_BLE = convolve(space, x_BLD, starts_BL);
  if (!before.empty()) y_BLE = y_BLE + after_past(space, state_BDN, L, starts_BL);
  if (carry.wants_after()) {
    const torch::NoGradGuard no_grad;  // what a stream carries on is data
    carry.after(slot, {scan(x_BLD, {state_BDN, starts_BL, true}).h_BDN});
  }
  return y_BLE;
}

Tensor S4Convolution::convolve(const nn::StateSpace& space, const Tensor& x_BLD, const Tensor& starts_BL) const {
  const int64_t L = x_BLD.size(1), C = config_.channels;
  const int64_t taps = config_.longest_kernel > 0 ? std::min(config_.longest_kernel, L) : L;
  const Tensor kernel = nn::convolution_kernel(space, config_.use, taps, x_BLD.scalar_type());
  return ops::long_convolution(x_BLD, kernel.narrow(0, 0, C), skip_CD_,
                               {config_.bidirectional ? kernel.narrow(0, C, C) : Tensor(), starts_BL});
}

Tensor S4Convolution::after_past(const nn::StateSpace& space, const Tensor& state_BDN, int64_t length,
                                 const Tensor& starts_BL) const {
  const Tensor y_BLE = nn::response(space, config_.use, state_BDN, length, skip_CD_.scalar_type());
  if (!starts_BL.defined()) return y_BLE;
  const Tensor heard_BL1 = (starts_BL.to(torch::kInt64).cumsum(1) == 0).unsqueeze(2);
  return torch::where(heard_BL1, y_BLE, torch::zeros_like(y_BLE));
}

ops::RecurrenceOut S4Convolution::scan(const Tensor& x_BLD, const ops::RecurrenceOptions& options) {
  const nn::StateSpaceParameters& p = parameters_;
  const auto recurrence = kept_.of({p.inv_dt, p.A_real, p.A_imag, p.B, p.C, p.P},
                                   [&] { return nn::recurrence(space(), config_.use, skip_CD_.scalar_type()); });
  return nn::run(recurrence, x_BLD, skip_CD_, options);
}

void S4Convolution::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  const S4Init& init = config_.init;
  const auto pairs = [](const Tensor& z) { return torch::view_as_real(z.resolve_conj()); };
  nn::uniform(parameters_.inv_dt, std::log(init.dt_min), std::log(init.dt_max), derive_key(key, 0));
  if (config_.transforms.dt_transform == "softplus")
    parameters_.inv_dt.copy_(parameters_.inv_dt.to(torch::kFloat64).exp().expm1().log());
  parameters_.B.zero_();
  parameters_.B.select(3, 0).fill_(1);
  Tensor a_N;
  if (init.matrix == "legs") {
    const nn::NormalPlusLowRank legs = nn::diagonalize(nn::hippo("legs", config_.state_dim));
    a_N = legs.a_N;
    parameters_.B.copy_(pairs(legs.b_N));
    if (config_.rank > 0) parameters_.P.copy_(pairs(legs.p_RN).unsqueeze(1));
  } else {
    check(config_.rank == 0, "[s4] a matrix with a low-rank part begins as legs, not {}", init.matrix);
    a_N = nn::diagonal_a(init.matrix, config_.state_dim / 2);
  }
  parameters_.A_real.copy_((-torch::real(a_N)).log());
  parameters_.A_imag.copy_(-torch::imag(a_N));
  nn::normal(parameters_.C, std::sqrt(0.5), derive_key(key, 1));
  if (config_.rank > 0 && config_.use.attuned_length > 0) {
    const nn::StateSpace space = this->space();
    parameters_.C.copy_(pairs(ops::nplr_attune(nn::nplr_system(space), space.c_CHN, config_.use.attuned_length)));
  }
  nn::normal(skip_CD_, 1, derive_key(key, 2));
}

// ---- block and layer ------------------------------------------------------------------------------------------------

S4Block::S4Block(const S4LayerConfig& config)
    : dropout_(config.dropout),
      convolution_(register_module("layer", std::make_shared<S4Convolution>(config))),
      output_(*this, "output_linear.0", config.features * config.channels, 2 * config.features, /*with_bias=*/true) {}

Tensor S4Block::forward(const Tensor& x_BLD, const Tensor& starts_BL, Carry& carry, int64_t slot,
                        uint64_t dropout_key) {
  const Tensor y_BLE = torch::gelu(convolution_->forward(x_BLD, starts_BL, carry, slot));
  const Tensor dropped_BLE = drop(y_BLE, dropout_, dropout_key, kOnS4Activation, is_training());
  return torch::glu(output_(dropped_BLE, precision_), -1);
}

void S4Block::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  convolution_->init_weights(derive_key(key, 0));
  nn::init_linear(output_.weight, "none", derive_key(key, 1));
  output_.bias.zero_();
}

S4Layer::S4Layer(const S4LayerConfig& config)
    : prenorm_(config.prenorm),
      dropout_(config.dropout),
      norm_(register_module("norm", std::make_shared<nn::Norm>(config.norm, config.features, config.norm_eps))),
      block_(register_module("s4", std::make_shared<S4Block>(config))) {}

Tensor S4Layer::forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                        uint64_t dropout_key) {
  const Tensor u_BLD = zero_padding(prenorm_ ? norm_->forward(x_BLD) : x_BLD, input.padding_BL);
  const Tensor z_BLD = block_->forward(u_BLD, input.starts_BL, carry, slot, dropout_key);
  const Tensor sum_BLD = x_BLD + drop(z_BLD, dropout_, dropout_key, kOnS4Output, is_training());
  return prenorm_ ? sum_BLD : norm_->forward(sum_BLD);
}

void S4Layer::init_weights(uint64_t key) {
  norm_->init_weights();
  block_->init_weights(key);
}

nn::FeedForwardConfig S4LayerConfig::feed_forward() const {
  return {.dim = features,
          .hidden = ffn_expand * features,
          .activation = "gelu",
          .norm = norm,
          .prenorm = prenorm,
          .norm_eps = norm_eps,
          .hidden_dropout = dropout,
          .dropout = dropout,
          .init = "none"};
}

S4FeedForward::S4FeedForward(const S4LayerConfig& config)
    : ffn_(register_module("ffn", std::make_shared<nn::FeedForward>(config.feed_forward()))) {}

std::shared_ptr<StackedLayer> make_s4_layer(S4LayerKind kind, const S4LayerConfig& config) {
  if (kind == S4LayerKind::kFeedForward) return std::make_shared<S4FeedForward>(config);
  return std::make_shared<S4Layer>(config);
}

// ---- language model -------------------------------------------------------------------------------------------------

void S4Config::visit(config::Visitor& v) {
  v.field("num_layers", num_layers, "blocks of layers");
  v.field("layers_per_block", layers_per_block, "layers of a block: s4 and ffn (feed-forward), with commas between");
  v.field("model_dim", model_dim, "D, width of the residual stream");
  v.field("state_dim", state_dim, "real states of a feature; half of them are stored, as complex numbers");
  v.field("channels", channels, "kernels of a feature");
  v.field("num_matrices", num_matrices, "state matrices of a layer, each shared by as many features; 0: one a feature");
  v.field("kernel", kernel, "state matrix: s4d (diagonal) or s4 (normal plus low rank)");
  v.field("init", init, "initial matrix: lin, inv, inv2, quad, real or legs; s4: legs");
  v.field("discretization", discretization, "of s4d: zoh or bilinear; s4: bilinear");
  v.field("kernel_length", kernel_length, "s4: steps that the trained output row is attuned to, about data.seq_len");
  v.field("dt_min", dt_min, "smallest initial step size");
  v.field("dt_max", dt_max, "largest initial step size");
  v.field("dt_transform", dt_transform, "what makes a step size of its parameter: exp or softplus");
  v.field("ffn_expand", ffn_expand, "hidden features of a feed-forward layer, times model_dim");
  v.field("norm", norm, "layer; of encoders also batch");
  v.field("prenorm", prenorm, "norms before the layers; false: behind the sums");
  v.field("final_norm", final_norm, "of encoders (prenorm): a norm behind the last layer, as language models have one");
  v.field("norm_eps", norm_eps, "added to variances");
  v.field("dropout", dropout, "on the activation, the feed-forward hidden layer and the output of layers");
  v.field("dropout_tied", dropout_tied, "one mask for all steps of a sequence");
  v.field("embed_dropout", embed_dropout, "on the embedding, and on what encoders read; -1: dropout");
  v.field("scale_emb", scale_emb, "multiply the embedding by sqrt(model_dim)");
  v.field("vocab_size", vocab_size, "tokens");
  v.field("output_size", output_size, "classes of the output layer; -1: vocab_size");
  v.field("share_emb", share_emb, "the output matrix is the embedding");
  adaptive.visit(v);
}

std::vector<S4LayerKind> S4Config::block() const {
  std::vector<S4LayerKind> block;
  std::istringstream names(layers_per_block + ",");
  for (std::string name; std::getline(names, name, ',');) {
    name.erase(0, name.find_first_not_of(' '));
    name.erase(name.find_last_not_of(' ') + 1);
    if (name != "s4" && name != "ffn")
      fail_usage("[model.layers_per_block] expected s4 and ffn with commas between, got \"{}\"", layers_per_block);
    block.push_back(name == "s4" ? S4LayerKind::kStateSpace : S4LayerKind::kFeedForward);
  }
  if (std::find(block.begin(), block.end(), S4LayerKind::kStateSpace) == block.end())
    fail_usage("[model.layers_per_block] expected one s4 at least, got \"{}\"", layers_per_block);
  return block;
}

std::vector<S4LayerKind> S4Config::kinds() const {
  std::vector<S4LayerKind> all;
  const auto block = this->block();
  for (int64_t i = 0; i < num_layers; ++i) all.insert(all.end(), block.begin(), block.end());
  return all;
}

void S4Config::validate() const {
  check_sizes({{"model.num_layers", num_layers},
               {"model.model_dim", model_dim},
               {"model.state_dim", state_dim},
               {"model.channels", channels},
               {"model.kernel_length", kernel_length},
               {"model.ffn_expand", ffn_expand}});
  check_factor("model.channels", channels, "model_dim", model_dim);
  check_factor("model.state_dim", state_dim, "model_dim", model_dim);
  check_factor("model.ffn_expand", ffn_expand, "model_dim", model_dim);
  block();
  if (state_dim % 2 != 0) fail_usage("[model.state_dim] expected pairs of states, got {}", state_dim);
  if (num_matrices < 0 || (num_matrices > 0 && model_dim % num_matrices != 0))
    fail_usage("[model.num_matrices] expected 0 or a divisor of model_dim = {}, got {}", model_dim, num_matrices);
  check_one_of("model.kernel", kernel, {"s4d", "s4"});
  check_one_of("model.discretization", discretization, {"zoh", "bilinear"});
  if (kernel == "s4" && init != "legs") fail_usage("[model.init] kernel = \"s4\" begins as legs, got \"{}\"", init);
  if (kernel == "s4" && discretization != "bilinear")
    fail_usage("[model.discretization] kernel = \"s4\" is bilinear, got \"{}\"", discretization);
  check_one_of("model.init", init, {"lin", "inv", "inv2", "quad", "real", "legs"});
  if (!(dt_min > 0 && dt_min <= dt_max))
    fail_usage("[model.dt_min] expected a positive number up to dt_max = {}, got {}", dt_max, dt_min);
  check_one_of("model.dt_transform", dt_transform, {"exp", "softplus"});
  check_one_of("model.norm", norm, {"layer", "batch"});
  check_positive("model.norm_eps", norm_eps);
  check_probability("model.dropout", dropout);
  if (embed_dropout != -1) check_probability("model.embed_dropout", embed_dropout);
  check_vocabulary(vocab_size, output_size, share_emb);
  adaptive.validate(vocab_size, model_dim, share_emb && outputs() == vocab_size);
}

S4LayerConfig S4Config::layer() const {
  S4LayerConfig config;
  config.features = model_dim, config.state_dim = state_dim, config.channels = channels, config.matrices = num_matrices;
  config.rank = kernel == "s4" ? 1 : 0;
  config.use = {discretization, kernel_length};
  config.transforms.dt_transform = dt_transform;
  config.ffn_expand = ffn_expand;
  config.norm = norm, config.prenorm = prenorm, config.norm_eps = norm_eps;
  config.dropout = {dropout, dropout_tied};
  config.init = {init, dt_min, dt_max};
  return config;
}

std::unique_ptr<ModelConfig> make_s4_config() {
  return std::make_unique<S4Config>();
}

std::vector<Preset> s4_presets() {
  static constexpr const char* kToy = "a toy for trying things out and for tests";
  S4Config s4d;
  s4d.num_layers = 2, s4d.model_dim = 32, s4d.state_dim = 16, s4d.kernel_length = 16, s4d.vocab_size = 256;
  S4Config s4 = s4d;
  s4.kernel = "s4", s4.init = "legs", s4.discretization = "bilinear", s4.share_emb = true;
  const auto for_comparisons = [](int64_t layers, int64_t dim) {
    S4Config config;
    config.num_layers = layers, config.model_dim = dim, config.vocab_size = 8192, config.share_emb = true;
    return std::make_shared<S4Config>(config);
  };
  std::vector<Preset> presets = {
      {"s4d-tiny", kToy, std::make_shared<S4Config>(s4d)},
      {"s4-tiny", kToy, std::make_shared<S4Config>(s4)},
      {"s4-11M", "S4D, of the size of the other -11M, for comparisons", for_comparisons(13, 480)},
      {"s4-45M", "S4D, of the size of the other -45M, for comparisons", for_comparisons(16, 1024)}};
  const auto published = [](int64_t dim, int64_t state, int64_t matrices, int64_t length) {
    S4Config config;
    config.kernel = "s4", config.init = "legs", config.discretization = "bilinear";
    config.model_dim = dim, config.state_dim = state, config.num_matrices = matrices, config.kernel_length = length;
    return config;
  };
  const auto add_encoder = [&](const char* task, const char* note, S4Config config) {
    config.dt_transform = "softplus", config.norm = "batch", config.final_norm = config.prenorm;
    config.dropout_tied = true, config.embed_dropout = 0;
    presets.push_back({fmt::format("s4-{}", task), fmt::format("an encoder: S4 of {}", note), config.clone()});
  };
  S4Config listops = published(256, 4, 1, 2048), cifar10 = published(512, 64, 1, 1024);
  S4Config pathx = published(256, 64, 256, 16384);
  listops.prenorm = false;
  cifar10.prenorm = false, cifar10.dropout = 0.1;
  pathx.dt_min = 1e-4;
  add_encoder("listops", "Long Range Arena's ListOps", listops);
  add_encoder("imdb", "Long Range Arena's Text", published(256, 4, 1, 4096));
  add_encoder("aan", "Long Range Arena's Retrieval", published(256, 4, 1, 4000));
  add_encoder("cifar10", "Long Range Arena's Image", cifar10);
  add_encoder("pathfinder", "Long Range Arena's Pathfinder", published(256, 64, 256, 1024));
  add_encoder("pathx", "Long Range Arena's Path-X", pathx);
  add_encoder("speech_commands", "Speech Commands, 35 words of 16,000 samples", published(128, 64, 2, 16000));
  S4Config wikitext = published(1024, 64, 1, 8192);
  wikitext.num_layers = 16, wikitext.layers_per_block = "s4,s4,ffn";
  wikitext.dropout = wikitext.embed_dropout = wikitext.adaptive.dropout = 0.25;
  wikitext.vocab_size = 267735, wikitext.share_emb = wikitext.scale_emb = true;
  wikitext.adaptive.cutoffs = "19997,39997,199997";
  presets.push_back({"s4-wikitext103", "the paper's model of WikiText-103", wikitext.clone()});
  return presets;
}

namespace {

class S4 final : public LayerStack {
 public:
  explicit S4(const S4Config& config)
      : LayerStack(config.vocab_size, config.model_dim, config.adaptive, config.dropout_of_embedding()),
        config_(config) {
    for (const S4LayerKind kind : config.kinds()) add_layer(make_s4_layer(kind, config.layer()));
    final_norm_ = nn::Affine(*this, "output.final_norm", config.model_dim);
    add_output(config.outputs(), config.share_emb);
  }

  const ModelConfig& config() const override { return config_; }

  void init_weights(uint64_t seed) override {
    LayerStack::init_weights(seed);
    final_norm_.init_weights();
  }

  ModelInfo info() const override {
    const S4Config& c = config_;
    ModelInfo info;
    info.parameters = nn::count_parameters(*this);
    const auto kinds = c.kinds();
    const int64_t spaces = std::count(kinds.begin(), kinds.end(), S4LayerKind::kStateSpace);
    const auto feed_forwards = static_cast<int64_t>(kinds.size()) - spaces;
    info.matrix_parameters =
        2 * (spaces * c.channels + feed_forwards * c.ffn_expand) * c.model_dim * c.model_dim + vocabulary_parameters();
    // The recurrence: 6 multiply-adds per (feature, channel, complex state), with a low-rank part 4 more.
    const double states = static_cast<double>(spaces * c.channels * c.model_dim) * (c.state_dim / 2);
    info.flops = 2.0 * info.matrix_parameters + 2 * (c.kernel == "s4" ? 10 : 6) * states;
    info.state_bytes_fixed = info.state_bytes_full = spaces * 8 * c.model_dim * (c.state_dim / 2);
    info.repeats_steps = true;
    return info;
  }

 protected:
  Tensor embedded(const Tensor& rows_BLD, const ModelInput& input, Carry&) override {
    check(!input.padding_BL.defined(), "[s4] padding is not read: put documents behind one another");
    return config_.scale_emb ? rows_BLD * std::sqrt(static_cast<double>(config_.model_dim)) : rows_BLD;
  }

  Tensor final_norm(const Tensor& x_BLD, const ModelInput&, Carry&) override {
    return ops::layer_norm(x_BLD, final_norm_.weight, final_norm_.bias, config_.norm_eps);
  }

 private:
  S4Config config_;
  nn::Affine final_norm_;
};

}  // namespace

std::unique_ptr<Model> S4Config::build() const {
  validate();
  if (is_encoder()) fail_usage("[model.norm] batch norms see the steps to come; they are for encoders");
  return std::make_unique<S4>(*this);
}

// ---- encoder --------------------------------------------------------------------------------------------------------

S4Encoder::S4Encoder(const S4EncoderConfig& config) : LayeredEncoder(config.layer.features, config.input_dropout) {
  const S4LayerConfig& layer = config.layer;
  for (const S4LayerKind kind : config.kinds) add_layer(make_s4_layer(kind, layer));
  if (config.final_norm)
    final_norm_ = register_module("final_norm", std::make_shared<nn::Norm>(layer.norm, layer.features, layer.norm_eps));
}

void S4Encoder::init_weights(uint64_t seed) {
  LayeredEncoder::init_weights(seed);
  if (final_norm_ != nullptr) final_norm_->init_weights();
}

Tensor S4Encoder::final_norm(const Tensor& x_BLD, const Tensor& /*padding_BL*/) {
  return final_norm_ != nullptr ? final_norm_->forward(x_BLD) : x_BLD;
}

std::unique_ptr<Encoder> S4Config::build_encoder() const {
  validate();
  S4LayerConfig both_directions = layer();
  both_directions.bidirectional = true;
  return std::make_unique<S4Encoder>(
      S4EncoderConfig{both_directions, kinds(), dropout_of_embedding(), final_norm && prenorm});
}

}  // namespace megalodon
