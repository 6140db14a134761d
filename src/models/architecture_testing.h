// What every architecture is tested on: the small presets that the registry has of it, and the variants that its own
// tests add. A TEST_P(Architecture, …) anywhere runs on all of them; architecture_test.cc has those that need models
// alone.
#pragma once

#include <gtest/gtest.h>

#include <cctype>
#include <string>
#include <vector>

#include "models/model.h"

namespace megalodon {

inline void PrintTo(const Preset& preset, std::ostream* out) {
  *out << preset.name;
}

namespace testing {

/// The language models among the presets that are small enough to train in a test.
inline std::vector<Preset> tiny_presets() {
  constexpr int64_t kMostParameters = 200'000;
  std::vector<Preset> tiny;
  for (const Preset& preset : presets())
    if (!preset.config->is_encoder() && preset.config->build()->info().parameters < kMostParameters)
      tiny.push_back(preset);
  return tiny;
}

class Architecture : public ::testing::TestWithParam<Preset> {
 protected:
  // Tiny tensors: more threads would only wait for each other.
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(threads_); }

  const ModelConfig& config() const { return *GetParam().config; }

 private:
  int threads_ = at::get_num_threads();
};

/// With what tests may not be called replaced.
inline std::string test_name(std::string name) {
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

/// For INSTANTIATE_TEST_SUITE_P(<where from>, Architecture, …).
inline std::string name_of_preset(const ::testing::TestParamInfo<Preset>& info) {
  return test_name(info.param.name);
}

}  // namespace testing
}  // namespace megalodon
