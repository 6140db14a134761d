#include "ops/relative_attention/relative_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/philox.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/dropout/dropout.h"
#include "ops/registration.h"
#include "ops/text_of.h"

namespace megalodon::ops {
namespace {

/// Queries of a tile where chunks do not cut them: scores of a tile, not of a sequence, are held.
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
  check(!o.causal || o.first_query == 0,
        "[relative_attention] causal queries stand behind their prior keys: first_query must be 0, got {}",
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

/// What gradients flow to; the keys and values of one tile, or all.
struct Factors {
  Tensor q_BLZ, k_BJZ, v_BJE;
  Tensor bias_O;  // the table; of no element: no bias
};

/// The tiles of a call, and what one of them gives.
class TilePlan final : public torch::CustomClassHolder {
 public:
  TilePlan(const Factors& factors, const RelativeAttentionOptions& options)
      : o_(options), prior_(options.causal ? factors.k_BJZ.size(1) - factors.q_BLZ.size(1) : 0) {
    o_.prior_k_BTZ = o_.prior_v_BTE = o_.bias_O = Tensor();  // factors, which this outlives
    const int64_t B = factors.q_BLZ.size(0), L = factors.q_BLZ.size(1);
    if (o_.causal) {
      ChunkAttentionOptions chunks;
      chunks.chunk_size = o_.chunk_size, chunks.starts_BL = o_.starts_BL, chunks.position_B = o_.position_B;
      const torch::Device device = factors.q_BLZ.device();
      first_BL_ = first_visible_key(B, L, prior_, chunks, device).to(device);
      earliest_L_ = first_BL_.amin(0).cpu();
    }
    for (int64_t row = 0; row < L; row += tiles_.back().rows) tiles_.push_back(tile(row, L, factors.k_BJZ.size(1)));
  }

  const std::vector<Tile>& tiles() const { return tiles_; }

  static Factors part(const Factors& all, const Tile& t) {
    return {all.q_BLZ.narrow(1, t.row, t.rows), all.k_BJZ.slice(1, t.begin, t.end), all.v_BJE.slice(1, t.begin, t.end),
            all.bias_O};
  }

  /// Of a part().
  Tensor tile_y_BRE(const Factors& part, const Tile& t) const {
    const Tensor weights_BRJ = weights(part, t);
    const uint64_t key = derive_key(o_.dropout_key, static_cast<uint64_t>(t.row));
    return torch::matmul(o_.dropout > 0 ? dropout(weights_BRJ, o_.dropout, key) : weights_BRJ, part.v_BJE);
  }

 private:
  Tile tile(int64_t row, int64_t length, int64_t keys) const {
    if (o_.causal) {
      const int64_t rows = std::min({length - row, kTile, o_.chunk_size > 0 ? o_.chunk_size : kTile});
      return {row, rows, earliest_L_.narrow(0, row, rows).min().item<int64_t>(), prior_ + row + rows};
    }
    if (o_.chunk_size == 0) return {row, std::min(length - row, kTile), 0, keys};
    const int64_t begin = row / o_.chunk_size * o_.chunk_size, end = std::min(begin + o_.chunk_size, length);
    return {row, std::min(end - row, kTile), begin, end};
  }

  Sight sight(const Tensor& q_BRZ, const Tile& t) const {
    Sight sight;
    const auto type = q_BRZ.options().requires_grad(false);
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
  Tensor bias(const Tensor& table_O, const Tile& t) const {
    Tensor bias_O = table_O;
    const int64_t row = o_.first_query + prior_ + t.row, columns = t.end - t.begin, reach = bias_O.size(0) / 2;
    if (o_.causal) {
      const Tensor own_R = torch::arange(row, row + t.rows, torch::kInt64);
      const auto furthest = (own_R - earliest_L_.narrow(0, t.row, t.rows)).max().item<int64_t>();
      check_reach(reach, -furthest, 0);
      bias_O = torch::constant_pad_nd(bias_O, {std::max<int64_t>(row + t.rows - 1 - t.begin - reach, 0),
                                               std::max<int64_t>(t.end - 1 - row - reach, 0)});
      const int64_t before = std::max<int64_t>(row + t.rows - 1 - t.begin, reach);
      return toeplitz(bias_O, before + t.begin - row, t.rows, columns);
    }
    return offset_matrix(bias_O, row, t.rows, t.begin, columns);
  }

  Tensor weights(const Factors& part, const Tile& t) const {
    const Tensor& q_BRZ = part.q_BLZ;
    const Sight sight = this->sight(q_BRZ, t);
    const bool softmax = o_.scores == Scores::kSoftmax;
    Tensor scores_BRJ =
        torch::matmul(softmax ? q_BRZ / std::sqrt(static_cast<double>(q_BRZ.size(2))) : q_BRZ / sight.number_BR1,
                      part.k_BJZ.transpose(1, 2));
    if (part.bias_O.numel() > 0) scores_BRJ = scores_BRJ + bias(part.bias_O.to(scores_BRJ.scalar_type()), t);
    if (softmax) return softmax_weights(scores_BRJ, sight.visible_BRJ);
    const Tensor weights_BRJ = score_function(o_.scores, scores_BRJ);
    return sight.visible_BRJ.defined() ? weights_BRJ * sight.visible_BRJ.to(weights_BRJ.scalar_type()) : weights_BRJ;
  }

  RelativeAttentionOptions o_;
  int64_t prior_;
  Tensor first_BL_;    // causal: the first key that each query sees
  Tensor earliest_L_;  // the least of all rows, on the CPU: a GPU is waited for once, not in every tile
  std::vector<Tile> tiles_;
};

/// Of several tiles. The backward pass computes each one's weights again, so that one tile's are held at a time.
class TilesFunction : public torch::autograd::Function<TilesFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q_BLZ, const Tensor& k_BJZ,
                        const Tensor& v_BJE, const Tensor& bias_O,
                        const c10::intrusive_ptr<torch::CustomClassHolder>& plan) {
    context->save_for_backward({q_BLZ, k_BJZ, v_BJE, bias_O});
    context->saved_data["plan"] = torch::IValue::make_capsule(plan);
    const auto& of = static_cast<const TilePlan&>(*plan);
    const Factors all = {q_BLZ, k_BJZ, v_BJE, bias_O};
    std::vector<Tensor> parts;
    for (const Tile& tile : of.tiles()) parts.push_back(of.tile_y_BRE(TilePlan::part(all, tile), tile));
    return torch::cat(parts, 1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    refuse_second_derivatives("relative_attention");
    const auto capsule = context->saved_data["plan"].toCapsule();
    const auto& plan = static_cast<const TilePlan&>(*capsule);
    const auto saved = context->get_saved_variables();
    const Factors all = {saved[0], saved[1], saved[2], saved[3]};
    const Factors sums = {torch::zeros_like(saved[0]), torch::zeros_like(saved[1]), torch::zeros_like(saved[2]),
                          torch::zeros_like(saved[3])};
    for (const Tile& tile : plan.tiles()) {
      const Factors sum = TilePlan::part(sums, tile);
      Factors part = TilePlan::part(all, tile);
      for (Tensor* factor : {&part.q_BLZ, &part.k_BJZ, &part.v_BJE, &part.bias_O})
        *factor = factor->detach().requires_grad_();
      const Tensor y_BRE = [&] {
        at::AutoGradMode record(true);
        return plan.tile_y_BRE(part, tile);
      }();
      const auto found = torch::autograd::grad({y_BRE}, {part.q_BLZ, part.k_BJZ, part.v_BJE, part.bias_O},
                                               {gradients[0].narrow(1, tile.row, tile.rows)}, /*retain_graph=*/false,
                                               /*create_graph=*/false, /*allow_unused=*/true);
      sum.q_BLZ.add_(found[0]), sum.k_BJZ.add_(found[1]), sum.v_BJE.add_(found[2]);
      if (found[3].defined()) sum.bias_O.add_(found[3]);
    }
    return {sums.q_BLZ, sums.k_BJZ, sums.v_BJE, sums.bias_O, Tensor()};
  }
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
  const auto behind = [](const Tensor& prior, const Tensor& t) {
    return prior.defined() ? torch::cat({prior.to(t.scalar_type()), t}, 1) : t;
  };
  const Factors all = {q_BLZ, behind(options.prior_k_BTZ, k_BJZ), behind(options.prior_v_BTE, v_BJE),
                       options.bias_O.defined() ? options.bias_O : torch::zeros({0}, q_BLZ.options())};
  const auto plan = c10::make_intrusive<TilePlan>(all, options);
  if (plan->tiles().size() == 1) return plan->tile_y_BRE(TilePlan::part(all, plan->tiles()[0]), plan->tiles()[0]);
  return TilesFunction::apply(all.q_BLZ, all.k_BJZ, all.v_BJE, all.bias_O,
                              c10::intrusive_ptr<torch::CustomClassHolder>(plan));
}

}  // namespace megalodon::ops
