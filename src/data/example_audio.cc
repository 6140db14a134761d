#include <algorithm>
#include <set>

#include "base/check.h"
#include "data/class_folders.h"
#include "data/example_sources.h"
#include "data/wav.h"
#include "io/bytes.h"

namespace megalodon::data {
namespace {

constexpr std::string_view kValidList = "validation_list.txt", kTestList = "testing_list.txt";

/// What names of files say: lists of recordings "CLASS/NAME.wav" for valid and test.
struct PublishedSplit {
  std::set<std::string, std::less<>> valid, test;

  bool is_there() const { return !valid.empty() && !test.empty(); }
  size_t part_of(std::string_view recording) const {
    return valid.contains(recording) ? 1 : test.contains(recording) ? 2 : 0;
  }
  void read(std::string_view name, std::string_view text) {
    auto& list = name == kValidList ? valid : test;
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.empty()) list.emplace(line);
    }
  }
};

bool is_split_list(std::string_view name) {
  return name == kValidList || name == kTestList;
}

class AudioSource {
 public:
  AudioSource(const ExampleSetOptions& set, const AudioExamples& options, const ExampleProgress& progress)
      : set_(set), options_(options), folders_(set, ".wav", progress) {}

  ExampleSetResult make() {
    folders_.scan([&](const ClassFile& file) {
      const std::string name = file.path.filename().string();
      if (is_split_list(name)) published_.read(name, file.read());
    });
    const bool chosen = !set_.valid.empty() || !set_.test.empty() || set_.valid_fraction > 0 || set_.test_fraction > 0;
    if (chosen) published_ = {};
    const auto &valid = published_.valid, &test = published_.test;
    check(valid.empty() == test.empty(),
          "[data examples] {} names recordings, but {} is missing or empty; --valid or --test says what is held out "
          "without them",
          test.empty() ? kValidList : kTestList, test.empty() ? kTestList : kValidList);
    ExampleSetWriter writer(set_, io::Dtype::I16, 1, published_.is_there());
    folders_.for_each([&](const ClassFile& file) { add(file, writer); });
    return writer.finish();
  }

 private:
  void add(const ClassFile& file, ExampleSetWriter& writer) {
    const std::string bytes = file.read();
    const Sound sound = parse_wav(io::as_bytes(bytes), file.where());
    if (rate_ == 0) rate_ = sound.rate;
    check(sound.rate == rate_, "[data examples] '{}' has {} samples a second, those before {}", file.where(),
          sound.rate, rate_);
    std::string sequence(io::as_text(sound.samples));
    if (options_.steps > 0) sequence.resize(static_cast<size_t>(options_.steps) * sizeof(int16_t), '\0');
    writer.add(file.part == 0 ? published_.part_of(file.example) : file.part, file.class_name(), {&sequence, 1});
  }

  const ExampleSetOptions& set_;
  const AudioExamples& options_;
  ClassFolders folders_;
  PublishedSplit published_;
  uint32_t rate_ = 0;
};

}  // namespace

ExampleSetResult make_examples(const ExampleSetOptions& set, const AudioExamples& options,
                               const ExampleProgress& progress) {
  constexpr int64_t kMostSteps = int64_t{1} << 30;
  if (options.steps < 0 || options.steps > kMostSteps)
    fail_usage("[data examples] expected 0 to {} steps, got {}", kMostSteps, options.steps);
  return AudioSource(set, options, progress).make();
}

}  // namespace megalodon::data
