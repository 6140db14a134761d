#include "data/token_sidecar.h"

#include "base/check.h"
#include "base/json.h"

namespace megalodon::data {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "megalodon.cpp tokens";
constexpr int kVersion = 1;
constexpr uintmax_t kMaxSidecarBytes = 1 << 20;

}  // namespace

fs::path sidecar_path(const fs::path& prefix) {
  return fs::path(prefix) += ".json";
}

std::optional<TokenSidecar> read_sidecar(const fs::path& prefix) {
  const fs::path path = sidecar_path(prefix);
  if (!fs::exists(path)) return std::nullopt;
  const std::string source = path.string();
  check(fs::is_regular_file(path) && fs::file_size(path) <= kMaxSidecarBytes,
        "[{}] expected the description of the tokens beside it, not a file this large; move it away", source);
  const Json tree = parse_json<Json>(read_file(path), source);
  check(tree.is_object() && tree.value("format", Json()) == kFormat,
        "[{}] expected the description of the tokens beside it (\"format\": \"{}\"); move what is there away", source,
        kFormat);
  check(tree.value("format_version", Json()) == kVersion, "[{}] expected format_version {}, got {}", source, kVersion,
        tree.value("format_version", Json()).dump());
  const Json tokenizer = tree.value("tokenizer", Json());
  check(tokenizer.is_object(), "[{}] expected an object \"tokenizer\"", source);
  return TokenSidecar{tokenizer, count_at(tree, "documents", source), count_at(tree, "tokens", source)};
}

std::string sidecar_text(const TokenSidecar& sidecar) {
  const Json tree = {{"format", kFormat},
                     {"format_version", kVersion},
                     {"tokenizer", sidecar.tokenizer},
                     {"documents", sidecar.documents},
                     {"tokens", sidecar.tokens}};
  return tree.dump(2) + "\n";
}

}  // namespace megalodon::data
