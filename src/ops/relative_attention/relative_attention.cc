#include "ops/relative_attention/relative_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/philox.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/dropout/dropout.h"
#include "ops/text_of.h"

namespace megalodon::ops {
namespace {

/// Queries of a tile where chunks do not cut them: scores of a tile, not of a sequence, are held beside the gradients.
constexpr int64_t kTile = 512;

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const RelativeAttentionOptions& o) {
  check(q.dim() == 3 && k.dim() == 3 && v.dim() == 3 && q.numel() > 0 && k.numel() > 0 && v.numel() > 0,
        "[relative_attention] expected q [B,L,Z], k [B,J,Z] and v [B,J,E], none empty, got {}, {} and {}",
        c10::str(q.sizes()), c10::str(k.sizes()), c10::str(v.sizes()));
  check(k.size(0) == q.size(0) && k.size(2) == q.size(2) && v.sizes().slice(0, 2) == k.sizes().slice(0, 2),
        "[relative_attention] k and v must fit q {}, got {} and {}", c10::str(q.sizes()), c10::str(k.sizes()),
        c10::str(v.sizes()));
  check(k.size(1) == q.size(1) || (!o.causal && o.chunk_size == 0),
        "[relative_attention] causal queries and those of chunks must be as many as keys, got {} and {}", q.size(1),
        k.size(1));
  check(o.chunk_size >= 0 && o.first_query >= 0,
        "[relative_attention] chunk_size and first_query must not be negative, got {} and {}", o.chunk_size,
        o.first_query);
  check(o.prior_k_BTZ.defined() == o.prior_v_BTE.defined(),
        "[relative_attention] prior_k and prior_v must be given together");
  check(o.causal || (!o.starts_BL.defined() && !o.prior_k_BTZ.defined() && !o.position_B.defined()),
        "[relative_attention] documents and priors are of causal attention");
  check(!o.padding_BJ.defined() || (o.padding_BJ.sizes() == k.sizes().slice(0, 2) && !o.prior_k_BTZ.defined()),
        "[relative_attention] padding must be of the keys {} of whole sequences, got {}", c10::str(k.sizes()),
        text_of(o.padding_BJ));
  check(!o.bias_O.defined() || (o.bias_O.dim() == 1 && o.bias_O.size(0) % 2 == 1),
        "[relative_attention] expected a bias for each of an odd number of distances, got {}", text_of(o.bias_O));
}

/// Of distances that a table has to have.
void check_reach(int64_t reach, int64_t lowest, int64_t highest) {
  check(-reach <= lowest && highest <= reach,
        "[relative_attention] a table of {} positions has no bias for distances from {} to {}; raise max_positions or "
        "use rotary positions",
        reach + 1, lowest, highest);
}

/// b_ij = t[at − i + j]: each row is the window of the table one step further left.
Tensor toeplitz(const Tensor& table, int64_t at, int64_t rows, int64_t columns) {
  return table.slice(0, at - rows + 1, at + columns).unfold(0, columns, 1).flip(0);
}

/// Of one tile: which keys its queries see and how many those are.
struct Sight {
  Tensor visible_BRJ;  // bool, broadcast; undefined: all
  Tensor number_BR1;   // broadcast
};

/// Softmax over the visible keys; the others weigh 0.
Tensor softmax_weights(const Tensor& scores_BRJ, const Tensor& visible_BRJ) {
  if (!visible_BRJ.defined()) return torch::softmax(scores_BRJ, -1);
  return torch::softmax(scores_BRJ.masked_fill(visible_BRJ.logical_not(), -std::numeric_limits<double>::infinity()),
                        -1);
}

/// The keys [begin, end) that queries [row, row + rows) may see, on the axis of all keys.
struct Tile {
  int64_t row, rows, begin, end;
};

class Run {
 public:
  Run(const Tensor& q_BLZ, const Tensor& k_BJZ, const Tensor& v_BJE, const RelativeAttentionOptions& options)
      : o_(options), q_BLZ_(q_BLZ), prior_(options.prior_k_BTZ.defined() ? options.prior_k_BTZ.size(1) : 0) {
    k_BJZ_ = prior_ > 0 ? torch::cat({options.prior_k_BTZ.to(k_BJZ.scalar_type()), k_BJZ}, 1) : k_BJZ;
    v_BJE_ = prior_ > 0 ? torch::cat({options.prior_v_BTE.to(v_BJE.scalar_type()), v_BJE}, 1) : v_BJE;
    if (!o_.causal) return;
    ChunkAttentionOptions chunks;
    chunks.chunk_size = o_.chunk_size, chunks.starts_BL = o_.starts_BL, chunks.position_B = o_.position_B;
    first_BL_ = first_visible_key(q_BLZ.size(0), q_BLZ.size(1), prior_, chunks, q_BLZ.device()).to(q_BLZ.device());
  }

  Tensor y_BLE() const {
    std::vector<Tensor> parts;
    for (int64_t row = 0; row < q_BLZ_.size(1);) {
      const Tile tile = this->tile(row);
      const Tensor dropped_BRJ =
          o_.dropout > 0 ? dropout(weights(tile), o_.dropout, derive_key(o_.dropout_key, static_cast<uint64_t>(row)))
                         : weights(tile);
      parts.push_back(torch::matmul(dropped_BRJ, v_BJE_.slice(1, tile.begin, tile.end)));
      row += tile.rows;
    }
    return parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
  }

 private:
  Tile tile(int64_t row) const {
    const int64_t left = q_BLZ_.size(1) - row;
    if (!o_.causal) {
      if (o_.chunk_size == 0) return {row, std::min(left, kTile), 0, k_BJZ_.size(1)};
      const int64_t rows = std::min(left, o_.chunk_size);
      return {row, rows, row, row + rows};
    }
    const int64_t rows = std::min(left, o_.chunk_size > 0 ? std::min(o_.chunk_size, kTile) : kTile);
    const auto begin = first_BL_.narrow(1, row, rows).min().item<int64_t>();
    return {row, rows, begin, prior_ + row + rows};
  }

  Sight sight(const Tile& t) const {
    Sight sight;
    const auto type = q_BLZ_.options().requires_grad(false);
    if (o_.causal) {
      const Tensor key_J = torch::arange(t.begin, t.end, first_BL_.options());
      const Tensor own_R1 = torch::arange(prior_ + t.row, prior_ + t.row + t.rows, first_BL_.options()).unsqueeze(1);
      const Tensor first_BR1 = first_BL_.narrow(1, t.row, t.rows).unsqueeze(2);
      sight.visible_BRJ = (key_J >= first_BR1).logical_and(key_J <= own_R1);
      sight.number_BR1 = (own_R1 - first_BR1 + 1).to(type.dtype());
    } else {
      sight.number_BR1 = torch::full({1, 1, 1}, t.end - t.begin, type);
    }
    if (!o_.padding_BJ.defined()) return sight;
    const Tensor real_B1J = o_.padding_BJ.slice(1, t.begin, t.end).logical_not().unsqueeze(1);
    if (!o_.causal) sight.number_BR1 = real_B1J.sum(-1, /*keepdim=*/true).clamp_min(1).to(type.dtype());
    Tensor seen_BRJ = sight.visible_BRJ.defined() ? sight.visible_BRJ.logical_and(real_B1J) : real_B1J;
    if (o_.scores == Scores::kSoftmax) {
      const Tensor nothing_BR1 = seen_BRJ.any(-1, /*keepdim=*/true).logical_not();
      seen_BRJ =
          seen_BRJ.logical_or(sight.visible_BRJ.defined() ? nothing_BR1.logical_and(sight.visible_BRJ) : nothing_BR1);
    }
    sight.visible_BRJ = seen_BRJ;
    return sight;
  }

  /// A tile holds pairs that are of different chunks, or in the wrong order: the table need not reach those.
  Tensor bias(const Tile& t, torch::ScalarType type) const {
    Tensor bias_O = o_.bias_O.to(type);
    const int64_t row = o_.first_query + prior_ + t.row, columns = t.end - t.begin, reach = bias_O.size(0) / 2;
    if (o_.causal) {
      const Tensor own_R = torch::arange(row, row + t.rows, first_BL_.options());
      const auto furthest = (own_R - first_BL_.narrow(1, t.row, t.rows)).max().item<int64_t>();
      check_reach(reach, -furthest, 0);
      bias_O = torch::constant_pad_nd(bias_O, {std::max<int64_t>(row + t.rows - 1 - t.begin - reach, 0),
                                               std::max<int64_t>(t.end - 1 - row - reach, 0)});
      const int64_t before = std::max<int64_t>(row + t.rows - 1 - t.begin, reach);
      return toeplitz(bias_O, before + t.begin - row, t.rows, columns);
    }
    return offset_matrix(bias_O, row, t.rows, t.begin, columns);
  }

  Tensor weights(const Tile& t) const {
    const Sight sight = this->sight(t);
    const bool softmax = o_.scores == Scores::kSoftmax;
    const Tensor q_BRZ = q_BLZ_.narrow(1, t.row, t.rows);
    Tensor scores_BRJ =
        torch::matmul(softmax ? q_BRZ / std::sqrt(static_cast<double>(q_BRZ.size(2))) : q_BRZ / sight.number_BR1,
                      k_BJZ_.slice(1, t.begin, t.end).transpose(1, 2));
    if (o_.bias_O.defined()) scores_BRJ = scores_BRJ + bias(t, scores_BRJ.scalar_type());
    if (softmax) return softmax_weights(scores_BRJ, sight.visible_BRJ);
    const Tensor weights_BRJ = score_function(o_.scores, scores_BRJ);
    return sight.visible_BRJ.defined() ? weights_BRJ * sight.visible_BRJ.to(weights_BRJ.scalar_type()) : weights_BRJ;
  }

  const RelativeAttentionOptions& o_;
  Tensor q_BLZ_, k_BJZ_, v_BJE_, first_BL_;
  int64_t prior_;
};

}  // namespace

Tensor score_function(Scores scores, const Tensor& x) {
  // The constants are those of the paper, √(1/2) and √(1/4π), as the published code rounds them.
  constexpr double kMean = 0.707107, kDeviation = 0.282095;
  check(scores != Scores::kSoftmax, "[relative_attention] softmax is no function of one score");
  if (scores == Scores::kRelu2) return torch::relu(x).square();
  return (torch::erf((x - kMean) / (kDeviation * std::sqrt(2.0))) + 1) * 0.5;
}

Tensor offset_matrix(const Tensor& bias_O, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const int64_t reach = bias_O.size(0) / 2;
  check_reach(reach, column - (row + rows - 1), column + columns - 1 - row);
  return toeplitz(bias_O, reach + column - row, rows, columns);
}

Tensor relative_attention(const Tensor& q_BLZ, const Tensor& k_BJZ, const Tensor& v_BJE,
                          const RelativeAttentionOptions& options) {
  check_inputs(q_BLZ, k_BJZ, v_BJE, options);
  return Run(q_BLZ, k_BJZ, v_BJE, options).y_BLE();
}

}  // namespace megalodon::ops
