// What sets of labelled sequences are made of: `data examples`. Each function reads all inputs, publishes the set whole
// or, where it throws Error, not at all, and is a function of inputs and options alone, bit for bit.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "data/example_set.h"

namespace megalodon::data {

/// Texts in tables (table_reader.h), one example a row.
struct TextExamples {
  std::string label = {};              // a column: its name in the first line, or its number from 1
  std::vector<std::string> text = {};  // one column, or the two of a pair
  bool header = false;                 // the first line names the columns, whatever `label` and `text` are
  bool quotes = false;                 // fields may stand in quotes, as those of a .csv may anyway
  std::string drop = {};               // characters, of ASCII, that are left out of the texts
  /// As make_tokenizer() takes it; "words": those of train's texts and <unk>, listed in
  /// ExampleSetWriter::words_path().
  std::string tokenizer = "bytes";
};

/// Records of one size: a byte for the label, then the pixels, row after row. The set's classes name the labels 0, 1,
/// …; one beyond is an Error.
struct RecordExamples {
  enum class Colours {
    kGray,       // a byte a pixel
    kRgb,        // all red bytes, all green ones, all blue ones, as CIFAR-10 has them; a step is their three
    kRgbToGray,  // the same, of which a step is the gray
  };
  int64_t pixels = 1024;
  Colours colours = Colours::kGray;
};

/// Texts in folders or tar archives (class_folders.h): .../CLASS/NAME.txt.
struct FolderExamples {
  std::string tokenizer = "bytes";  // as TextExamples has it
};

/// Sounds in folders or tar archives (class_folders.h): .../CLASS/NAME.wav, 16-bit PCM of one channel. Where
/// validation_list.txt and testing_list.txt are there (lines CLASS/NAME.wav) and nothing else says what is valid and
/// test, they do; one without the other is an Error.
struct AudioExamples {
  int64_t steps = 0;  // longer sounds are cut, shorter ones followed by silence; 0: as they are
};

/// Pathfinder as the Long Range Arena has it: a folder of metadata/N.npy, which are lines of text
/// "imgs/N sample_M.png M LABEL ...", and of those images, gray PNG of one size.
struct PathfinderExamples {};

ExampleSetResult make_examples(const ExampleSetOptions& set, const TextExamples& source,
                               const ExampleProgress& progress = {});
ExampleSetResult make_examples(const ExampleSetOptions& set, const FolderExamples& source,
                               const ExampleProgress& progress = {});
ExampleSetResult make_examples(const ExampleSetOptions& set, const RecordExamples& source,
                               const ExampleProgress& progress = {});
ExampleSetResult make_examples(const ExampleSetOptions& set, const AudioExamples& source,
                               const ExampleProgress& progress = {});
ExampleSetResult make_examples(const ExampleSetOptions& set, const PathfinderExamples& source,
                               const ExampleProgress& progress = {});

using ExampleSource = std::variant<TextExamples, FolderExamples, RecordExamples, AudioExamples, PathfinderExamples>;

/// The gray of 8-bit colours as tf.image.rgb_to_grayscale computes it.
uint8_t gray_of(uint8_t red, uint8_t green, uint8_t blue);

}  // namespace megalodon::data
