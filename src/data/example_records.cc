#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "data/byte_stream.h"
#include "data/example_sources.h"

namespace megalodon::data {
namespace {

/// Fills `record`; false at the end of the stream. Throws Error where that is within a record.
bool read_record(ByteStream& stream, std::string& record, int64_t number) {
  size_t used = 0, got = 0;
  while (used < record.size() && (got = stream.read(record.data() + used, record.size() - used)) > 0) used += got;
  check(used == 0 || used == record.size(),
        "[data examples] '{}' ends after {} of {} bytes of record {}; are --pixels and --rgb right?",
        stream.path().string(), used, record.size(), number);
  return used > 0;
}

std::string steps_of(std::string_view pixels, RecordExamples::Colours colours) {
  if (colours == RecordExamples::Colours::kGray) return std::string(pixels);
  const size_t plane = pixels.size() / 3;
  std::string steps;
  for (size_t i = 0; i < plane; ++i) {
    const char rgb[] = {pixels[i], pixels[plane + i], pixels[2 * plane + i]};
    if (colours == RecordExamples::Colours::kRgb) {
      steps.append(rgb, 3);
    } else {
      steps += static_cast<char>(
          gray_of(static_cast<uint8_t>(rgb[0]), static_cast<uint8_t>(rgb[1]), static_cast<uint8_t>(rgb[2])));
    }
  }
  return steps;
}

}  // namespace

uint8_t gray_of(uint8_t red, uint8_t green, uint8_t blue) {
  // Its matrix product fuses multiplications and additions: two pixels of a million differ otherwise.
  constexpr float kScale = 1 / 255.0F;
  const float r = static_cast<float>(red) * kScale, g = static_cast<float>(green) * kScale,
              b = static_cast<float>(blue) * kScale;
  return static_cast<uint8_t>(std::fma(b, 0.1140F, std::fma(g, 0.5870F, r * 0.2989F)) * 255.5F);
}

ExampleSetResult make_examples(const ExampleSetOptions& set, const RecordExamples& options,
                               const ExampleProgress& progress) {
  constexpr int64_t kMostPixels = int64_t{1} << 28;
  if (options.pixels < 1 || options.pixels > kMostPixels)
    fail_usage("[data examples] expected 1 to {} pixels, got {}", kMostPixels, options.pixels);
  const bool gray = options.colours == RecordExamples::Colours::kGray;
  const auto size = static_cast<size_t>(gray ? options.pixels : 3 * options.pixels);
  const std::vector<PartInput> inputs = part_inputs(set);
  ExampleSetWriter writer(set, io::Dtype::U8, options.colours == RecordExamples::Colours::kRgb ? 3 : 1);
  for_each_file(inputs, &writer, progress, [&](const PartInput& input, const auto& report) {
    const auto stream = open_stream(input.path, format_of(input.path.filename().string()).compression);
    std::string record(1 + size, '\0'), sequence;
    for (int64_t number = 1; read_record(*stream, record, number); ++number) {
      const auto label = static_cast<size_t>(static_cast<uint8_t>(record.front()));
      check(set.classes.empty() || label < set.classes.size(),
            "[data examples] '{}', record {}: expected a label in [0, {}), got {}; are --pixels and --rgb right?",
            input.path.string(), number, set.classes.size(), label);
      sequence = steps_of(std::string_view(record).substr(1), options.colours);
      writer.add(input.part, set.classes.empty() ? std::to_string(label) : set.classes[label], {&sequence, 1});
      report(stream->position());
    }
  });
  return writer.finish();
}

}  // namespace megalodon::data
