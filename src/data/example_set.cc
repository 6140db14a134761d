#include "data/example_set.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/utf8.h"
#include "data/split.h"
#include "data/tokenizer.h"
#include "data/word_tokenizer.h"

namespace megalodon::data {
namespace {

constexpr int64_t kMaxNumberedClass = 9999;  // a larger number means something else

/// The digits of a label that is a whole number ("3", "3.0", "03"); "" for any other.
std::string_view whole_number(std::string_view label) {
  if (label.ends_with(".0")) label.remove_suffix(2);
  if (label.empty() || label.find_first_not_of("0123456789") != label.npos) return {};
  return label.substr(std::min(label.find_first_not_of('0'), label.size() - 1));
}

/// Two labels are the same class asked for where these are equal.
std::string_view class_key(std::string_view label) {
  const std::string_view number = whole_number(label);
  return number.empty() ? label : number;
}

int64_t class_number(std::string_view label) {
  const std::string digits(whole_number(label));
  const int64_t number = digits.size() > 4 ? kMaxNumberedClass + 1 : std::stoll(digits);
  check(number <= kMaxNumberedClass,
        "[data examples] labels that are whole numbers are the classes' numbers: expected at most {}, got {}",
        kMaxNumberedClass, printable(label));
  return number;
}

bool lies_in(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

}  // namespace

std::vector<PartInput> part_inputs(const ExampleSetOptions& options) {
  std::vector<PartInput> inputs;
  std::map<fs::path, fs::path> named;  // of canonical paths
  size_t part = 0;
  for (const auto* paths : {&options.train, &options.valid, &options.test}) {
    for (const fs::path& path : *paths) {
      check(fs::exists(path), "[data examples] input '{}' does not exist", path.string());
      check(named.emplace(fs::canonical(path), path).second, "[data examples] input '{}' is named twice",
            path.string());
      inputs.push_back({part, path});
    }
    ++part;
  }
  check(!inputs.empty() && inputs.front().part == 0, "[data examples] expected an input at least, got none");
  // What lies in a folder follows it in the order of paths.
  for (auto inner = std::next(named.begin()), outer = named.begin(); inner != named.end(); outer = inner++)
    check(!lies_in(inner->first, outer->first), "[data examples] input '{}' lies in the input '{}'",
          inner->second.string(), outer->second.string());
  return inputs;
}

void for_each_file(const std::vector<PartInput>& inputs, const ExampleSetWriter* writer,
                   const ExampleProgress& progress, const FileWork& work) {
  uint64_t total = 0, before = 0;
  for (const PartInput& input : inputs) {
    check(fs::is_regular_file(input.path), "[data examples] '{}' is not a file", input.path.string());
    total += fs::file_size(input.path);
  }
  const auto tell = [&](uint64_t done) {
    if (progress) progress(done, total, writer == nullptr ? 0 : writer->seen());
  };
  for (const PartInput& input : inputs) {
    work(input, [&](uint64_t done) { tell(before + done); });
    before += fs::file_size(input.path);
  }
  tell(total);
}

ExamplePlaces::ExamplePlaces(const ExampleSetOptions& options)
    : asked_(!options.classes.empty()),
      seed_(options.seed),
      fractions_{1, options.valid_fraction, options.test_fraction} {
  check_fractions(options.valid_fraction, options.test_fraction);
  for (size_t i = 0; i < options.classes.size(); ++i)
    if (!classes_.emplace(class_key(options.classes[i]), i).second)
      fail_usage("[data examples] the class \"{}\" is named twice", options.classes[i]);
}

std::optional<int64_t> ExamplePlaces::class_of(std::string_view label) {
  const auto known = classes_.find(asked_ ? class_key(label) : label);
  if (known != classes_.end()) return known->second;
  if (asked_) return std::nullopt;
  const auto next = static_cast<int64_t>(classes_.size());
  classes_.emplace(label, next);
  return next;
}

size_t ExamplePlaces::part_of(size_t input) {
  return input == 0 ? draw_part(seed_, drawn_++, fractions_) : input;
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
      places_(options) {
  result_.abandoned = remove_abandoned(folder_.path(), [&](std::string_view name) { return is_ours(name); });
  const bool wanted[] = {true, listed || !options.valid.empty() || options.valid_fraction > 0,
                         listed || !options.test.empty() || options.test_fraction > 0};
  for (size_t part = 0; part < writers_.size(); ++part)
    if (wanted[part]) writers_[part] = make(split_ ? options.output / kParts[part] : options.output);
}

fs::path ExampleSetWriter::words_path() const {
  if (split_) return options_.output / WordTokenizer::kFile;
  return example_prefix(options_.output) += ".words";
}

/// Whether a file of that name in the folder is one that a writer to this output makes.
bool ExampleSetWriter::is_ours(std::string_view name) const {
  if (name == words_path().filename().string()) return true;
  const auto is_file_of = [&](const std::string& prefix) { return name.starts_with(prefix + ".safetensors"); };
  if (!split_) return is_file_of(example_prefix(options_.output).filename().string());
  return std::any_of(std::begin(kParts), std::end(kParts), is_file_of);
}

void ExampleSetWriter::add(size_t part, std::string_view label, std::span<const std::string> sequences) {
  ++seen_;
  if (std::any_of(sequences.begin(), sequences.end(), [](const std::string& stored) { return stored.empty(); })) {
    ++result_.empty;
    return;
  }
  const auto number = places_.class_of(label);
  if (!number) {
    ++result_.others;
    return;
  }
  used_.insert(*number);
  part = places_.part_of(part);
  for (const std::string& stored : sequences) writers_[part]->add_stored(stored);
  writers_[part]->end_example(*number);
}

/// The classes that there are; the labels become theirs, and so does used_.
Classes ExampleSetWriter::settle_classes() {
  if (!options_.classes.empty()) return {static_cast<int64_t>(options_.classes.size()), options_.classes};
  const auto& came = places_.classes();
  const bool numbered =
      std::all_of(came.begin(), came.end(), [](const auto& known) { return !whole_number(known.first).empty(); });
  Classes classes;
  std::vector<int64_t> places(came.size());
  used_.clear();
  for (const auto& [label, number] : came) {  // in the order of the alphabet
    if (!numbered) classes.names.push_back(label);
    int64_t& place = places[static_cast<size_t>(number)];
    place = numbered ? class_number(label) : classes.count;
    classes.count = std::max(classes.count, place + 1);
    used_.insert(place);
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
  const auto& names = result_.classes.names;
  for (int64_t i = 0; i < result_.classes.count; ++i)
    if (!used_.contains(i)) result_.unused.push_back(names.empty() ? std::to_string(i) : names[static_cast<size_t>(i)]);
  ExampleWriter::finish_together(writers, result_.classes, split_ ? options_.output : fs::path());
  return result_;
}

}  // namespace megalodon::data
