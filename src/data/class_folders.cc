#include "data/class_folders.h"

#include <algorithm>

#include "base/check.h"
#include "base/utf8.h"
#include "data/byte_stream.h"

namespace megalodon::data {
namespace {

constexpr size_t kMostFileBytes = size_t{64} << 20;

std::string read_from(const fs::path& path) {
  check(fs::file_size(path) <= kMostFileBytes, "[data examples] '{}' has more than {} bytes", path.string(),
        kMostFileBytes);
  return read_file(path);
}

/// The file that `tar` is at, of that archive.
std::string read_from(TarReader& tar, const fs::path& archive) {
  std::string bytes(size_t{64} << 10, '\0');
  size_t used = 0, got = 0;
  while ((got = tar.read(bytes.data() + used, bytes.size() - used)) > 0) {
    used += got;
    check(used <= kMostFileBytes, "[data examples] '{}:{}' has more than {} bytes", archive.string(),
          printable(tar.name()), kMostFileBytes);
    if (used == bytes.size()) bytes.resize(2 * used);
  }
  bytes.resize(used);
  return bytes;
}

}  // namespace

std::string ClassFile::where() const {
  return printable(path.string());
}

ClassFolders::ClassFolders(const ExampleSetOptions& set, std::string_view extension, const ExampleProgress& progress)
    : set_(set), extension_(extension), progress_(progress), inputs_(part_inputs(set)) {}

void ClassFolders::scan(const Use& use) {
  total_ = 0;
  visit([&](const ClassFile& file) {
    use(file);
    total_ += file.example.empty() ? 0 : 1;
    if (progress_) progress_(0, total_, 0);
  });
  check(total_ > 0, "[data examples] '{}' holds no CLASS/NAME{}{}", inputs_.front().path.string(), extension_,
        set_.classes.empty() ? "" : " of the classes asked for");
}

void ClassFolders::for_each(const Use& use) const {
  uint64_t done = 0;
  visit([&](const ClassFile& file) {
    if (file.example.empty()) return;
    use(file);
    ++done;
    if (progress_) progress_(done, total_, static_cast<int64_t>(done));
  });
}

void ClassFolders::visit(const Use& use) const {
  for (const PartInput& input : inputs_) {
    if (fs::is_directory(input.path)) {
      visit_folder(input, use);
    } else {
      visit_archive(input, use);
    }
  }
}

void ClassFolders::visit_folder(const PartInput& input, const Use& use) const {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::recursive_directory_iterator(input.path))
    if (entry.is_regular_file()) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths)
    use({input.part, path, example_of(path.lexically_relative(input.path)), [&] { return read_from(path); }});
}

void ClassFolders::visit_archive(const PartInput& input, const Use& use) const {
  const FileFormat format = format_of(input.path.filename().string());
  check(format.layout == Layout::kTar, "[data examples] '{}' is neither a folder nor a .tar archive",
        input.path.string());
  TarReader tar(open_stream(input.path, format.compression));
  while (tar.next()) {
    const fs::path path = fs::path(tar.name()).lexically_normal();  // "./a.txt" has no folder
    use({input.part, path, example_of(path), [&] { return read_from(tar, input.path); }});
  }
}

/// The last two parts of the path, within the input, of an example of a class that is asked for; else "".
std::string ClassFolders::example_of(const fs::path& path) const {
  const std::string name = path.parent_path().filename().string();
  const bool wanted = set_.classes.empty()
                          ? !name.starts_with('_')
                          : std::find(set_.classes.begin(), set_.classes.end(), name) != set_.classes.end();
  return wanted && !name.empty() && path.extension() == extension_ ? name + "/" + path.filename().string()
                                                                   : std::string();
}

}  // namespace megalodon::data
