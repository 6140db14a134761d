// Examples that are files in folders named as their classes, .../CLASS/NAME.wav, or in tar archives of such.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/example_set.h"

namespace megalodon::data {

/// A file of an input, as it is visited.
struct ClassFile {
  size_t part;                        // that of the input
  fs::path path;                      // in the folder or archive
  std::string example;                // "CLASS/NAME.wav"; empty for a file that is no example of a class asked for
  std::function<std::string()> read;  // its bytes, while it is visited; throws Error for more than 64 MiB

  std::string_view class_name() const { return std::string_view(example).substr(0, example.find('/')); }
  /// The path, for messages.
  std::string where() const;
};

/// Files come in an order that does not depend on the disk. The folder of the input that a file lies in is its
/// class, and a file in none is no example; unless classes are asked for, all folders count but those whose names begin
/// with "_".
class ClassFolders {
 public:
  using Use = std::function<void(const ClassFile& file)>;

  /// Of files whose names end in `extension`: ".wav". `set` and `progress` are kept by reference. Throws Error as
  /// part_inputs() does.
  ClassFolders(const ExampleSetOptions& set, std::string_view extension, const ExampleProgress& progress);

  /// Counts the examples, and calls use(file) for every file, example or not. Throws Error where there is no example,
  /// and for an input that is neither a folder nor a tar archive.
  void scan(const Use& use);
  /// Calls use(file) for every example. After scan(), which says how many there are.
  void for_each(const Use& use) const;

 private:
  void visit(const Use& use) const;
  void visit_folder(const PartInput& input, const Use& use) const;
  void visit_archive(const PartInput& input, const Use& use) const;
  std::string example_of(const fs::path& path) const;

  const ExampleSetOptions& set_;
  std::string extension_;
  const ExampleProgress& progress_;
  std::vector<PartInput> inputs_;
  uint64_t total_ = 0;  // examples
};

}  // namespace megalodon::data
