// Sets of labelled sequences (examples.h) on their way to disk: train, valid and test, or one file, and their classes.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/output_folder.h"
#include "data/examples.h"

namespace megalodon::data {

/// Which inputs examples are made of, and where they go.
struct ExampleSetOptions {
  fs::path output;                               // prefix of the one file, or with a split the folder of the parts
  std::vector<fs::path> train, valid, test;      // inputs of each part; of these `train` may be alone
  double valid_fraction = 0, test_fraction = 0;  // of train's examples, drawn by their number and the seed
  uint64_t seed = 0;
  /// In the order of their numbers; empty: those that there are.
  std::vector<std::string> classes;
};

struct ExampleSetResult {
  struct Part {
    std::string name;  // "train", "valid", "test"; "" without a split
    int64_t examples = 0, steps = 0;
  };
  std::vector<Part> parts;
  Classes classes;
  std::vector<std::string> unused = {};  // classes that no example of any part has: their names, or else numbers
  int64_t empty = 0;                     // examples left out: without a step
  int64_t others = 0;                    // the same, of other classes than those asked for
  Removed abandoned;                     // what a killed run to the same output had left
};

/// An input of the part of that number: 0 train, 1 valid, 2 test.
struct PartInput {
  size_t part;
  fs::path path;
};
/// Throws Error for one that does not exist, is named twice or lies in another: it would be counted twice, or lie on
/// both sides of a split.
std::vector<PartInput> part_inputs(const ExampleSetOptions& options);

/// Tells how far a source is, in units of its own, and the examples so far. What it throws ends the work.
using ExampleProgress = std::function<void(uint64_t done, uint64_t total, int64_t examples)>;

/// The class and the part of each example of a set. Its examples go through it in their order.
class ExamplePlaces {
 public:
  /// Throws UsageError for fractions that leave nothing to train on and for a class that is named twice.
  explicit ExamplePlaces(const ExampleSetOptions& options);

  /// The number of the class asked for ("3.0" is "3"), or where none was the label's place in the order in which labels
  /// came; none for a label of no class asked for.
  std::optional<int64_t> class_of(std::string_view label);
  /// The part of an example from an input of the part `input`; one of train may be drawn for another.
  size_t part_of(size_t input);
  /// Those so far, as class_of() numbers them.
  const std::map<std::string, int64_t, std::less<>>& classes() const { return classes_; }

 private:
  bool asked_;  // for some classes
  uint64_t seed_, drawn_ = 0;
  std::array<double, 3> fractions_;
  std::map<std::string, int64_t, std::less<>> classes_;
};

class ExampleSetWriter;

/// Calls work(input, report) for each input, all of them files; report(n) says that n bytes of it are done. `writer` is
/// what the examples go to; null for a pass before there is one.
using FileWork = std::function<void(const PartInput& input, const std::function<void(uint64_t)>& report)>;
void for_each_file(const std::vector<PartInput>& inputs, const ExampleSetWriter* writer,
                   const ExampleProgress& progress, const FileWork& work);

class ExampleSetWriter {
 public:
  /// Of tokens, or of vectors stored as `type`. `listed`: the source itself says which examples are valid and test.
  ExampleSetWriter(const ExampleSetOptions& options, const Tokenizer& tokenizer);
  ExampleSetWriter(const ExampleSetOptions& options, io::Dtype type, int64_t width, bool listed = false);

  /// Sequences as they are stored, of an example from an input of the part; one of train may be drawn for another.
  void add(size_t part, std::string_view label, std::span<const std::string> sequences);
  /// Where a list of the set's words belongs: tokenizer.words beside the parts or, without a split, PREFIX.words.
  fs::path words_path() const;
  /// Those given so far, also what was left out.
  int64_t seen() const { return seen_; }

  /// Publishes all parts. Unless classes were asked for, labels that are whole numbers ("3", "3.0") are themselves
  /// classes, without names; others are, in the order of the alphabet. Throws Error where a part has no example, and
  /// for numbers above 9999.
  ExampleSetResult finish();

 private:
  ExampleSetWriter(const ExampleSetOptions& options, bool listed,
                   const std::function<std::unique_ptr<ExampleWriter>(const fs::path&)>& make);
  bool is_ours(std::string_view name) const;
  Classes settle_classes();

  ExampleSetOptions options_;
  bool split_;
  OutputFolder folder_;
  ExamplePlaces places_;
  std::array<std::unique_ptr<ExampleWriter>, 3> writers_;  // null for a part that is not wanted
  std::set<int64_t> used_;                                 // classes that have an example
  int64_t seen_ = 0;
  ExampleSetResult result_;
};

}  // namespace megalodon::data
