#include <algorithm>
#include <sstream>

#include "base/check.h"
#include "base/utf8.h"
#include "data/example_sources.h"
#include "data/png_image.h"

namespace megalodon::data {
namespace {

constexpr uintmax_t kMostListBytes = uintmax_t{64} << 20;

/// The lists of a folder, metadata/0.npy, metadata/1.npy, ..., in that order.
std::vector<fs::path> metadata_of(const fs::path& folder) {
  std::vector<fs::path> lists;
  if (fs::is_directory(folder / "metadata")) {
    for (const auto& entry : fs::directory_iterator(folder / "metadata"))
      if (entry.is_regular_file() && entry.path().extension() == ".npy") lists.push_back(entry.path());
  }
  check(!lists.empty(), "[data examples] '{}' must be a folder with metadata/N.npy and the images that they name",
        folder.string());
  std::sort(lists.begin(), lists.end(), [](const fs::path& a, const fs::path& b) {
    const std::string &left = a.native(), &right = b.native();
    return left.size() != right.size() ? left.size() < right.size() : left < right;
  });
  return lists;
}

class PathfinderSource {
 public:
  explicit PathfinderSource(ExampleSetWriter& writer) : writer_(writer) {}

  void read(size_t part, const fs::path& list, const fs::path& folder, const std::function<void(uint64_t)>& report) {
    check(fs::file_size(list) <= kMostListBytes, "[data examples] '{}' has more than {} bytes", list.string(),
          kMostListBytes);
    std::istringstream lines(read_file(list));
    std::string line;
    uint64_t done = 0;
    for (int64_t number = 1; std::getline(lines, line); ++number) {
      done += line.size() + 1;
      std::string images, image, index, label;
      std::istringstream(line) >> images >> image >> index >> label;
      check(label == "0" || label == "1",
            "[data examples] '{}', line {}: expected \"imgs/N sample_M.png M LABEL ...\" with a label 0 or 1, got "
            "\"{}\"",
            list.string(), number, printable(line));
      const fs::path inside = fs::path(images) / image;
      check(inside.is_relative() && std::find(inside.begin(), inside.end(), "..") == inside.end(),
            "[data examples] '{}', line {}: '{}' leaves the folder", list.string(), number, printable(line));
      const std::string sequence = pixels_of(folder / inside);
      writer_.add(part, label, {&sequence, 1});
      report(std::min(done, static_cast<uint64_t>(fs::file_size(list))));
    }
  }

 private:
  /// Row after row; none of an image whose file is empty, as one is in the published set.
  std::string pixels_of(const fs::path& path) {
    const MappedFile file(path);
    if (file.bytes().empty()) return {};
    GrayImage image = parse_gray_png(file.bytes(), fmt::format("'{}'", path.string()));
    if (width_ == 0) width_ = image.width, height_ = image.height;
    check(image.width == width_ && image.height == height_,
          "[data examples] '{}' has {} x {} pixels, those before {} x {}", path.string(), image.width, image.height,
          width_, height_);
    return std::move(image.pixels);
  }

  ExampleSetWriter& writer_;
  int64_t width_ = 0, height_ = 0;
};

}  // namespace

ExampleSetResult make_examples(const ExampleSetOptions& set, const PathfinderExamples&,
                               const ExampleProgress& progress) {
  std::vector<PartInput> lists;
  for (const PartInput& input : part_inputs(set))
    for (const fs::path& list : metadata_of(input.path)) lists.push_back({input.part, list});
  ExampleSetWriter writer(set, io::Dtype::U8, 1);
  PathfinderSource source(writer);
  for_each_file(lists, &writer, progress, [&](const PartInput& list, const auto& report) {
    source.read(list.part, list.path, list.path.parent_path().parent_path(), report);
  });
  return writer.finish();
}

}  // namespace megalodon::data
