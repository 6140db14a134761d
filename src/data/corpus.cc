#include "data/corpus.h"

#include <algorithm>

#include "base/check.h"
#include "data/split_writer.h"

namespace megalodon::data {
namespace {

/// Folders stand for the .txt files below them; the order is that of the names, whatever the file system says.
std::vector<fs::path> input_files(const std::vector<fs::path>& inputs) {
  check(!inputs.empty(), "[data] expected at least one input, got none");
  std::vector<fs::path> files;
  for (const fs::path& input : inputs) {
    check(fs::exists(input), "[data] input '{}' does not exist", input.string());
    if (!fs::is_directory(input)) {
      check(!fs::is_regular_file(input) || fs::file_size(input) > 0, "[data] input '{}' is empty", input.string());
      files.push_back(input);
      continue;
    }
    const auto first = static_cast<std::ptrdiff_t>(files.size());
    for (const auto& entry : fs::recursive_directory_iterator(input)) {
      if (entry.is_regular_file() && entry.path().extension() == ".txt") files.push_back(entry.path());
    }
    check(static_cast<std::ptrdiff_t>(files.size()) > first, "[data] folder '{}' holds no .txt file", input.string());
    std::sort(files.begin() + first, files.end());
  }
  return files;
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options, const Tokenizer& tokenizer,
                      const std::function<void(uint64_t, uint64_t)>& progress) {
  constexpr uint64_t kProgressBytes = uint64_t{1} << 20;
  const std::vector<fs::path> files = input_files(options.inputs);
  uint64_t total = 0, done = 0, reported = 0;
  for (const fs::path& file : files) total += MappedFile(file).bytes().size();

  SplitWriter writer({options.output, options.valid, options.test, options.seed}, tokenizer);
  for (const fs::path& path : files) {
    const MappedFile file(path);
    std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    while (!rest.empty()) {
      const size_t found = options.separator.empty() ? std::string_view::npos : rest.find(options.separator);
      const std::string_view document = rest.substr(0, found);
      writer.add(document);
      const size_t used = found == std::string_view::npos ? rest.size() : found + options.separator.size();
      rest.remove_prefix(used);
      done += used;
      if (progress && (done - reported >= kProgressBytes || done == total)) {
        progress(done, total);
        reported = done;
      }
    }
  }
  return writer.finish();
}

}  // namespace megalodon::data
