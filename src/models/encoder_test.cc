// Proofs of encoders: gradients, padding, both directions, and Megalodon against its equations written out.
#include "models/encoder.h"

#include <gtest/gtest.h>

#include "models/encoder_testing.h"
#include "nn/cema.h"
#include "ops/rotary/rotary.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::close;
using testing::Encoders;
using testing::padding_of;
using testing::tiny_encoder_config;
using testing::with_noise;

Tensor randn(torch::IntArrayRef sizes, int64_t seed) {
  torch::manual_seed(seed);
  return torch::randn(sizes, torch::kFloat64);
}

TEST_P(Encoders, GradientsMatchFiniteDifferences) {
  const auto encoder = noisy_encoder();
  encoder->to(torch::kFloat64);
  const int64_t D = encoder->model_dim();
  Tensor x_BLD = randn({2, 11, D}, 1).set_requires_grad(true);
  const Tensor padding_BL = padding_of({11, 7}, 11), dy_BLD = randn({2, 11, D}, 2);
  const auto loss = [&] { return (encoder->forward(x_BLD, padding_BL, 0) * dy_BLD).sum(); };
  loss().backward();
  auto inputs = encoder->named_parameters().pairs();
  inputs.emplace_back("x", x_BLD);
  torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  for (const auto& [name, input] : inputs) {
    ASSERT_TRUE(input.grad().defined()) << name;
    EXPECT_GT(input.grad().abs().max().item<double>(), 0) << name;
    // Along a random direction: one number sees every element.
    const Tensor direction = torch::randn_like(input), at = input.clone();
    const auto moved = [&](double by) {
      Tensor(input).copy_(at + by * direction);
      return loss().item<double>();
    };
    const double expected = (moved(kStep) - moved(-kStep)) / (2 * kStep);
    Tensor(input).copy_(at);
    EXPECT_NEAR((input.grad() * direction).sum().item<double>(), expected, 1e-7 * (1 + std::abs(expected))) << name;
  }
}

TEST_P(Encoders, APaddedRowGivesWhatItGivesAlone) {
  torch::NoGradGuard no_grad;
  for (const auto type : {torch::kFloat64, torch::kFloat32}) {
    const auto encoder = noisy_encoder();
    encoder->to(type);
    const std::vector<int64_t> lengths = {23, 9, 1};
    const Tensor padding_BL = padding_of(lengths, 23);
    Tensor x_BLD = randn({3, 23, encoder->model_dim()}, 3).to(type);
    x_BLD.masked_fill_(padding_BL.unsqueeze(2), NAN);  // whoever reads it will be noticed
    const Tensor y_BLD = encoder->forward(x_BLD, padding_BL, 0);
    EXPECT_TRUE(y_BLD.masked_select(padding_BL.unsqueeze(2)).eq(0).all().item<bool>());
    for (int64_t b = 0; b < 3; ++b) {
      const auto row = [&](const Tensor& t) { return t.slice(0, b, b + 1).slice(1, 0, lengths[b]); };
      EXPECT_TRUE(close(row(y_BLD), encoder->forward(row(x_BLD), {}, 0), type == torch::kFloat64 ? 1e-12 : 2e-6)) << b;
    }
  }
}

TEST_P(Encoders, TheFirstStepSeesTheLastOfItsChunkAndTheLastTheFirst) {
  torch::NoGradGuard no_grad;
  const auto encoder = noisy_encoder();
  encoder->to(torch::kFloat64);
  const Tensor x_BLD = randn({1, 8, encoder->model_dim()}, 4), y_BLD = encoder->forward(x_BLD, {}, 0);
  for (const auto& [changed, seen] : {std::pair<int64_t, int64_t>{0, 7}, {7, 0}}) {
    Tensor other = x_BLD.clone();
    other.select(1, changed).neg_();
    const Tensor difference = (encoder->forward(other, {}, 0) - y_BLD).select(1, seen);
    EXPECT_GT(difference.abs().max().item<double>(), 1e-6) << changed;
  }
}

TEST_P(Encoders, InitIsAFunctionOfTheSeedAndDropoutOfTheKey) {
  const auto a = encoder(), b = encoder();
  a->init_weights(5), b->init_weights(5);
  for (const auto& [name, parameter] : a->named_parameters().pairs()) {
    EXPECT_TRUE(torch::equal(parameter, b->named_parameters()[name])) << name;
    EXPECT_TRUE(parameter.isfinite().all().item<bool>()) << name;
  }
  b->init_weights(6);
  bool differs = false;
  for (const auto& [name, parameter] : a->named_parameters().pairs())
    differs |= !torch::equal(parameter, b->named_parameters()[name]);
  EXPECT_TRUE(differs);

  config::Overrides drops = {{"dropout", "0.5"}};
  const auto with_dropout = config().clone();
  config::read(*with_dropout, config::Tree::object(), drops, "test");
  const auto dropping = with_dropout->build_encoder();
  dropping->init_weights(5);
  const Tensor x_BLD = randn({2, 5, a->model_dim()}, 5).to(torch::kFloat32);
  const auto y = [&](uint64_t key) { return dropping->forward(x_BLD, {}, key); };
  EXPECT_TRUE(torch::equal(y(1), y(1)));
  EXPECT_FALSE(torch::equal(y(1), y(2)));
  dropping->eval();
  EXPECT_TRUE(torch::equal(y(1), y(2)));
}

TEST_P(Encoders, Bfloat16ComesClose) {
  torch::NoGradGuard no_grad;
  const auto encoder = noisy_encoder();
  const Tensor x_BLD = randn({2, 20, encoder->model_dim()}, 6).to(torch::kFloat32);
  const Tensor expected = encoder->forward(x_BLD, {}, 0);
  encoder->set_precision(nn::Precision::kBfloat16);
  const Tensor got = encoder->forward(x_BLD, {}, 0);
  EXPECT_TRUE(close(got, expected, 0.05));
  EXPECT_FALSE(torch::equal(got, expected));
}

TEST_P(Encoders, AreMadeOfANameAndATree) {
  const auto given = config().clone(), again = make_config(given->architecture());
  config::read(*again, fields_of(*given), {}, "test");
  const auto expected = given->build_encoder()->named_parameters(), got = again->build_encoder()->named_parameters();
  ASSERT_EQ(got.keys(), expected.keys());
  for (const auto& [name, parameter] : expected.pairs()) EXPECT_EQ(got[name].sizes(), parameter.sizes()) << name;
}

INSTANTIATE_TEST_SUITE_P(All, Encoders, ::testing::ValuesIn(testing::tiny_encoders()), testing::name_of_preset);

/// As every architecture's language model drops its embedding.
TEST(Encoder, DropsWhatItIsGiven) {
  class WithoutLayers final : public LayeredEncoder {
   public:
    WithoutLayers() : LayeredEncoder(16, /*dropout=*/0.5) {}
  };
  TransformerLayerConfig transformer;
  transformer.model_dim = 16, transformer.num_heads = 2, transformer.dropout = 0.5;
  MegaStackConfig mega;
  mega.num_layers = 0, mega.layer.model_dim = 16, mega.layer.dropout = 0.5, mega.layer.prenorm = false;
  const std::vector<std::shared_ptr<Encoder>> encoders = {std::make_shared<WithoutLayers>(),
                                                          std::make_shared<TransformerStack>(transformer, 0, false),
                                                          std::make_shared<MegaStack>(mega)};
  for (const auto& encoder : encoders) {
    const Tensor x_BLD = torch::ones({2, 20, 16}), y_BLD = encoder->forward(x_BLD, {}, 1);
    EXPECT_TRUE((y_BLD.eq(0) | y_BLD.eq(2)).all().item<bool>());
    EXPECT_NEAR(y_BLD.mean().item<double>(), 1, 0.2);
    encoder->eval();
    EXPECT_TRUE(torch::equal(encoder->forward(x_BLD, {}, 1), x_BLD));
  }
}

// ---- both directions ------------------------------------------------------------------------------------------------

struct Average {
  Tensor q_2DN, c_2DN, skip_D;
};

Average random_average(int64_t D, int64_t N) {
  const auto angle = randn({2 * D, N}, 7), size = torch::sigmoid(randn({2 * D, N}, 8));
  return {torch::polar(size, angle), torch::complex(randn({2 * D, N}, 9), randn({2 * D, N}, 10)), randn({D}, 11)};
}

/// k_d,j = Re Σ_n c_n q_n^j, [rows,L].
Tensor average_kernel(const Tensor& q_XN, const Tensor& c_XN, int64_t length) {
  std::vector<Tensor> taps;
  for (int64_t j = 0; j < length; ++j) taps.push_back(torch::real(c_XN * torch::pow(q_XN, j)).sum(1));
  return torch::stack(taps, 1);
}

/// As its definition says: y_t = Σ_(s<=t) k_(t-s) x_s + Σ_(s>=t) k'_(s-t) x_s + skip x_t, of one row x [L,D].
Tensor plain_two_way_average(const Tensor& x_LD, const Average& average) {
  const int64_t L = x_LD.size(0), D = x_LD.size(1);
  const Tensor kernel_XL = average_kernel(average.q_2DN, average.c_2DN, L);
  std::vector<Tensor> y;
  for (int64_t t = 0; t < L; ++t) {
    Tensor sum_D = average.skip_D * x_LD[t];
    for (int64_t s = 0; s <= t; ++s) sum_D = sum_D + kernel_XL.slice(0, 0, D).select(1, t - s) * x_LD[s];
    for (int64_t s = t; s < L; ++s) sum_D = sum_D + kernel_XL.slice(0, D).select(1, s - t) * x_LD[s];
    y.push_back(sum_D);
  }
  return torch::stack(y);
}

TEST(TwoWayAverage, IsItsDefinition) {
  const Average average = random_average(3, 4);
  const Tensor x_BLD = randn({2, 13, 3}, 12);
  const Tensor y_BLD = nn::two_way_average(x_BLD, average.q_2DN, average.c_2DN, average.skip_D);
  for (int64_t b = 0; b < 2; ++b) EXPECT_TRUE(close(y_BLD[b], plain_two_way_average(x_BLD[b], average), 1e-12));
}

TEST(TwoWayAverage, BackwardsIsTheOtherDirectionsForwards) {
  const Average average = random_average(3, 4);
  const auto swapped = [](const Tensor& t) { return t.roll(3, 0); };
  const Tensor x_BLD = randn({2, 13, 3}, 12);
  const Tensor y_BLD = nn::two_way_average(x_BLD, average.q_2DN, average.c_2DN, average.skip_D);
  const Tensor backwards =
      nn::two_way_average(x_BLD.flip(1), swapped(average.q_2DN), swapped(average.c_2DN), average.skip_D);
  EXPECT_TRUE(close(backwards.flip(1), y_BLD, 1e-13));
}

/// Where attention is blind to positions: of equal weights everywhere.
TEST(MegalodonEncoder, ReadsBackwardsWhatItReadsForwards) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_encoder_config();
  const auto forwards = with_noise(config.build_encoder(), 1), backwards = with_noise(config.build_encoder(), 1);
  for (const auto& encoder : {forwards.get(), backwards.get()})
    for (auto& [name, parameter] : encoder->named_parameters().pairs()) {
      if (name.ends_with("beta") || name.find("wz") != std::string::npos) Tensor(parameter).zero_();
      if (encoder == backwards.get() && name.find("cema") != std::string::npos && !name.ends_with("omega"))
        Tensor(parameter).copy_(parameter.roll(config.model_dim, 0));
    }
  const Tensor x_BLD = randn({2, 12, config.model_dim}, 13).to(torch::kFloat32);
  EXPECT_TRUE(close(backwards->forward(x_BLD.flip(1), {}, 0).flip(1), forwards->forward(x_BLD, {}, 0), 1e-5));
}

// ---- Megalodon written out ------------------------------------------------------------------------------------------

class WrittenOut {
 public:
  WrittenOut(const MegalodonConfig& config, const torch::nn::Module& encoder)
      : config_(config), parameters_(encoder.named_parameters()) {}

  Tensor encode(const Tensor& x_LD) {
    Tensor y_LD = x_LD;
    for (int64_t i = 0; i < config_.num_layers; ++i) y_LD = block(y_LD, fmt::format("layers.{}.", i));
    return sequence_norm(y_LD, "final_norm");
  }

 private:
  Tensor get(const std::string& name) { return parameters_[name].detach(); }
  Tensor linear(const Tensor& x, const std::string& name, bool bias) {
    const Tensor y = torch::matmul(x, get(name + ".weight").t());
    return bias ? y + get(name + ".bias") : y;
  }

  Tensor sequence_norm(const Tensor& x_LD, const std::string& name) {
    const int64_t L = x_LD.size(0), D = x_LD.size(1), G = config_.norm_num_groups;
    const Tensor x_LGK = x_LD.view({L, G, D / G}), mean_G = x_LGK.mean(torch::IntArrayRef{0, 2}).view({1, G, 1});
    const Tensor variance_G = (x_LGK - mean_G).square().mean(torch::IntArrayRef{0, 2}).view({1, G, 1});
    const Tensor y_LD = ((x_LGK - mean_G) / (variance_G + config_.norm_eps).sqrt()).reshape({L, D});
    return y_LD * (1 + get(name + ".weight")) + get(name + ".bias");
  }

  Tensor average(const Tensor& t_LD, const std::string& at) {
    const Tensor p = torch::sigmoid(get(at + "alpha")).squeeze(2), order = torch::arange(1, config_.cema_ndim + 1);
    const Tensor magnitude = 1 - p * torch::sigmoid(get(at + "delta")).squeeze(2);
    const Tensor angle =
        order * torch::sigmoid(get(at + "theta")).squeeze(2) * (2 * M_PI / static_cast<double>(config_.cema_ndim));
    const Tensor gamma = torch::view_as_complex(get(at + "gamma")) / std::sqrt(static_cast<double>(config_.cema_ndim));
    return plain_two_way_average(t_LD, {torch::polar(magnitude, angle), p * gamma, get(at + "omega").squeeze(1)});
  }

  /// Softmax of every step over its chunk, head by head.
  Tensor attention(const Tensor& z_LZ, const Tensor& v_LE, const std::string& at) {
    const int64_t L = z_LZ.size(0), H = config_.num_heads, K = config_.z_dim / H;
    const int64_t chunk = config_.chunk_size > 0 ? config_.chunk_size : L;
    const Tensor step_L = torch::arange(L), chunk_L = step_L.div(chunk, "floor");
    const Tensor same_LL = chunk_L.unsqueeze(1) == chunk_L;
    const Tensor angle_LK =
        (step_L - chunk_L * chunk).unsqueeze(1) * ops::rotary_frequencies(K, config_.rope_base).to(torch::kFloat64);
    const Tensor turn_LK = torch::polar(torch::ones_like(angle_LK), angle_LK);
    std::vector<Tensor> heads;
    for (int64_t h = 0; h < H; ++h) {
      const Tensor z = z_LZ.slice(1, h * K, (h + 1) * K);
      const Tensor u = z / (z.square().mean(1, true) + config_.norm_eps).sqrt();
      const auto turned = [&](int64_t i) {
        const auto of_head = [&](const char* name) { return get(at + name)[i].slice(0, h * K, (h + 1) * K); };
        const Tensor x = u * (1 + of_head("gamma")) / std::sqrt(static_cast<double>(K)) + of_head("beta");
        return torch::view_as_complex(x.view({L, K / 2, 2})) * turn_LK;
      };
      const Tensor score_LL = torch::real(torch::matmul(turned(0), turned(1).conj().t()));
      const Tensor weight_LL = torch::where(same_LL, score_LL.exp(), torch::zeros_like(score_LL));
      heads.push_back(torch::matmul(weight_LL / weight_LL.sum(1, true), v_LE.chunk(H, 1)[h]));
    }
    return torch::cat(heads, 1);
  }

  Tensor block(const Tensor& x_LD, const std::string& at) {
    const std::string mega = at + "mega.", nffn = at + "nffn.";
    const Tensor t = sequence_norm(x_LD, mega + "timenorm"), y = average(t, mega + "cema.");
    const Tensor m = y / (y.square().mean(1, true) + config_.norm_eps).sqrt() * (1 + get(mega + "rmsnorm.weight"));
    const Tensor v = torch::silu(linear(t, mega + "wv", true)), r = torch::silu(linear(m, mega + "wr", true));
    const Tensor attended = attention(linear(m, mega + "wz", true), v, mega) * r;
    const Tensor sum = x_LD + linear(m, mega + "wh1", true) + linear(attended, mega + "wh2", false);
    const Tensor centered = sum - sum.mean(1, true);
    const Tensor u =
        centered / (centered.square().mean(1, true) + config_.norm_eps).sqrt() * (1 + get(nffn + "norm.weight")) +
        get(nffn + "norm.bias");
    const Tensor hidden = torch::silu(linear(u, nffn + "fc1", false)) * linear(u, nffn + "fc3", false);
    return x_LD + get(nffn + "alpha") * linear(hidden, nffn + "fc2", false);
  }

  MegalodonConfig config_;
  torch::OrderedDict<std::string, Tensor> parameters_;
};

TEST(MegalodonEncoder, IsItsEquations) {
  torch::NoGradGuard no_grad;
  for (const int64_t chunk : {0, 8, 64}) {
    MegalodonConfig config = tiny_encoder_config();
    config.chunk_size = chunk;
    const auto encoder = with_noise(config.build_encoder(), 1);
    encoder->to(torch::kFloat64);
    WrittenOut written_out(config, *encoder);
    const Tensor x_BLD = randn({2, 21, config.model_dim}, 14);
    const std::vector<int64_t> lengths = {21, 10};
    const Tensor y_BLD = encoder->forward(x_BLD, padding_of(lengths, 21), 0);
    for (int64_t b = 0; b < 2; ++b) {
      const auto row = [&](const Tensor& t) { return t[b].slice(0, 0, lengths[b]); };
      EXPECT_TRUE(close(row(y_BLD), written_out.encode(row(x_BLD)), 1e-11)) << chunk << " " << b;
    }
  }
}

TEST(MegalodonEncoder, RefusesStreamsAndDocumentsAndLanguageModelsRefuseItsFullAttention) {
  MegalodonConfig config = tiny_encoder_config();
  EXPECT_THROW(config.build(), UsageError);
  MegaAttention layer(config, /*bidirectional=*/true);
  layer.init_weights(1);
  const Tensor x_BLD = torch::randn({1, 4, config.model_dim}), starts_BL = torch::zeros({1, 4}, torch::kBool);
  NoCarry whole;
  StreamCarry stream;
  EXPECT_NO_THROW(layer.forward(x_BLD, ModelInput(), whole, 0, 0));
  EXPECT_THROW(layer.forward(x_BLD, {{}, starts_BL}, whole, 0, 0), Error);
  EXPECT_THROW(layer.forward(x_BLD, ModelInput(), stream, 0, 0), Error);
}

/// The exception: padding counts in the statistics, but not what it holds.
TEST(MegaEncoder, BatchNormsInTrainingCountPaddingAsZeros) {
  for (const bool norm_emb : {false, true}) {
    MegaConfig config;
    config.num_layers = 2, config.layer.model_dim = 16, config.layer.z_dim = 8, config.layer.value_dim = 24;
    config.layer.ffn_hidden_dim = 20, config.layer.ema_ndim = 4, config.layer.chunk_size = 8;
    config.layer.norm = "batch", config.norm_emb = norm_emb;
    const auto y = [&](const Tensor& x_BLD, const Tensor& padding_BL) {
      const auto encoder = with_noise(config.build_encoder(), 1);
      encoder->train();
      const Tensor y_BLD = encoder->forward(x_BLD, padding_BL, 0);
      std::vector<Tensor> all = {y_BLD};
      for (const Tensor& statistic : encoder->buffers()) all.push_back(statistic);
      return all;
    };
    const Tensor padding_BL = padding_of({19, 9}, 19), x_BLD = randn({2, 19, 16}, 15).to(torch::kFloat32);
    const auto expected = y(x_BLD.masked_fill(padding_BL.unsqueeze(2), 0), padding_BL);
    const auto got = y(x_BLD.masked_fill(padding_BL.unsqueeze(2), NAN), padding_BL);
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(torch::equal(got[i], expected[i])) << norm_emb << " " << i;
    EXPECT_TRUE(got[0].isfinite().all().item<bool>());
    EXPECT_TRUE(got[0].masked_select(padding_BL.unsqueeze(2)).eq(0).all().item<bool>());
    const Tensor longer = y(torch::constant_pad_nd(x_BLD, {0, 0, 0, 13}), padding_of({19, 9}, 32))[0];
    EXPECT_FALSE(close(longer.slice(1, 0, 19), got[0], 1e-3)) << norm_emb;
  }
}

TEST(TransformerEncoder, RefusesWhatLooksBackwardsOnly) {
  TransformerConfig config;
  config.layer.position = "alibi";
  EXPECT_THROW(config.build_encoder(), UsageError);
  config.layer.position = "rotary", config.layer.window = 3;
  EXPECT_THROW(config.build_encoder(), UsageError);
}

}  // namespace
}  // namespace megalodon
