#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/utf8.h"
#include "data/byte_stream.h"
#include "data/example_sources.h"
#include "data/wav.h"
#include "io/bytes.h"

namespace megalodon::data {
namespace {

constexpr size_t kMostSoundBytes = size_t{64} << 20;  // of a file

/// What names of files say: lists of recordings "CLASS/NAME.wav" for valid and test.
struct PublishedSplit {
  std::set<std::string, std::less<>> valid, test;

  bool is_there() const { return !valid.empty() && !test.empty(); }
  size_t part_of(std::string_view recording) const {
    return valid.contains(recording) ? 1 : test.contains(recording) ? 2 : 0;
  }
  void read(std::string_view name, std::string_view text) {
    auto& list = name == "validation_list.txt" ? valid : test;
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
  return name == "validation_list.txt" || name == "testing_list.txt";
}

/// The last two parts of a path, "CLASS/NAME.wav"; "" for a path that is no recording in a folder.
std::string recording_of(const fs::path& path) {
  const std::string folder = path.parent_path().filename().string();
  return path.extension() == ".wav" && !folder.empty() ? folder + "/" + path.filename().string() : std::string();
}

std::string_view class_of(std::string_view recording) {
  return recording.substr(0, recording.find('/'));
}

/// One input: calls use(path in the input, read) for each file, in an order that does not depend on the disk; read()
/// gives its bytes.
using UseFile = std::function<void(const fs::path& path, const std::function<std::string()>& read)>;

void visit_folder(const fs::path& folder, const UseFile& use) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    use(path, [&] {
      check(fs::file_size(path) <= kMostSoundBytes, "[data examples] '{}' has more than {} bytes", path.string(),
            kMostSoundBytes);
      return read_file(path);
    });
  }
}

void visit_archive(const fs::path& archive, const UseFile& use) {
  const FileFormat format = format_of(archive.filename().string());
  check(format.layout == Layout::kTar, "[data examples] '{}' is neither a folder nor a .tar archive", archive.string());
  TarReader tar(open_stream(archive, format.compression));
  while (tar.next()) {
    use(tar.name(), [&] {
      std::string bytes(size_t{64} << 10, '\0');
      size_t used = 0, got = 0;
      while ((got = tar.read(bytes.data() + used, bytes.size() - used)) > 0) {
        used += got;
        check(used <= kMostSoundBytes, "[data examples] '{}:{}' has more than {} bytes", archive.string(),
              printable(tar.name()), kMostSoundBytes);
        if (used == bytes.size()) bytes.resize(2 * used);
      }
      bytes.resize(used);
      return bytes;
    });
  }
}

void visit_sounds(const fs::path& input, const UseFile& use) {
  if (fs::is_directory(input)) {
    visit_folder(input, use);
  } else {
    visit_archive(input, use);
  }
}

class AudioSource {
 public:
  AudioSource(const ExampleSetOptions& set, const AudioExamples& options, const ExampleProgress& progress)
      : set_(set), options_(options), progress_(progress), inputs_(part_inputs(set)) {}

  ExampleSetResult make() {
    scan();
    const bool chosen = !set_.valid.empty() || !set_.test.empty() || set_.valid_fraction > 0 || set_.test_fraction > 0;
    if (chosen) published_ = {};
    ExampleSetWriter writer(set_, io::Dtype::I16, 1, published_.is_there());
    for (const PartInput& input : inputs_) {
      visit_sounds(input.path, [&](const fs::path& path, const auto& read) { add(input, path, read, writer); });
    }
    return writer.finish();
  }

 private:
  /// Whether the set is to have recordings of that class.
  bool is_wanted(std::string_view recording) const {
    const std::string_view name = class_of(recording);
    if (set_.classes.empty()) return !name.empty() && !name.starts_with('_');
    return std::find(set_.classes.begin(), set_.classes.end(), name) != set_.classes.end();
  }

  /// Counts the recordings and finds the published split.
  void scan() {
    for (const PartInput& input : inputs_) {
      visit_sounds(input.path, [&](const fs::path& path, const auto& read) {
        const std::string name = path.filename().string();
        if (is_split_list(name)) published_.read(name, read());
        total_ += is_wanted(recording_of(path)) ? 1 : 0;
        if (progress_) progress_(0, total_, 0);
      });
    }
    check(total_ > 0, "[data examples] '{}' holds no CLASS/NAME.wav{}", inputs_.front().path.string(),
          set_.classes.empty() ? "" : " of the classes asked for");
  }

  void add(const PartInput& input, const fs::path& path, const std::function<std::string()>& read,
           ExampleSetWriter& writer) {
    const std::string recording = recording_of(path);
    if (!is_wanted(recording)) return;
    const std::string bytes = read(), where = printable(path.string());
    const Sound sound = parse_wav(io::as_bytes(bytes), where);
    if (rate_ == 0) rate_ = sound.rate;
    check(sound.rate == rate_, "[data examples] '{}' has {} samples a second, those before {}", where, sound.rate,
          rate_);
    std::string sequence(io::as_text(sound.samples));
    if (options_.steps > 0) sequence.resize(static_cast<size_t>(options_.steps) * sizeof(int16_t), '\0');
    writer.add(input.part == 0 ? published_.part_of(recording) : input.part, class_of(recording), {&sequence, 1});
    if (progress_) progress_(static_cast<uint64_t>(writer.seen()), total_, writer.seen());
  }

  const ExampleSetOptions& set_;
  const AudioExamples& options_;
  const ExampleProgress& progress_;
  std::vector<PartInput> inputs_;
  PublishedSplit published_;
  uint64_t total_ = 0;  // recordings
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
