// The data sets that `data get` knows: where their files are, how to tell that these arrived whole, and what becomes of
// them. The built-in catalogue and a user's own (--catalog FILE) are JSON of one form, described in docs/data.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/example_sources.h"

namespace megalodon::data {

/// Folders below a set's own: of what was downloaded, and of what its archives hold.
inline constexpr const char *kDownloads = "download", *kUnpacked = "raw";

struct RemoteFile {
  std::string path;               // below the folder of downloads: "enwik8.zip", "test/10146.txt"
  std::vector<std::string> urls;  // http or https, tried in order
  int64_t size = -1;              // bytes; -1: not known
  int64_t max_bytes = 0;          // a download that grows beyond is given up; `size` where that is known
  std::string sha256, md5;        // lower-case hexadecimal; empty: not known
};

/// A pair of token files made from a text file, or from the .txt files of a folder.
struct TextPart {
  enum class Documents { kFiles, kWikitext };  // one a file, or one an article of WikiText

  std::string name;                    // "train", "valid", "test"
  std::string source;                  // below the set's folder: "raw/enwik8/enwik8", "download/train"
  int64_t begin = 0, end = INT64_MAX;  // the bytes of the file that belong to the part
  Documents documents = Documents::kFiles;
};

/// A set of labelled sequences made from files of the archives.
struct ExampleRecipe {
  std::string name;  // of its folder below the set's, beside kDownloads and kUnpacked
  /// Inputs are below kUnpacked, or in a folder there, three deep at the most: archives differ in the folders around
  /// them.
  ExampleSetOptions set;
  ExampleSource source;
};

struct DataSet {
  std::string name, description, licence, home;
  std::string package;  // the Debian package that holds it; then there are no files
  std::vector<RemoteFile> files;
  bool unpack = false;               // the files are archives
  int64_t unpacked_bytes = 0;        // limit for what one archive unpacks to; 0: a multiple of the archive's size
  int64_t unpacked_files = 1000000;  // limit for the entries of one archive
  std::vector<TextPart> parts;       // the token files that are made; none of a set that is kept as files
  std::vector<ExampleRecipe> examples;
};

/// In the order of the text. `source` is named in messages. Throws Error for whatever is not as docs/data.md says.
std::vector<DataSet> parse_catalog(std::string_view text, std::string_view source);

const std::vector<DataSet>& builtin_catalog();

/// Throws UsageError naming the known sets.
const DataSet& find_data_set(const std::vector<DataSet>& catalog, std::string_view name);

/// The table of `data get --list`.
std::string list_catalog(const std::vector<DataSet>& catalog);

}  // namespace megalodon::data
