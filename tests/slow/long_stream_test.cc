// A stream of ten million tokens: what it keeps does not grow, and the statistics it has run up are still right.
#include <gtest/gtest.h>

#include <random>

#include "base/process.h"
#include "infer/engine.h"
#include "models/megalodon.h"
#include "models/testing.h"

namespace megalodon {
namespace {

MegalodonConfig least_config() {
  MegalodonConfig config;
  config.num_layers = 1, config.model_dim = 8, config.z_dim = 4, config.value_dim = 8, config.ffn_hidden_dim = 8;
  config.cema_ndim = 2, config.chunk_size = 64, config.vocab_size = 19, config.norm_num_groups = 2;
  return config;
}

struct Moments {
  long double mean = 0, var = 0;
};

/// Of features [begin, end) of the embeddings of tokens that came so many times.
Moments moments(const Tensor& embedding_VD, const std::vector<int64_t>& times, int64_t begin, int64_t end) {
  const auto numbers = embedding_VD.accessor<float, 2>();
  Moments of;
  long double count = 0;
  const auto for_each = [&](const auto& use) {
    for (size_t v = 0; v < times.size(); ++v)
      for (int64_t i = begin; i < end; ++i)
        use(static_cast<long double>(times[v]), static_cast<long double>(numbers[static_cast<int64_t>(v)][i]));
  };
  for_each([&](long double n, long double x) { of.mean += n * x, count += n; });
  of.mean /= count;
  for_each([&](long double n, long double x) { of.var += n * (x - of.mean) * (x - of.mean) / count; });
  return of;
}

TEST(LongStream, TenMillionTokensLeaveMemoryFlatAndStatisticsRight) {
  constexpr int64_t kTokens = 10'000'000, kPart = 100'000;
  const MegalodonConfig config = least_config();
  const auto model = testing::noisy_model(config);
  Tensor embedding_VD;
  for (const auto& [name, parameter] : named_weights(*model))
    if (name == "embed.weight") embedding_VD = parameter.detach();
  embedding_VD.add_(10);  // a mean of many deviations, from which small differences are hard to tell

  const Engine engine(*model);
  Stream stream;
  std::mt19937 random(1);
  std::vector<int64_t> times(static_cast<size_t>(config.vocab_size)), tokens(kPart);
  std::vector<double> seconds;
  int64_t resident = 0;
  while (stream.tokens() < kTokens) {
    for (int64_t& token : tokens) {
      token = static_cast<int64_t>(random() % static_cast<uint64_t>(config.vocab_size));
      ++times[static_cast<size_t>(token)];
    }
    const Stopwatch watch;
    engine.read(stream, tokens);
    seconds.push_back(watch.seconds());
    if (stream.tokens() == kTokens / 10) resident = resident_bytes();
  }
  EXPECT_LE(resident_bytes() - resident, 1 << 20) << "after " << resident;
  RecordProperty("first_percent_seconds", std::to_string(seconds[1]));  // the first of all warms up
  RecordProperty("last_percent_seconds", std::to_string(seconds.back()));

  std::map<std::string, Tensor> state;
  for (const auto& [name, tensor] : engine.tensors(stream)) state[name] = tensor;
  EXPECT_EQ(state.at("state.0.0").item<int64_t>(), kTokens);
  const int64_t width = config.model_dim / config.norm_num_groups;
  for (int64_t g = 0; g < config.norm_num_groups; ++g) {
    const Moments expected = moments(embedding_VD, times, g * width, (g + 1) * width);
    EXPECT_NEAR(state.at("state.0.1")[0][g].item<double>(), static_cast<double>(expected.mean), 1e-9);
    const auto var = static_cast<double>(expected.var);
    EXPECT_NEAR(state.at("state.0.2")[0][g].item<double>(), var, 1e-7 * var);  // a step's squares are float32
  }
}

}  // namespace
}  // namespace megalodon
