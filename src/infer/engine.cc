#include "infer/engine.h"

#include <algorithm>

#include "base/check.h"

namespace megalodon {
namespace {

/// The states of a batch's rows, and their caches.
class BatchCarry final : public Carry {
 public:
  /// `before` is empty where the streams begin.
  BatchCarry(std::vector<State> before, std::vector<ops::KeyValueRows> caches)
      : before_(std::move(before)), caches_(std::move(caches)) {}
  State before(int64_t slot) override {
    return slot < static_cast<int64_t>(before_.size()) ? before_[static_cast<size_t>(slot)] : State();
  }
  bool wants_after() const override { return true; }
  void after(int64_t slot, State state) override {
    if (slot >= static_cast<int64_t>(after_.size())) after_.resize(static_cast<size_t>(slot) + 1);
    after_[static_cast<size_t>(slot)] = std::move(state);
  }
  const ops::KeyValueRows* caches(int64_t slot) override {
    return slot < static_cast<int64_t>(caches_.size()) ? &caches_[static_cast<size_t>(slot)] : nullptr;
  }
  std::vector<State> take_after() { return std::move(after_); }

 private:
  std::vector<State> before_, after_;
  std::vector<ops::KeyValueRows> caches_;
};

/// parts[b] of row rows[b], one below the other.
Tensor stack_rows(const std::vector<Tensor>& parts, const std::vector<int64_t>& rows) {
  std::vector<Tensor> list;
  for (size_t b = 0; b < parts.size(); ++b)
    if (parts[b].defined()) list.push_back(parts[b].narrow(0, rows[b], 1));
  return list.empty() ? Tensor() : torch::cat(list);
}

}  // namespace

Engine::Engine(Model& model, const EngineOptions& options)
    : model_(model), options_(options), shape_(model.info().cache) {
  check(options.block >= 1, "[engine] block must be at least 1, got {}", options.block);
  check(options.cache_type == torch::kFloat32 || options.cache_type == torch::kBFloat16,
        "[engine] caches are float32 or bfloat16, got {}", c10::toString(options.cache_type));
}

void Engine::read(Stream& stream, std::span<const int64_t> tokens) const {
  const auto length = static_cast<int64_t>(tokens.size());
  Stream* const only = &stream;
  for (int64_t at = 0; at < length; at += options_.block) {
    const int64_t count = std::min(options_.block, length - at);
    const Tensor tokens_BL = torch::empty({1, count}, torch::kInt64);
    std::copy_n(tokens.data() + at, count, tokens_BL.data_ptr<int64_t>());
    advance({&only, 1}, tokens_BL, at + count == length);
  }
}

void Engine::step(std::span<Stream* const> streams, std::span<const int64_t> tokens) const {
  check(streams.size() == tokens.size(), "[engine] expected a token for each of {} streams, got {}", streams.size(),
        tokens.size());
  std::vector<Stream*> together;
  std::vector<int64_t> theirs;
  for (size_t b = 0; b < streams.size(); ++b) {
    check(std::find(together.begin(), together.end(), streams[b]) == together.end(),
          "[engine] a stream cannot be stepped twice at once");
    if (streams[b]->tokens_ == 0) {  // it has no state yet to be put among the others'
      read(*streams[b], {&tokens[b], 1});
      continue;
    }
    together.push_back(streams[b]);
    theirs.push_back(tokens[b]);
  }
  if (!together.empty()) advance(together, torch::tensor(theirs).unsqueeze(1), /*wants_logits=*/true);
}

/// Caches that are the stream's alone, with what it has read of the open chunk.
void Engine::make_caches(Stream& stream) const {
  if (stream.caches_ && stream.caches_.use_count() == 1) return;
  auto own = std::make_shared<std::vector<ops::KeyValueCache>>();
  const auto options = torch::TensorOptions().dtype(options_.cache_type).device(model_.device());
  const int64_t open = shape_.steps > 0 ? stream.tokens_ % shape_.steps : 0;
  for (int64_t slot = 0; slot < shape_.slots; ++slot) {
    own->push_back({torch::empty({shape_.steps, shape_.heads, shape_.key_width}, options),
                    torch::empty({shape_.steps, shape_.heads, shape_.value_width}, options)});
    if (!stream.caches_ || open == 0) continue;
    const ops::KeyValueCache& shared = (*stream.caches_)[static_cast<size_t>(slot)];
    own->back().k_CHK.narrow(0, 0, open).copy_(shared.k_CHK.narrow(0, 0, open));
    own->back().v_CHV.narrow(0, 0, open).copy_(shared.v_CHV.narrow(0, 0, open));
  }
  stream.caches_ = std::move(own);
}

void Engine::advance(std::span<Stream* const> streams, const Tensor& tokens_BL, bool wants_logits) const {
  const torch::NoGradGuard no_grad;
  std::vector<ops::KeyValueRows> caches(static_cast<size_t>(shape_.slots));
  for (Stream* stream : streams) {
    make_caches(*stream);
    for (size_t slot = 0; slot < caches.size(); ++slot) {
      caches[slot].caches.push_back((*stream->caches_)[slot]);
      caches[slot].position.push_back(stream->tokens_ % shape_.steps);
    }
  }
  BatchCarry carry(states(streams), std::move(caches));
  const Tensor hidden_BLD = model_.hidden({tokens_BL, {}}, carry);
  const int64_t length = tokens_BL.size(1);
  const Tensor logits_BV =
      wants_logits ? model_.output()(hidden_BLD.select(1, length - 1), nn::Precision::kFloat32) : Tensor();
  const auto batch =
      std::make_shared<const Stream::Batch>(Stream::Batch{carry.take_after(), static_cast<int64_t>(streams.size())});
  for (size_t b = 0; b < streams.size(); ++b) {
    Stream& stream = *streams[b];
    stream.batch_ = batch, stream.row_ = static_cast<int64_t>(b);
    stream.tokens_ += length;
    stream.logits_ = wants_logits ? logits_BV[static_cast<int64_t>(b)] : Tensor();
  }
}

/// Slot by slot; as they are where the streams are all of one batch, in its order.
std::vector<State> Engine::states(std::span<Stream* const> streams) {
  const auto& first = streams[0]->batch_;
  if (first == nullptr) return {};
  bool same = first->rows == static_cast<int64_t>(streams.size());
  for (size_t b = 0; b < streams.size(); ++b)
    same = same && streams[b]->batch_ == first && streams[b]->row_ == static_cast<int64_t>(b);
  if (same) return first->slots;
  std::vector<int64_t> rows;
  for (const Stream* stream : streams) rows.push_back(stream->row_);
  std::vector<State> slots(first->slots.size());
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    for (size_t i = 0; i < first->slots[slot].size(); ++i) {
      std::vector<Tensor> parts;
      for (const Stream* stream : streams) parts.push_back(stream->batch_->slots[slot][i]);
      slots[slot].push_back(stack_rows(parts, rows));
    }
  }
  return slots;
}

}  // namespace megalodon
