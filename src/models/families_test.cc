#include "models/families.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/testing.h"

namespace megalodon {
namespace {

constexpr int64_t kVocabulary = 8192;

/// Of every architecture's preset of this size.
std::vector<int64_t> parameters_of(std::string_view size) {
  std::vector<int64_t> counts;
  for (const Preset& preset : presets())
    if (preset.name.ends_with(size)) counts.push_back(fit_preset(preset.name, kVocabulary, 0).info.parameters);
  return counts;
}

TEST(Families, PresetsOfOneSizeHaveTheSameNumberOfParameters) {
  for (const auto& [size, about] : {std::pair{"-11M", 11.2e6}, {"-45M", 45.4e6}}) {
    const std::vector<int64_t> counts = parameters_of(size);
    ASSERT_GE(counts.size(), 3U) << "megalodon, llama2, s4 and what else there is";
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    EXPECT_LE(static_cast<double>(*most), 1.02 * static_cast<double>(*least)) << size;
    EXPECT_NEAR(static_cast<double>(*least), about, 0.02 * about) << size;
  }
}

TEST(Families, AFamilyIsThePresetOfNearestSize) {
  EXPECT_EQ(fit_preset("llama2", kVocabulary, 11'300'000).name, "llama2-11M");
  EXPECT_EQ(fit_preset("llama2", kVocabulary, 45'000'000).name, "llama2-45M");
  EXPECT_EQ(fit_preset("llama2", 32000, 6'700'000'000).name, "llama2-7B");
  EXPECT_EQ(fit_preset("llama2-7B", kVocabulary, 11'300'000).name, "llama2-7B") << "what is named is taken as it is";
}

TEST(Families, TheVocabularyIsTheOneAskedForAndSharedAsBefore) {
  const FittedPreset small = fit_preset("s4-11M", 256, 0), large = fit_preset("s4-11M", kVocabulary, 0);
  EXPECT_EQ(small.config->vocabulary(), 256);
  EXPECT_EQ(small.config->outputs(), 256);
  EXPECT_EQ(large.info.parameters - small.info.parameters, (kVocabulary - 256) * 480) << "one matrix";
  EXPECT_EQ(large.info.parameters, make_preset("s4-11M")->build()->info().parameters);
  EXPECT_EQ(fit_preset("mega200M", 32000, 0).info.parameters, 220627968);
}

TEST(Families, WhatCannotHaveTheVocabularyIsPassedOver) {
  EXPECT_EQ(fit_preset("mega_chunk", kVocabulary, 11'300'000).name, "mega_chunk-11M");
  EXPECT_THROW(fit_preset("mega_chunk-wikitext103", kVocabulary, 0), UsageError);
  const std::string error = error_of([] { fit_preset("mega_chunk", kVocabulary, 20'000'000); });
  expect_contains(error, {"mega_chunk-11M has 1", "mega_chunk-wikitext103 cannot have this vocabulary"});
}

TEST(Families, ErrorsListWhatThereIs) {
  const auto error = [](const std::string& name, int64_t vocabulary, int64_t parameters) {
    return error_of([&] { fit_preset(name, vocabulary, parameters); });
  };
  expect_contains(error("lama2", kVocabulary, 11'000'000),
                  {"lama2: no such", "did you mean llama2?", "s4", "mega200M"});
  expect_contains(error("s4", kVocabulary, 20'000'000),
                  {"s4", "10 %", "20000000", "8192", "s4-11M has 1", "s4-45M has 4"});
  EXPECT_EQ(fit_preset("s4", kVocabulary, 12'000'000).name, "s4-11M");
  EXPECT_THROW(fit_preset("s4", kVocabulary, 12'600'000), UsageError) << "more than a tenth";
}

}  // namespace
}  // namespace megalodon
