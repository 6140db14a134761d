#include "infer/token_history.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"

namespace megalodon {
namespace {

/// A whole number of at least `least`, and far from where counting ends: what is above 2^63 converts to below 0.
bool is_count(const nlohmann::ordered_json& value, int64_t least) {
  return value.is_number_integer() && value.get<int64_t>() >= least && value.get<int64_t>() <= int64_t{1} << 53;
}

bool is_token_count(const nlohmann::ordered_json& value) {
  return value.is_array() && value.size() == 2 && is_count(value[0], 0) && is_count(value[1], 1);
}

}  // namespace

void TokenHistory::add(int64_t token) {
  if (last_n_ == 0) return;
  count(token, 1);
  if (last_n_ < 0) return;
  if (static_cast<int64_t>(window_.size()) < last_n_) return window_.push_back(token);
  count(std::exchange(window_[oldest_], token), -1);
  oldest_ = (oldest_ + 1) % window_.size();
}

void TokenHistory::count(int64_t token, int64_t change) {
  const auto before = [](const TokenCount& entry, int64_t id) { return entry.token < id; };
  auto found = std::lower_bound(counts_.begin(), counts_.end(), token, before);
  if (found == counts_.end() || found->token != token) found = counts_.insert(found, {token, 0});
  found->count += change;
  if (found->count == 0) counts_.erase(found);
}

nlohmann::ordered_json TokenHistory::state() const {
  auto state = nlohmann::ordered_json::array();
  if (last_n_ < 0) {
    for (const auto& [token, count] : counts_) state.push_back({token, count});
  } else {
    for (size_t i = 0; i < window_.size(); ++i) state.push_back(window_[(oldest_ + i) % window_.size()]);
  }
  return state;
}

void TokenHistory::load_state(const nlohmann::ordered_json& state) {
  check(state.is_array(), "[sampler] penalty_window must be a list of tokens, got {}", state.dump());
  TokenHistory loaded(last_n_);
  if (last_n_ < 0) {
    for (const auto& entry : state) {
      if (!is_token_count(entry) || (!loaded.counts_.empty() && loaded.counts_.back().token >= entry[0]))
        fail("[sampler] penalty_window must be a list of [token, count] in order of tokens, got {} in it",
             entry.dump());
      loaded.counts_.push_back({entry[0].get<int64_t>(), entry[1].get<int64_t>()});
    }
  } else {
    check(state.size() <= static_cast<size_t>(last_n_),
          "[sampler] penalty_window must be a list of at most {} tokens, got {}", last_n_, state.size());
    for (const auto& token : state) {
      if (!is_count(token, 0)) fail("[sampler] penalty_window must be a list of tokens, got {} in it", token.dump());
      loaded.add(token.get<int64_t>());
    }
  }
  *this = std::move(loaded);
}

}  // namespace megalodon
