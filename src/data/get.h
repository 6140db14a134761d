// `data get`: from a set of the catalogue to files or token files on disk.
//
//   <output>/download/  the files as they were published; kept, so that nothing is downloaded twice
//   <output>/raw/       what their archives hold, a folder an archive, named as it without its extensions
//   <output>/train.bin, .idx, .json, ...  the parts of a text set
//   <output>/NAME/train.safetensors, ...  sets of labelled sequences, each in a folder of its own
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "data/catalog.h"
#include "data/corpus.h"
#include "data/download.h"

namespace megalodon::data {

struct GetOptions {
  fs::path output;
  fs::path from;  // a file, or a folder of files, to take instead of downloading; empty: download
  Downloader::Options network;
};

/// What get() tells while it works. What they throw ends the work; the next call goes on from there.
struct GetEvents {
  std::function<void(std::string_view label, uint64_t done, uint64_t total)> progress;  // in bytes
  /// While sets of examples are made: `done` and `total` are in a unit of their source's own.
  std::function<void(std::string_view label, uint64_t done, uint64_t total, int64_t examples)> made;
  std::function<void(const std::string& line)> note;
};

/// What became of the files; nothing of a set that is kept as files.
struct GetResult {
  std::vector<WrittenPart> parts = {};                                  // of tokens
  std::vector<std::pair<std::string, ExampleSetResult>> examples = {};  // by their names
};

/// The parts of a text set are published together, and so are those of a set of examples.
GetResult get(const DataSet& set, const GetOptions& options, const Tokenizer& tokenizer, const GetEvents& events = {});

/// Calls `add` with the articles of a WikiText file, one after another. One begins at a line " = Title = " between two
/// lines that are empty but for a space; what stands before the first goes with it.
void split_wikitext(std::string_view text, const std::function<void(std::string_view)>& add);

}  // namespace megalodon::data
