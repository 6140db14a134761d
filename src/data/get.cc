#include "data/get.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

#include "base/check.h"
#include "data/token_files.h"
#include "data/tokenizer.h"
#include "data/unpack.h"

namespace megalodon::data {
namespace {

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "[data get] cannot create folder '{}': {}", folder.string(), error.message());
}

/// "narrative_qa.zip" -> "narrative_qa", "x_v0.02.tar.gz" -> "x_v0.02"
std::string without_extensions(const fs::path& path) {
  std::string name = path.filename().string();
  for (const std::string_view ending : {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".tar"})
    if (name.ends_with(ending) && name.size() > ending.size()) name.resize(name.size() - ending.size());
  return name;
}

/// `--from` as a file where the set has one, else the file of that name in the folder that it names.
fs::path given_file(const DataSet& set, const fs::path& from, const RemoteFile& file) {
  if (!fs::is_directory(from)) {
    check(set.files.size() == 1,
          "[data get] {} consists of {} files: --from expects the folder that they are in, got '{}'", set.name,
          set.files.size(), from.string());
    return from;
  }
  for (fs::path path : {from / file.path, from / fs::path(file.path).filename()})
    if (fs::is_regular_file(path)) return path;
  fail("[data get] '{}' is not in the folder '{}' given with --from", file.path, from.string());
}

class Getter {
 public:
  Getter(const DataSet& set, const GetOptions& options, const GetEvents& events)
      : set_(set), options_(options), events_(events), downloader_(options.network) {}

  void clear_abandoned() const;
  void fetch_all();
  void unpack_all() const;
  std::vector<WrittenPart> prepare(const Tokenizer& tokenizer) const;
  ExampleSetResult make(const ExampleRecipe& recipe) const;

 private:
  void note(const std::string& line) const {
    if (events_.note) events_.note(line);
  }
  fs::path local(const RemoteFile& file) const { return options_.output / kDownloads / file.path; }
  void fetch(const RemoteFile& file, const ByteProgress& progress);
  template <class Work>
  void for_all_files(std::string_view label, const Work& work) const;
  std::vector<fs::path> sources(const TextPart& part) const;
  void write_part(const TextPart& part, const Tokenizer& tokenizer, TokenFileWriter& writer) const;

  const DataSet& set_;
  const GetOptions& options_;
  const GetEvents& events_;
  Downloader downloader_;
};

/// `work(file, progress)` for every file of the set, with the progress of all together.
template <class Work>
void Getter::for_all_files(std::string_view label, const Work& work) const {
  uint64_t all = 0, before = 0;
  for (const RemoteFile& file : set_.files) all += static_cast<uint64_t>(std::max<int64_t>(file.size, 0));
  for (const RemoteFile& file : set_.files) {
    work(file, [&](uint64_t done, uint64_t total) {
      if (events_.progress) events_.progress(label, before + done, std::max(all, before + total));
    });
    before += static_cast<uint64_t>(std::max<int64_t>(file.size, 0));
  }
}

void Getter::fetch(const RemoteFile& file, const ByteProgress& progress) {
  const fs::path target = local(file);
  make_folder(target.parent_path());
  const std::string wrong = fs::is_regular_file(target) ? find_mismatch(file, target, target) : "is not there";
  if (wrong.empty()) return;
  if (fs::exists(target)) note(fmt::format("'{}' {}: it is replaced", target.string(), wrong));
  if (!options_.from.empty()) {
    copy_verified(file, given_file(set_, options_.from, file), target, progress);
  } else {
    downloader_.fetch(file, target, progress);
  }
  if (const std::string hash = record_hash(file, target); !hash.empty())
    note(
        fmt::format("nobody publishes a hash of {}: this one's SHA-256 is {}, recorded in '{}.sha256' and expected "
                    "from now on",
                    file.path, hash, target.string()));
}

/// What a run that was killed had half unpacked or prepared; downloads go on from where they are.
void Getter::clear_abandoned() const {
  std::set<std::string, std::less<>> mine;
  for (const RemoteFile& file : set_.files) mine.insert(without_extensions(file.path));
  for (const TextPart& part : set_.parts)
    for (const char* suffix : {".bin", ".idx", ".json"}) mine.insert(part.name + suffix);
  for (const fs::path& folder : {options_.output, options_.output / kUnpacked}) {
    const Removed removed = remove_abandoned(folder, [&](std::string_view name) { return mine.contains(name); });
    if (removed.files > 0)
      note(fmt::format("removed {} temporary files ({} bytes) in '{}' of a run that was killed", removed.files,
                       removed.bytes, folder.string()));
  }
}

void Getter::fetch_all() {
  for_all_files(options_.from.empty() ? "download" : "copy",
                [&](const RemoteFile& file, const ByteProgress& progress) { fetch(file, progress); });
}

void Getter::unpack_all() const {
  make_folder(options_.output / kUnpacked);
  const UnpackLimits limits{static_cast<uint64_t>(set_.unpacked_bytes), static_cast<uint64_t>(set_.unpacked_files)};
  for_all_files("unpack", [&](const RemoteFile& file, const ByteProgress& progress) {
    unpack(local(file), options_.output / kUnpacked / without_extensions(file.path), limits, progress);
  });
}

/// The text files of a part, in order of name.
std::vector<fs::path> Getter::sources(const TextPart& part) const {
  const fs::path source = options_.output / part.source;
  if (fs::is_regular_file(source)) return {source};
  std::vector<fs::path> files;
  if (fs::is_directory(source)) {
    for (const auto& entry : fs::directory_iterator(source))
      if (entry.is_regular_file() && entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  check(!files.empty(), "[data get] part \"{}\" of {} expects '{}' to be a file, or a folder of .txt files", part.name,
        set_.name, source.string());
  std::sort(files.begin(), files.end());
  return files;
}

/// The bytes of `file` that belong to the part.
std::string_view slice(const TextPart& part, const MappedFile& file) {
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  const auto size = static_cast<int64_t>(text.size());
  check(part.begin < size && (part.end <= size || part.end == INT64_MAX),
        "[data get] part \"{}\" is bytes {} to {} of '{}', which has {}", part.name, part.begin, part.end,
        file.path().string(), size);
  return text.substr(static_cast<size_t>(part.begin), static_cast<size_t>(part.end - part.begin));
}

void Getter::write_part(const TextPart& part, const Tokenizer& tokenizer, TokenFileWriter& writer) const {
  const std::vector<fs::path> paths = sources(part);
  std::vector<MappedFile> files(paths.begin(), paths.end());
  uint64_t total = 0, done = 0;
  for (const MappedFile& file : files) total += slice(part, file).size();
  const auto add = [&](std::string_view document) {
    if (events_.progress) events_.progress("prepare " + part.name, done, total);
    if (!document.empty()) writer.add_document(tokenizer.encode(document));
    done += document.size();
  };
  for (const MappedFile& file : files) {
    if (part.documents == TextPart::Documents::kWikitext) {
      split_wikitext(slice(part, file), add);
    } else {
      add(slice(part, file));
    }
  }
  add({});
}

std::vector<WrittenPart> Getter::prepare(const Tokenizer& tokenizer) const {
  std::vector<WrittenPart> parts;
  std::vector<std::unique_ptr<TokenFileWriter>> writers;
  std::vector<TokenFileWriter*> all;
  for (const TextPart& part : set_.parts) {
    writers.push_back(std::make_unique<TokenFileWriter>(options_.output / part.name, tokenizer));
    all.push_back(writers.back().get());
    write_part(part, tokenizer, *all.back());
    parts.push_back({part.name, all.back()->documents(), all.back()->tokens()});
  }
  TokenFileWriter::finish_together(all, options_.output);
  return parts;
}

/// The input of a recipe: below `folder`, or in a folder there, `depth` deep at the most.
std::optional<fs::path> find_input(const fs::path& folder, const fs::path& input, int depth) {
  if (fs::exists(folder / input)) return folder / input;
  if (depth == 0) return std::nullopt;
  std::vector<fs::path> inside;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory()) inside.push_back(entry.path());
  std::sort(inside.begin(), inside.end());
  for (const fs::path& path : inside)
    if (const auto found = find_input(path, input, depth - 1)) return found;
  return std::nullopt;
}

ExampleSetResult Getter::make(const ExampleRecipe& recipe) const {
  constexpr int kDepth = 3;
  ExampleSetOptions set = recipe.set;
  for (auto* inputs : {&set.train, &set.valid, &set.test}) {
    for (fs::path& input : *inputs) {
      const auto found = find_input(options_.output / kUnpacked, input, kDepth);
      check(found.has_value(), "[data get] the examples \"{}\" of {} expect '{}' in '{}' or in a folder there",
            recipe.name, set_.name, input.string(), (options_.output / kUnpacked).string());
      input = *found;
    }
  }
  set.output = options_.output / recipe.name;
  const ExampleProgress progress = [&](uint64_t done, uint64_t total, int64_t examples) {
    if (events_.made) events_.made("make " + recipe.name, done, total, examples);
  };
  return std::visit([&](const auto& source) { return make_examples(set, source, progress); }, recipe.source);
}

}  // namespace

void split_wikitext(std::string_view text, const std::function<void(std::string_view)>& add) {
  constexpr std::string_view kEmpty = " \n";
  const auto is_title = [](std::string_view line) {
    return line.size() > 6 && line.starts_with(" = ") && line.ends_with(" = \n") && !line.starts_with(" = = ");
  };
  size_t article = 0, previous = 0;
  bool after_empty = true, begun = false;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    const std::string_view line = text.substr(at, end - at);
    if (after_empty && is_title(line) && text.substr(end, kEmpty.size()) == kEmpty) {
      if (begun) add(text.substr(article, previous - article));
      if (begun) article = previous;
      begun = true;
    }
    after_empty = line == kEmpty;
    previous = at;
    at = end;
  }
  if (!text.empty()) add(text.substr(article));
}

GetResult get(const DataSet& set, const GetOptions& options, const Tokenizer& tokenizer, const GetEvents& events) {
  check(set.package.empty(), "[data get] {} comes from the Debian package {}", set.name, set.package);
  Getter getter(set, options, events);
  getter.clear_abandoned();
  getter.fetch_all();
  if (set.unpack) getter.unpack_all();
  GetResult result;
  if (!set.parts.empty()) result.parts = getter.prepare(tokenizer);
  for (const ExampleRecipe& recipe : set.examples) result.examples.emplace_back(recipe.name, getter.make(recipe));
  return result;
}

}  // namespace megalodon::data
