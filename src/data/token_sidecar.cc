#include "data/token_sidecar.h"

#include "base/check.h"
#include "base/json.h"

namespace megalodon::data {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "megalodon.cpp tokens";
constexpr int kVersion = 1;
constexpr uintmax_t kMaxSidecarBytes = 1 << 20;

bool flag(const Json& tree, const char* key, const std::string& source) {
  const Json value = tree.value(key, Json());
  check(value.is_boolean(), "[{}] {} must be true or false, got {}; the file is damaged", source, key, value.dump());
  return value.get<bool>();
}

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
  TokenSidecar sidecar{tokenizer, count_at(tree, "documents", source), count_at(tree, "tokens", source), {}, {}};
  if (tree.contains("prepend_bos") || tree.contains("append_eos"))
    sidecar.marks = {flag(tree, "prepend_bos", source), flag(tree, "append_eos", source)};
  if (tree.contains("largest_token")) sidecar.largest_token = count_at(tree, "largest_token", source);
  return sidecar;
}

std::string sidecar_text(const TokenSidecar& sidecar) {
  Json tree = {{"format", kFormat},
               {"format_version", kVersion},
               {"tokenizer", sidecar.tokenizer},
               {"documents", sidecar.documents},
               {"tokens", sidecar.tokens}};
  if (sidecar.marks) tree["prepend_bos"] = sidecar.marks->bos, tree["append_eos"] = sidecar.marks->eos;
  if (sidecar.largest_token.value_or(-1) >= 0) tree["largest_token"] = *sidecar.largest_token;
  return tree.dump(2) + "\n";
}

}  // namespace megalodon::data
