#include "infer/engine.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/hash.h"
#include "models/weights.h"

namespace megalodon {
namespace {

/// t with zeros before its steps, axis 1, so that there are `steps`.
Tensor right_aligned(const Tensor& t, int64_t steps) {
  if (t.dim() < 2 || t.size(1) == steps) return t;
  std::vector<int64_t> padding(2 * static_cast<size_t>(t.dim() - 1), 0);
  padding[padding.size() - 2] = steps - t.size(1);
  return torch::constant_pad_nd(t, padding, 0);
}

/// parts[b] of row rows[b], one below the other; states that have grown to different lengths end together.
Tensor stack_rows(const std::vector<Tensor>& parts, const std::vector<int64_t>& rows) {
  std::vector<Tensor> list;
  for (size_t b = 0; b < parts.size(); ++b)
    if (parts[b].defined()) list.push_back(parts[b].narrow(0, rows[b], 1));
  if (list.empty()) return {};
  int64_t steps = 0;
  for (const Tensor& t : list) steps = std::max(steps, t.dim() > 1 ? t.size(1) : 0);
  for (Tensor& t : list) t = right_aligned(t, steps);
  return torch::cat(list);
}

/// The file's tensor of that name; all numbers must be finite.
Tensor restored(const io::TensorFile& file, const std::string& name, torch::IntArrayRef sizes, torch::ScalarType type) {
  const io::TensorView* view = file.find(name);
  const auto of = [](io::Dtype dtype, std::span<const int64_t> shape) {
    return fmt::format("{} {}", io::dtype_name(dtype), io::shape_text(shape));
  };
  const std::string expected = of(from_torch(type), {sizes.data(), sizes.size()});
  const std::string found = view == nullptr ? "nothing" : of(view->dtype, view->shape);
  check(found == expected, "{}: expected {}, found {}", name, expected, found);
  const Tensor tensor = to_tensor(*view);
  const Tensor numbers = tensor.is_complex() ? torch::view_as_real(tensor) : tensor;
  check(torch::isfinite(numbers).all().item<bool>(), "{} holds numbers that are not finite", name);
  return tensor;
}

}  // namespace

Engine::Engine(Model& model, const EngineOptions& options) : model_(model), options_(options) {
  check(options.block >= 1, "[engine] block must be at least 1, got {}", options.block);
  check(options.cache_type == torch::kFloat32 || options.cache_type == torch::kBFloat16,
        "[engine] caches are float32 or bfloat16, got {}", c10::toString(options.cache_type));
  const ModelInfo info = model.info();
  shape_ = info.cache;
  // A float64 model attends through references, which read positions on the host.
  if (!info.repeats_steps || options.recorder == nullptr || model.output().weight.scalar_type() == torch::kFloat64)
    return;
  if (ops::Recorder recorder = options.recorder(model.device()))
    repeated_ = std::make_unique<RepeatedStep>(model, std::move(recorder));
}

void Engine::read(Stream& stream, std::span<const int64_t> tokens, const UseHidden& use) const {
  check_tokens(tokens);
  const auto length = static_cast<int64_t>(tokens.size());
  model_.check_length(stream.tokens_ + length);
  const torch::NoGradGuard no_grad;  // for `use`, too
  Stream* const only = &stream;
  for (int64_t at = 0; at < length; at += options_.block) {
    const int64_t count = std::min(options_.block, length - at);
    const Tensor tokens_BL = torch::empty({1, count}, torch::kInt64);
    std::copy_n(tokens.data() + at, count, tokens_BL.data_ptr<int64_t>());
    const Tensor hidden_BLD = advance({&only, 1}, tokens_BL);
    if (use) use(at, hidden_BLD[0]);
  }
}

void Engine::step(std::span<Stream* const> streams, std::span<const int64_t> tokens) const {
  check(streams.size() == tokens.size(), "[engine] expected a token for each of {} streams, got {}", streams.size(),
        tokens.size());
  check(std::set(streams.begin(), streams.end()).size() == streams.size(),
        "[engine] a stream cannot be stepped twice at once");
  check_tokens(tokens);
  for (const Stream* stream : streams) model_.check_length(stream->tokens_ + 1);
  std::vector<Stream*> together;
  std::vector<int64_t> theirs;
  for (size_t b = 0; b < streams.size(); ++b) {
    if (streams[b]->tokens_ == 0) {  // it has no state yet to be put among the others'
      read(*streams[b], {&tokens[b], 1});
      continue;
    }
    together.push_back(streams[b]);
    theirs.push_back(tokens[b]);
  }
  if (!together.empty()) advance(together, torch::tensor(theirs).unsqueeze(1));
}

void Engine::check_tokens(std::span<const int64_t> tokens) const {
  const int64_t vocabulary = model_.config().vocabulary();
  for (const int64_t token : tokens)
    check(token >= 0 && token < vocabulary, "[engine] expected tokens from 0 to {}, got {}", vocabulary - 1, token);
}

/// Caches that are the stream's alone, with what it keeps, and room for a chunk or, where all is kept, for so many more
/// tokens.
void Engine::make_caches(Stream& stream, int64_t more) const {
  const int64_t open = shape_.kept(stream.tokens_);
  const bool empty = !stream.caches_ || stream.caches_->empty();
  const int64_t room = empty ? 0 : stream.caches_->front().k_CGK.size(0);
  const bool fits = shape_.steps > 0 || shape_.slots == 0 || open + more <= room;
  if (stream.caches_ && stream.caches_.use_count() == 1 && fits) return;
  // Twice as much each time: what is copied is less than what was ever kept.
  const int64_t steps = shape_.steps > 0 ? shape_.steps : std::max({open + more, fits ? room : 2 * room, int64_t{64}});
  auto own = std::make_shared<std::vector<ops::KeyValueCache>>();
  const auto options = torch::TensorOptions().dtype(options_.cache_type).device(model_.device());
  for (int64_t slot = 0; slot < shape_.slots; ++slot) {
    own->push_back({torch::empty({steps, shape_.heads, shape_.key_width}, options),
                    torch::empty({steps, shape_.heads, shape_.value_width}, options)});
    if (!stream.caches_ || open == 0) continue;
    const ops::KeyValueCache& shared = (*stream.caches_)[static_cast<size_t>(slot)];
    own->back().k_CGK.narrow(0, 0, open).copy_(shared.k_CGK.narrow(0, 0, open));
    own->back().v_CGV.narrow(0, 0, open).copy_(shared.v_CGV.narrow(0, 0, open));
  }
  stream.caches_ = std::move(own);
}

/// Slot by slot, and where the streams stand.
std::vector<ops::KeyValueRows> Engine::caches(std::span<Stream* const> streams) const {
  std::vector<ops::KeyValueRows> list(static_cast<size_t>(shape_.slots));
  for (const Stream* stream : streams)
    for (size_t slot = 0; slot < list.size(); ++slot) {
      list[slot].caches.push_back((*stream->caches_)[slot]);
      list[slot].position.push_back(shape_.kept(stream->tokens_));
    }
  return list;
}

Tensor Engine::advance(std::span<Stream* const> streams, const Tensor& tokens_BL) const {
  const torch::NoGradGuard no_grad;
  for (const Stream* stream : streams)
    check(!stream->torn_, "[engine] an error ended this stream's last pass; go on from a copy or a snapshot");
  const int64_t length = tokens_BL.size(1);
  for (Stream* stream : streams) make_caches(*stream, length);
  const auto before = states(streams);
  // The caches are written while the model runs; what else a stream is changes when all is done.
  for (Stream* stream : streams)
    stream->torn_ = shape_.steps > 0 && stream->tokens_ % shape_.steps + length > shape_.steps;
  std::optional<RepeatedStep::Result> made;
  if (repeated_ != nullptr && before != nullptr && length == 1)
    made = repeated_->run(tokens_BL, *before, caches(streams));
  if (!made) {
    PassResult pass = run_pass(model_, tokens_BL, before ? before->slots() : std::vector<State>(), caches(streams));
    made = {pass.hidden_BLD, pass.logits_BV,
            std::make_shared<const BatchStates>(std::move(pass.after), std::ssize(streams))};
  }
  for (size_t b = 0; b < streams.size(); ++b) {
    Stream& stream = *streams[b];
    stream.batch_ = made->after, stream.row_ = static_cast<int64_t>(b);
    stream.tokens_ += length;
    stream.logits_ = made->logits_BV[static_cast<int64_t>(b)];
    stream.torn_ = false;
  }
  return made->hidden_BLD;
}

/// As they are where the streams are all of one batch, in its order; null where they begin.
std::shared_ptr<const BatchStates> Engine::states(std::span<Stream* const> streams) {
  const auto& first = streams[0]->batch_;
  if (first == nullptr) return nullptr;
  bool same = first->rows() == std::ssize(streams);
  for (size_t b = 0; b < streams.size(); ++b)
    same = same && streams[b]->batch_ == first && streams[b]->row_ == static_cast<int64_t>(b);
  if (same) return first;
  std::vector<int64_t> rows;
  for (const Stream* stream : streams) rows.push_back(stream->row_);
  std::vector<State> slots(first->slots().size());
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    for (size_t i = 0; i < first->slots()[slot].size(); ++i) {
      std::vector<Tensor> parts;
      for (const Stream* stream : streams) parts.push_back(stream->batch_->slots()[slot][i]);
      slots[slot].push_back(stack_rows(parts, rows));
    }
  }
  return std::make_shared<const BatchStates>(std::move(slots), std::ssize(streams));
}

const std::string& Engine::fingerprint() const {
  if (!fingerprint_.empty()) return fingerprint_;
  Xxh3 hash;
  const auto add = [&](std::string_view text) { hash.update(std::as_bytes(std::span(text))); };
  add(config_json(model_.config(), {}));
  for (const nn::Linear* linear : model_.linears())
    if (const ops::FixedMatrix& fixed = linear->packed->fixed(); fixed.defined())
      hash.update(to_view("", fixed.bytes().to(torch::kCPU)).bytes);
  for (const auto& [name, weight] : named_weights(model_)) {
    if (weight.numel() > 0 && weight.stride(0) == 0) continue;  // the shape of a fixed matrix
    add(name + "\n");
    hash.update(to_view(name, weight.detach().to(torch::kCPU).contiguous()).bytes);
  }
  return fingerprint_ = hex64(hash.value());
}

Stream Engine::parked(const Stream& stream) const {
  Stream copy = stream;
  if (stream.tokens_ == 0) return copy;
  std::vector<State> own = stream.batch_->slots();
  for (State& state : own)
    for (Tensor& part : state)
      if (part.defined()) part = part.narrow(0, stream.row_, 1).clone();
  copy.batch_ = std::make_shared<const BatchStates>(std::move(own), 1);
  copy.row_ = 0;
  copy.logits_ = stream.logits_.clone();
  if (shape_.steps > 0 && stream.tokens_ % shape_.steps == 0) copy.caches_ = nullptr;
  return copy;
}

int64_t Engine::bytes(const Stream& stream) const {
  int64_t total = 0;
  const auto add = [&](const Tensor& part, int64_t rows) {
    if (part.defined()) total += part.numel() * static_cast<int64_t>(part.element_size()) / rows;
  };
  add(stream.logits_, 1);
  if (stream.batch_ != nullptr)
    for (const State& state : stream.batch_->slots())
      for (const Tensor& part : state) add(part, stream.batch_->rows());
  if (stream.caches_ != nullptr)
    for (const ops::KeyValueCache& cache : *stream.caches_) add(cache.k_CGK, 1), add(cache.v_CGV, 1);
  return total;
}

NamedTensors Engine::tensors(const Stream& stream) const {
  check(stream.tokens_ > 0, "[engine] a stream that has read nothing has no state");
  NamedTensors list;
  const auto add = [&](std::string name, const Tensor& tensor) {
    list.emplace_back(std::move(name), tensor.to(torch::kCPU).contiguous());
  };
  add("logits", stream.logits_);
  const auto& slots = stream.batch_->slots();
  for (size_t slot = 0; slot < slots.size(); ++slot)
    for (size_t i = 0; i < slots[slot].size(); ++i)
      if (Tensor part = slots[slot][i]; part.defined()) {
        part = part.narrow(0, stream.row_, 1);
        // Of a batch, a state may be as long as the longest.
        if (const auto steps = model_.state_steps(static_cast<int64_t>(slot), i, stream.tokens_))
          part = part.narrow(1, part.size(1) - *steps, *steps);
        add(fmt::format("state.{}.{}", slot, i), part);
      }
  const int64_t open = shape_.kept(stream.tokens_);
  for (int64_t slot = 0; open > 0 && slot < shape_.slots; ++slot) {
    const ops::KeyValueCache& cache = (*stream.caches_)[static_cast<size_t>(slot)];
    add(fmt::format("keys.{}", slot), cache.k_CGK.narrow(0, 0, open));
    add(fmt::format("values.{}", slot), cache.v_CGV.narrow(0, 0, open));
  }
  return list;
}

/// The states that a stream of one token has say what tensors there are.
std::vector<State> Engine::restore_states(const io::TensorFile& file, int64_t tokens) const {
  Stream example;
  read(example, std::array<int64_t, 1>{0});
  std::vector<State> slots = example.batch_->slots();
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    for (size_t i = 0; i < slots[slot].size(); ++i)
      if (Tensor& part = slots[slot][i]; part.defined()) {
        std::vector<int64_t> sizes = part.sizes().vec();
        if (const auto steps = model_.state_steps(static_cast<int64_t>(slot), i, tokens)) sizes[1] = *steps;
        part = restored(file, fmt::format("state.{}.{}", slot, i), sizes, part.scalar_type()).to(part.device());
      }
    model_.check_state(static_cast<int64_t>(slot), slots[slot], tokens);
  }
  return slots;
}

Stream Engine::restore(const io::TensorFile& file, int64_t tokens) const {
  Stream stream;
  stream.batch_ = std::make_shared<const BatchStates>(restore_states(file, tokens), 1);
  stream.tokens_ = tokens;
  stream.logits_ = restored(file, "logits", {model_.config().outputs()}, torch::kFloat32).to(model_.device());
  const int64_t open = shape_.kept(tokens);
  if (open > 0) make_caches(stream, 0);  // a stream at the end of a chunk is kept without
  for (int64_t slot = 0; open > 0 && slot < shape_.slots; ++slot) {
    ops::KeyValueCache& cache = (*stream.caches_)[static_cast<size_t>(slot)];
    const auto fill = [&](const char* kind, const Tensor& held) {
      held.narrow(0, 0, open)
          .copy_(restored(file, fmt::format("{}.{}", kind, slot), {open, held.size(1), held.size(2)},
                          options_.cache_type));
    };
    fill("keys", cache.k_CGK);
    fill("values", cache.v_CGV);
  }
  return stream;
}

}  // namespace megalodon
