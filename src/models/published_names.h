// Parameters under the names, and in the layouts, that other code gave them: Transformers and the ports of Megalodon.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "models/megalodon.h"
#include "models/model_contents.h"
#include "models/transformer.h"

namespace megalodon {

enum class PublishedNames {
  kLlama,         // Llama 2's own code: layers.0.attention.wq.weight
  kHubLlama,      // Hugging Face's: model.layers.0.self_attn.q_proj.weight
  kHubMpt,        // transformer.blocks.0.attn.Wqkv.weight
  kTorchEncoder,  // torch.nn.TransformerEncoder: layers.0.self_attn.in_proj_weight
  kTorchDecoder,  // torch.nn.TransformerDecoder, which has multihead_attn too
  kMegalodon,     // the published code, whose names and layouts are ours
  kMegalodonHf,   // the Hugging Face port of Megalodon: model.layers.0.attn.wz.weight
  kMegalodonJax,  // the JAX port, which names them alike and lays them out as the published code does
};

/// Where one of our parameters is in such a state dict.
struct PublishedPart {
  std::string name = {};
  std::string imaginary = {};  // of a pair of tensors, which are the last axis of ours: the second one
  char of_fused = 0;           // 'q', 'k' or 'v': some rows of a matrix of all three
  bool plus_one = false;       // a norm's weight, which is stored there as it is multiplied with
  bool column = false;         // our last axis, of one, is not there
  int half_rotated = -1;       // an axis along which those of a head are there in the order 0, 2, 4, …, 1, 3, 5, …

  /// Whether it is the same there but for its name.
  bool is_same() const { return imaginary.empty() && of_fused == 0 && !plus_one && !column && half_rotated < 0; }
};

/// What the layout of queries and keys depends on. Made of the configurations that have it.
struct HeadLayout {
  HeadLayout(const TransformerLayerConfig& layer)  // NOLINT(google-explicit-constructor)
      : q_rows(layer.model_dim), kv_rows(layer.kv_heads() * layer.head_dim()), head_dim(layer.head_dim()) {}
  HeadLayout(const MegalodonConfig& config)  // NOLINT(google-explicit-constructor)
      : q_rows(config.z_dim), kv_rows(config.z_dim), head_dim(config.z_dim / config.num_heads) {}

  int64_t q_rows, kv_rows, head_dim;
};

/// `ours` is of a language model or stack, or (without "layers.<i>.") of a layer. Throws Error for a name that no such
/// parameter has.
PublishedPart published_part(PublishedNames names, const std::string& ours);
/// Those of a published parameter that are ours, in our order; ones are not subtracted. Not of a pair.
Tensor our_rows(const Tensor& published, const PublishedPart& part, const HeadLayout& heads);
/// The inverse: writes ours where they belong.
void write_our_rows(const Tensor& ours, const PublishedPart& part, const HeadLayout& heads, const Tensor& published);

/// Shapes of some of our parameters.
using NamedShapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;
/// Refuses a configuration of other sizes than the file's before a model of such sizes is made: the number of layers,
/// and `shapes`, which have between them every other size.
void check_sizes(const io::TensorFile& file, PublishedNames names, const HeadLayout& heads, int64_t num_layers,
                 const NamedShapes& shapes);

/// Why a tensor that is no parameter cannot be left out; "" if it can.
using ProblemOfSurplus = std::function<std::string(const io::TensorView&)>;
/// Of an output matrix that is stored beside the embedding which it is; ProblemOfSurplus of any other tensor.
std::string problem_of_tied(const io::TensorView& output, const io::TensorFile& file, const std::string& embedding);

/// The model's parameters out of such a file: in its dtypes, norms from which one is subtracted in float32, or in
/// float64 where that would round. Throws Error that lists every tensor that is missing, misshapen, of a wrong type or
/// surplus.
io::TensorFile our_tensors(const Model& model, PublishedNames names, const HeadLayout& heads,
                           const io::TensorFile& file, const ProblemOfSurplus& problem_of_surplus);
/// The inverse: norms to which one is added in the dtype of the embedding, or in float32 where that would round.
io::TensorFile their_tensors(const io::TensorFile& ours, PublishedNames names, const HeadLayout& heads);

}  // namespace megalodon
