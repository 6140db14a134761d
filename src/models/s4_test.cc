#include "models/s4.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "base/check.h"
#include "models/architecture_testing.h"
#include "models/testing.h"
#include "nn/parameters.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::Architecture;
using testing::close;
using testing::noisy_model;
using testing::one_pass;
using testing::random_tokens;
using testing::with_noise;

/// What the presets leave off.
std::vector<Preset> s4_variants() {
  S4Config shared;
  shared.num_layers = 2, shared.model_dim = 8, shared.state_dim = 6, shared.vocab_size = 19, shared.kernel_length = 16;
  shared.discretization = "bilinear", shared.init = "inv", shared.channels = 2, shared.num_matrices = 2;
  S4Config s4 = shared;
  s4.kernel = "s4", s4.init = "legs", s4.prenorm = false;
  S4Config blocks = shared;
  blocks.num_layers = 1, blocks.layers_per_block = "s4, ffn,s4", blocks.ffn_expand = 2, blocks.dropout_tied = true;
  blocks.dt_transform = "softplus", blocks.scale_emb = true;
  S4Config pairs = blocks;
  pairs.kernel = "s4", pairs.init = "legs", pairs.layers_per_block = "s4,s4,ffn", pairs.prenorm = false;
  return {{"s4d_shared", "", shared.clone()},
          {"s4_shared", "", s4.clone()},
          {"s4d_blocks", "", blocks.clone()},
          {"s4_pairs", "", pairs.clone()}};
}

INSTANTIATE_TEST_SUITE_P(S4, Architecture, ::testing::ValuesIn(s4_variants()), testing::name_of_preset);

TEST(S4, ParametersAreCounted) {
  // A layer: norm 64, D 32, step sizes 32, A 2 x 256, B 512, C 512, output 32 x 64 + 64; two vocabularies of 256 x 32,
  // a norm.
  const int64_t layer = 64 + 32 + 32 + 2 * 256 + 512 + 512 + 32 * 64 + 64;
  EXPECT_EQ(make_preset("s4d-tiny")->build()->info().parameters, 2 * layer + 2 * 256 * 32 + 64);
  EXPECT_EQ(make_preset("s4-tiny")->build()->info().parameters,
            2 * (layer + 512) + 256 * 32 + 64);  // P; one vocabulary
}

TEST(S4, ThePublishedModelOfWikiText103IsCounted) {
  const int64_t D = 1024;
  // Norm, D, step sizes, A, B, C, P (32 complex states, one matrix), output; norm and matrices of a feed-forward layer.
  const int64_t s4 = 2 * D + D + D + 2 * 32 + 64 + 64 * D + 64 + 2 * D * D + 2 * D;
  const int64_t ffn = 2 * D + 8 * D * D + 4 * D + D;
  const int64_t rows = 19997 * D + 20000 * 256 + 160000 * 64 + 67738 * 16;
  const int64_t maps = D * (D + 256 + 64 + 16) + 3 * D;
  EXPECT_EQ(make_preset("s4-wikitext103")->build()->info().parameters, 16 * (2 * s4 + ffn) + 2 * D + rows + maps);
}

TEST(S4, ThePublishedClassifiersAreEncoders) {
  for (const auto& [name, dim, state, matrices, prenorm] : {std::tuple{"listops", 256, 4, 1, false},
                                                            {"imdb", 256, 4, 1, true},
                                                            {"aan", 256, 4, 1, true},
                                                            {"cifar10", 512, 64, 1, false},
                                                            {"pathfinder", 256, 64, 256, true},
                                                            {"pathx", 256, 64, 256, true},
                                                            {"speech_commands", 128, 64, 2, true}}) {
    const auto config = make_preset(fmt::format("s4-{}", name));
    EXPECT_THROW(config->build(), UsageError) << name << ": batch norms see the steps to come";
    const auto encoder = config->build_encoder();
    // Norm, D, step sizes, A, B, P, C of both directions, output.
    const int64_t shared = matrices * state / 2 * (2 + 2 + 2);
    const int64_t layer = 2 * dim + dim + dim + shared + 2 * dim * state + 2 * dim * dim + 2 * dim;
    EXPECT_EQ(nn::count_parameters(*encoder), 6 * layer + (prenorm ? 2 * dim : 0)) << name;
  }
}

// ---- written out ----------------------------------------------------------------------------------------------------

/// A diagonal stack, step by step and layer by layer in float64, with batch norms as in training.
class WrittenOutS4 {
 public:
  WrittenOutS4(const S4Config& config, const torch::nn::Module& module, bool bidirectional)
      : config_(config), bidirectional_(bidirectional), parameters_(module.named_parameters()) {}

  Tensor get(const std::string& name) const { return parameters_[name].detach(); }

  Tensor layers(Tensor x_BLD, const std::vector<std::string>& kinds) const {
    for (size_t i = 0; i < kinds.size(); ++i) {
      const bool is_ffn = kinds[i] == "ffn";
      const std::string at = fmt::format("layers.{}.{}", i, is_ffn ? "ffn." : "");
      const Tensor u_BLD = config_.prenorm ? norm(x_BLD, at + "norm", config_.norm) : x_BLD;
      x_BLD = x_BLD + (is_ffn ? feed_forward(u_BLD, at) : block(u_BLD, at + "s4."));
      if (!config_.prenorm) x_BLD = norm(x_BLD, at + "norm", config_.norm);
    }
    return x_BLD;
  }

  Tensor norm(const Tensor& x_BLD, const std::string& at, const std::string& type) const {
    const std::vector<int64_t> over = type == "batch" ? std::vector<int64_t>{0, 1} : std::vector<int64_t>{2};
    const Tensor centered = x_BLD - x_BLD.mean(over, /*keepdim=*/true);
    const Tensor deviation = (centered.square().mean(over, /*keepdim=*/true) + config_.norm_eps).sqrt();
    return centered / deviation * (1 + get(at + ".weight")) + get(at + ".bias");
  }

 private:
  Tensor linear(const Tensor& x, const std::string& at) const {
    return torch::matmul(x, get(at + ".weight").t()) + get(at + ".bias");
  }

  Tensor feed_forward(const Tensor& u_BLD, const std::string& at) const {
    return linear(torch::gelu(linear(u_BLD, at + "fc1")), at + "fc2");
  }

  Tensor block(const Tensor& u_BLD, const std::string& at) const {
    const auto parts = linear(torch::gelu(convolution(u_BLD, at + "layer.")), at + "output_linear.0").chunk(2, 2);
    return parts[0] * torch::sigmoid(parts[1]);
  }

  /// k_h,j = 2 Re Σ_n C B (e^(Δ A) − 1)/A e^(Δ A j), [length,H]; one row of C a direction.
  Tensor kernel(const std::string& at, int64_t direction, int64_t length) const {
    const Tensor a_SN = torch::complex(-get(at + "kernel.A_real").exp(), -get(at + "kernel.A_imag"));
    const int64_t repeats = config_.model_dim / a_SN.size(0);
    const Tensor a_HN = a_SN.repeat({repeats, 1});
    const Tensor b_HN = torch::view_as_complex(get(at + "kernel.B"))[0].repeat({repeats, 1});
    const Tensor c_HN = torch::view_as_complex(get(at + "kernel.C"))[direction];
    const Tensor inv_dt = get(at + "kernel.inv_dt");
    const Tensor dt = config_.dt_transform == "exp" ? inv_dt.exp() : (1 + inv_dt.exp()).log();
    std::vector<Tensor> taps;
    for (int64_t j = 0; j < length; ++j)
      taps.push_back(2 * torch::real((c_HN * b_HN * ((dt * a_HN).exp() - 1) / a_HN * (dt * a_HN * j).exp()).sum(1)));
    return torch::stack(taps);
  }

  Tensor convolution(const Tensor& u_BLD, const std::string& at) const {
    const int64_t L = u_BLD.size(1);
    const Tensor behind = kernel(at, 0, L), ahead = bidirectional_ ? kernel(at, 1, L) : torch::zeros_like(behind);
    std::vector<Tensor> y;
    for (int64_t t = 0; t < L; ++t) {
      Tensor sum_BD = get(at + "D")[0] * u_BLD.select(1, t);
      for (int64_t s = 0; s < L; ++s)
        sum_BD = sum_BD + (s <= t ? behind[t - s] : ahead[s - t - 1]) * u_BLD.select(1, s);
      y.push_back(sum_BD);
    }
    return torch::stack(y, 1);
  }

  S4Config config_;
  bool bidirectional_;
  torch::OrderedDict<std::string, Tensor> parameters_;
};

S4Config small_stack() {
  S4Config config;
  config.num_layers = 1, config.layers_per_block = "s4,ffn,s4", config.ffn_expand = 3;
  config.model_dim = 6, config.state_dim = 8, config.num_matrices = 2;
  return config;
}

TEST(S4Encoder, IsItsEquations) {
  torch::manual_seed(1);
  const Tensor x_BLD = torch::randn({3, 11, 6}, torch::kFloat64);
  for (const bool prenorm : {true, false})
    for (const char* norm : {"layer", "batch"}) {
      S4Config config = small_stack();
      config.prenorm = config.final_norm = prenorm, config.norm = norm, config.dt_transform = "softplus";
      const auto encoder = with_noise(config.build_encoder(), 2);
      encoder->to(torch::kFloat64);
      encoder->train();
      const WrittenOutS4 written(config, *encoder, /*bidirectional=*/true);
      Tensor expected = written.layers(x_BLD, {"s4", "ffn", "s4"});
      if (prenorm) expected = written.norm(expected, "final_norm", norm);
      EXPECT_TRUE(close(encoder->forward(x_BLD, {}, 0), expected, 1e-11)) << norm << ", " << prenorm;
    }
}

TEST(S4, TheLanguageModelWithAnAdaptiveVocabularyIsItsEquations) {
  S4Config config = small_stack();
  config.vocab_size = 19, config.share_emb = config.scale_emb = true, config.dt_transform = "softplus";
  config.adaptive.cutoffs = "7,13", config.adaptive.factor = 2;
  const auto model = noisy_model(config);
  model->to(torch::kFloat64);
  const WrittenOutS4 written(config, *model, /*bidirectional=*/false);
  const auto get = [&](const std::string& name) { return written.get(name); };
  // Tables of all bands behind one another.
  std::vector<Tensor> rows = {torch::matmul(get("embed.weight"), get("embed.map_0.weight").t())};
  for (const int64_t i : {1, 2})
    rows.push_back(
        torch::matmul(get(fmt::format("embed.band_{}.weight", i)), get(fmt::format("embed.map_{}.weight", i)).t()));
  const Tensor tokens = random_tokens(config, 2, 9);
  const Tensor x_BLD = torch::embedding(torch::cat(rows) * std::sqrt(6.0), tokens);
  const Tensor f = written.norm(written.layers(x_BLD, {"s4", "ffn", "s4"}), "output.final_norm", "layer");
  const Tensor head =
      torch::log_softmax(torch::matmul(f, torch::cat({get("embed.weight"), get("output.classes.weight")}).t()), 2);
  std::vector<Tensor> log_p = {head.slice(2, 0, 7)};
  for (const int64_t i : {1, 2})
    log_p.push_back(head.slice(2, 6 + i, 7 + i) + torch::log_softmax(torch::matmul(f, rows[i].t()), 2));
  const Tensor expected = torch::cat(log_p, 2), targets = random_tokens(config, 2, 9, 5);
  EXPECT_TRUE(close(one_pass(*model, {tokens, {}}), expected, 1e-11));
  NoCarry none;
  EXPECT_TRUE(
      close(model->nll({tokens, {}}, targets, none), -expected.gather(2, targets.unsqueeze(2)).squeeze(2), 1e-11));
}

TEST(S4, DropoutOfTheVocabularyIsWhereItSays) {
  torch::NoGradGuard no_grad;
  for (const char* cutoffs : {"", "7,13"}) {
    S4Config config = small_stack();
    config.vocab_size = 19, config.share_emb = true, config.adaptive.cutoffs = cutoffs, config.adaptive.factor = 2;
    const Tensor tokens = random_tokens(config, 2, 30);
    const auto differs = [&](double embed_dropout, double adaptive_dropout) {
      config.embed_dropout = embed_dropout, config.adaptive.dropout = adaptive_dropout;
      const auto model = noisy_model(config);
      const auto results = [&] {
        NoCarry none;
        return std::pair{one_pass(*model, {tokens, {}}), model->nll({tokens, {}}, tokens, none)};
      };
      const auto [logits, nll] = results();
      model->train();
      const auto [dropped_logits, dropped_nll] = results();
      return std::pair{!torch::equal(logits, dropped_logits), !torch::equal(nll, dropped_nll)};
    };
    EXPECT_EQ(differs(0, 0), (std::pair{false, false}));
    EXPECT_EQ(differs(0.3, 0), (std::pair{true, true}));
    EXPECT_EQ(differs(0, 0.3), (std::pair{false, *cutoffs != '\0'}));
  }
}

/// A causal convolution's first output depends on the first input alone.
TEST(S4Convolution, OnlyTheBidirectionalOneSeesWhatIsToCome) {
  torch::NoGradGuard no_grad;
  for (const bool bidirectional : {false, true}) {
    S4LayerConfig config;
    config.features = 8, config.state_dim = 4, config.matrices = 1, config.rank = 1, config.use.attuned_length = 16;
    config.bidirectional = bidirectional, config.init.matrix = "legs";
    S4Convolution convolution(config);
    convolution.init_weights(3);
    const Tensor x = torch::randn({1, 9, 8});
    Tensor other = x.clone();
    other.select(1, 8).add_(1);
    NoCarry none;
    const Tensor difference = convolution.forward(x, {}, none, 0) - convolution.forward(other, {}, none, 0);
    EXPECT_EQ(difference.select(1, 0).abs().max().item<float>() > 1e-4, bidirectional);
    StreamCarry stream;
    if (bidirectional) {
      EXPECT_THROW(convolution.forward(x, {}, stream, 0), Error);
    }
  }
}

TEST(S4Config, ContradictionsAreNamed) {
  const auto refuses = [](const std::string& part, const std::function<void(S4Config&)>& change) {
    S4Config config;
    change(config);
    try {
      config.validate();
      ADD_FAILURE() << "accepted a bad " << part;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuses("model.state_dim", [](auto& c) { c.state_dim = 7; });
  refuses("model.num_matrices", [](auto& c) { c.num_matrices = 3; });
  refuses("model.kernel", [](auto& c) { c.kernel = "s5"; });
  refuses("model.discretization", [](auto& c) { c.discretization = "euler"; });
  refuses("model.init", [](auto& c) { c.init = "legt"; });
  refuses("model.init", [](auto& c) { c.kernel = "s4", c.discretization = "bilinear"; });
  refuses("model.discretization", [](auto& c) { c.kernel = "s4", c.init = "legs"; });
  refuses("model.kernel_length", [](auto& c) { c.kernel_length = 0; });
  refuses("model.dt_min", [](auto& c) { c.dt_min = 1; });
  refuses("model.dropout", [](auto& c) { c.dropout = 1; });
  refuses("model.norm_eps", [](auto& c) { c.norm_eps = 0; });
  refuses("model.embed_dropout", [](auto& c) { c.embed_dropout = -0.5; });
  refuses("model.dt_transform", [](auto& c) { c.dt_transform = "square"; });
  refuses("model.norm", [](auto& c) { c.norm = "rms"; });
  refuses("model.ffn_expand", [](auto& c) { c.ffn_expand = 0; });
  for (const char* layers : {"", "ffn", "s4,", "s4,,ffn", "s4;ffn", "s5"})
    refuses("model.layers_per_block", [&](auto& c) { c.layers_per_block = layers; });
  refuses("model.adaptive_cutoffs", [](auto& c) { c.adaptive.cutoffs = "7;9", c.share_emb = true; });
  refuses("model.share_emb", [](auto& c) { c.adaptive.cutoffs = "7,9"; });
  refuses("model.vocab_size", [](auto& c) { c.vocab_size = 0; });
  refuses("model.output_size", [](auto& c) { c.output_size = -3; });
  refuses("model.share_emb", [](auto& c) { c.share_emb = true, c.output_size = 5; });
}

}  // namespace
}  // namespace megalodon
