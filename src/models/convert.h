// From one kind of model folder to another: read, written beside the target, read again, compared, published.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/model_contents.h"

namespace megalodon {

/// A kind of folder.
struct ModelFormat {
  const char *name, *description;
  const char* architecture;  // whose models it holds; null: any
  bool (*is)(const fs::path& path);
  ModelContents (*read)(const fs::path& path);
  void (*write)(const ModelContents& contents, const fs::path& folder, uint64_t max_shard_bytes);  // null: never
  const char* other_function = nullptr;  // how what it computes differs from what is read
};

/// Ours first.
const std::vector<ModelFormat>& model_formats();
/// Throws Error for what is none of them.
const ModelFormat& format_of(const fs::path& path);

struct ConvertOptions {
  std::string format;  // name of the target's; "": ours of another's, of ours the first that holds its architecture
  std::optional<TokenizerParts> tokenizer;  // none: what the source says
  uint64_t max_shard_bytes = io::kMaxShardBytes;
  bool accept_other_norm = false;  // of formats with other_function
  bool check = true;
};

/// Of the logits of two models for the same tokens.
struct LogitDifference {
  int64_t positions = 0, same_top = 0;  // where both hold the same token for the likeliest
  double largest = 0, magnitude = 0;    // of the differences; of the expected logits
  double relative() const { return largest == 0 ? 0 : largest / magnitude; }
};

struct Conversion {
  const ModelFormat *from = nullptr, *to = nullptr;
  int64_t tensors = 0, parameters = 0;     // ours
  std::string dtypes;                      // "BF16 16, F32 5"
  std::optional<LogitDifference> checked;  // of the target, read again, and the source as it was read; if asked for
  std::optional<LogitDifference> stored;   // and of the logits beside the source (logits.safetensors), if there are any
};

/// Writes `target`, atomically, and only if the check finds no fault: logits of both folders for random tokens, and for
/// those of the source's logits.safetensors (in.tokens [B,L], out.logits [B,L,V]) where it has one, must be finite and
/// agree to 1e-5 of the largest, with stored ones to 1e-4, or 2e-2 where those have 16 bits. Throws Error for what the
/// target's format cannot say, UsageError for a format that does not exist.
Conversion convert(const fs::path& source, const fs::path& target, const ConvertOptions& options = {});

}  // namespace megalodon
