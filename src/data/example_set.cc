#include "data/example_set.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "data/split.h"
#include "data/tokenizer.h"

namespace megalodon::data {
namespace {

constexpr int64_t kMaxNumberedClass = 9999;  // a larger number means something else

/// What a label that is a whole number says; -1 for any other.
int64_t class_number(std::string_view label) {
  if (label.ends_with(".0")) label.remove_suffix(2);
  const bool digits = !label.empty() && label.size() <= 4 && label.find_first_not_of("0123456789") == label.npos;
  const int64_t number = digits ? std::stoll(std::string(label)) : -1;
  return number <= kMaxNumberedClass ? number : -1;
}

}  // namespace

std::vector<PartInput> part_inputs(const ExampleSetOptions& options) {
  std::vector<PartInput> inputs;
  std::set<fs::path> apart;
  size_t part = 0;
  for (const auto* paths : {&options.train, &options.valid, &options.test}) {
    for (const fs::path& path : *paths) {
      check(fs::exists(path), "[data examples] input '{}' does not exist", path.string());
      check(apart.insert(fs::canonical(path)).second, "[data examples] input '{}' is named twice", path.string());
      inputs.push_back({part, path});
    }
    ++part;
  }
  check(!inputs.empty() && inputs.front().part == 0, "[data examples] expected an input at least, got none");
  return inputs;
}

void for_each_file(const std::vector<PartInput>& inputs, const ExampleSetWriter& writer,
                   const ExampleProgress& progress, const FileWork& work) {
  uint64_t total = 0, before = 0;
  for (const PartInput& input : inputs) {
    check(fs::is_regular_file(input.path), "[data examples] '{}' is not a file", input.path.string());
    total += fs::file_size(input.path);
  }
  for (const PartInput& input : inputs) {
    work(input, [&](uint64_t done) {
      if (progress) progress(before + done, total, writer.seen());
    });
    before += fs::file_size(input.path);
  }
  if (progress) progress(total, total, writer.seen());
}

ExampleSetWriter::ExampleSetWriter(const ExampleSetOptions& options, const Tokenizer& tokenizer)
    : ExampleSetWriter(options, false,
                       [&](const fs::path& prefix) { return std::make_unique<ExampleWriter>(prefix, tokenizer); }) {}

ExampleSetWriter::ExampleSetWriter(const ExampleSetOptions& options, io::Dtype type, int64_t width, bool listed)
    : ExampleSetWriter(options, listed,
                       [&](const fs::path& prefix) { return std::make_unique<ExampleWriter>(prefix, type, width); }) {}

ExampleSetWriter::ExampleSetWriter(const ExampleSetOptions& options, bool listed,
                                   const std::function<std::unique_ptr<ExampleWriter>(const fs::path&)>& make)
    : options_(options),
      split_(listed || !options.valid.empty() || !options.test.empty() || options.valid_fraction > 0 ||
             options.test_fraction > 0),
      folder_(split_ ? options.output : options.output.parent_path()),
      fractions_{1, options.valid_fraction, options.test_fraction} {
  check_fractions(options.valid_fraction, options.test_fraction);
  for (size_t i = 0; i < options_.classes.size(); ++i)
    if (!numbers_.emplace(options_.classes[i], i).second)
      fail_usage("[data examples] the class \"{}\" is named twice", options_.classes[i]);
  result_.abandoned = remove_abandoned(folder_.path(), [&](std::string_view name) { return is_ours(name); });
  const bool wanted[] = {true, listed || !options.valid.empty() || options.valid_fraction > 0,
                         listed || !options.test.empty() || options.test_fraction > 0};
  for (size_t part = 0; part < writers_.size(); ++part)
    if (wanted[part]) writers_[part] = make(split_ ? options.output / kParts[part] : options.output);
}

/// Whether a file of that name in the folder is one that a writer to this output makes.
bool ExampleSetWriter::is_ours(std::string_view name) const {
  const auto is_file_of = [&](const std::string& prefix) { return name.starts_with(prefix + ".safetensors"); };
  if (!split_) return is_file_of(example_prefix(options_.output).filename().string());
  return std::any_of(std::begin(kParts), std::end(kParts), is_file_of);
}

/// In the order in which labels came; none for one that is not among the classes asked for.
std::optional<int64_t> ExampleSetWriter::number_of(std::string_view label) {
  const auto known = numbers_.find(label);
  if (known != numbers_.end()) return known->second;
  if (!options_.classes.empty()) return std::nullopt;
  const auto next = static_cast<int64_t>(numbers_.size());
  numbers_.emplace(label, next);
  return next;
}

void ExampleSetWriter::add(size_t part, std::string_view label, std::span<const std::string> sequences) {
  ++seen_;
  if (std::any_of(sequences.begin(), sequences.end(), [](const std::string& stored) { return stored.empty(); })) {
    ++result_.empty;
    return;
  }
  const auto number = number_of(label);
  if (!number) {
    ++result_.others;
    return;
  }
  if (part == 0) part = draw_part(options_.seed, static_cast<uint64_t>(taken_++), fractions_);
  for (const std::string& stored : sequences) writers_[part]->add_stored(stored);
  writers_[part]->end_example(*number);
}

/// The classes that there are; the labels become theirs.
Classes ExampleSetWriter::settle_classes() {
  if (!options_.classes.empty()) return {static_cast<int64_t>(options_.classes.size()), options_.classes};
  const bool numbered =
      std::all_of(numbers_.begin(), numbers_.end(), [](const auto& known) { return class_number(known.first) >= 0; });
  Classes classes;
  std::vector<int64_t> places(numbers_.size());
  for (const auto& [label, number] : numbers_) {  // in the order of the alphabet
    if (!numbered) classes.names.push_back(label);
    int64_t& place = places[static_cast<size_t>(number)];
    place = numbered ? class_number(label) : classes.count;
    classes.count = std::max(classes.count, place + 1);
  }
  for (const auto& writer : writers_)
    if (writer != nullptr) writer->relabel(places);
  return classes;
}

ExampleSetResult ExampleSetWriter::finish() {
  std::vector<ExampleWriter*> writers;
  for (size_t part = 0; part < writers_.size(); ++part) {
    if (writers_[part] == nullptr) continue;
    writers.push_back(writers_[part].get());
    result_.parts.push_back({split_ ? kParts[part] : "", writers.back()->size(), writers.back()->steps()});
    check(writers.back()->size() > 0, "[data examples] {} has none of {} examples; {} are empty, {} of other classes",
          split_ ? kParts[part] : "the set", seen_, result_.empty, result_.others);
  }
  result_.classes = settle_classes();
  ExampleWriter::finish_together(writers, result_.classes, split_ ? options_.output : fs::path());
  return result_;
}

}  // namespace megalodon::data
