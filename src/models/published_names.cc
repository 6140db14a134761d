#include "models/published_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"

namespace megalodon {
namespace {

/// A beginning of our names and what it is there.
struct Renaming {
  const char *ours, *published;
  PublishedPart part = {};
};

struct Naming {
  const char* layers;  // what "layers." is
  std::vector<Renaming> outside, inside;
};

const PublishedPart kNorm{.plus_one = true};
const PublishedPart kRotated{.half_rotated = 0};

/// The norms have numbers there, in the order of the branches.
std::vector<Renaming> torch_layer(const char* ffn_norm) {
  return {{"attention.wq.", "self_attn.in_proj_", {.of_fused = 'q'}},
          {"attention.wk.", "self_attn.in_proj_", {.of_fused = 'k'}},
          {"attention.wv.", "self_attn.in_proj_", {.of_fused = 'v'}},
          {"attention.wo.", "self_attn.out_proj."},
          {"cross.wq.", "multihead_attn.in_proj_", {.of_fused = 'q'}},
          {"cross.wk.", "multihead_attn.in_proj_", {.of_fused = 'k'}},
          {"cross.wv.", "multihead_attn.in_proj_", {.of_fused = 'v'}},
          {"cross.wo.", "multihead_attn.out_proj."},
          {"feed_forward.w1.", "linear1."},
          {"feed_forward.w2.", "linear2."},
          {"attention_norm.", "norm1.", kNorm},
          {"cross_norm.", "norm2.", kNorm},
          {"feed_forward_norm.", ffn_norm, kNorm}};
}

std::vector<Renaming> port_layer(std::vector<Renaming> otherwise = {}) {
  const std::vector<Renaming> common = {
      {"mega.rmsnorm.weight", "attn.rmsnorm.gamma"},
      {"mega.cema.gamma", "attn.cema.gamma_real", {.imaginary = "attn.cema.gamma_imag"}},
      {"mega.cema.omega", "attn.cema.omega", {.column = true}},
      {"mega.", "attn."},
      {"nffn.", "ffn."}};
  otherwise.insert(otherwise.end(), common.begin(), common.end());
  return otherwise;
}

Naming port(std::vector<Renaming> layer) {
  return {"model.layers.",
          {{"embed.", "model.embed."}, {"output.final_norm.", "model.norm."}, {"output.output.", "lm_head."}},
          std::move(layer)};
}

const Naming& naming(PublishedNames names) {
  static const std::map<PublishedNames, Naming> kNamings = {
      {PublishedNames::kLlama,
       {"layers.",
        {{"embed.", "tok_embeddings."}, {"output.final_norm.", "norm.", kNorm}, {"output.output.", "output."}},
        {{"attention_norm.", "attention_norm.", kNorm},
         {"feed_forward_norm.", "ffn_norm.", kNorm},
         {"attention.", "attention."},
         {"feed_forward.", "feed_forward."}}}},
      {PublishedNames::kHubLlama,
       {"model.layers.",
        {{"embed.", "model.embed_tokens."},
         {"output.final_norm.", "model.norm.", kNorm},
         {"output.output.", "lm_head."}},
        {{"attention_norm.", "input_layernorm.", kNorm},
         {"feed_forward_norm.", "post_attention_layernorm.", kNorm},
         {"attention.wq.", "self_attn.q_proj.", kRotated},
         {"attention.wk.", "self_attn.k_proj.", kRotated},
         {"attention.wv.", "self_attn.v_proj."},
         {"attention.wo.", "self_attn.o_proj."},
         {"feed_forward.w1.", "mlp.gate_proj."},
         {"feed_forward.w2.", "mlp.down_proj."},
         {"feed_forward.w3.", "mlp.up_proj."}}}},
      {PublishedNames::kHubMpt,
       {"transformer.blocks.",
        {{"embed.", "transformer.wte."},
         {"positions.", "transformer.wpe."},
         {"output.final_norm.", "transformer.norm_f.", kNorm},
         {"output.output.", "lm_head."}},
        {{"attention_norm.", "norm_1.", kNorm},
         {"feed_forward_norm.", "norm_2.", kNorm},
         {"attention.wq.", "attn.Wqkv.", {.of_fused = 'q'}},
         {"attention.wk.", "attn.Wqkv.", {.of_fused = 'k'}},
         {"attention.wv.", "attn.Wqkv.", {.of_fused = 'v'}},
         {"attention.wo.", "attn.out_proj."},
         {"attention.q_norm.", "attn.q_ln.", kNorm},
         {"attention.k_norm.", "attn.k_ln.", kNorm},
         {"feed_forward.w1.", "ffn.up_proj."},
         {"feed_forward.w2.", "ffn.down_proj."}}}},
      {PublishedNames::kTorchEncoder, {"layers.", {{"norm.", "norm.", kNorm}}, torch_layer("norm2.")}},
      {PublishedNames::kTorchDecoder, {"layers.", {{"norm.", "norm.", kNorm}}, torch_layer("norm3.")}},
      {PublishedNames::kMegalodon, {"layers.", {{"", ""}}, {{"", ""}}}},
      {PublishedNames::kMegalodonHf, port(port_layer({{"mega.wz.", "attn.wz.", kRotated},
                                                      {"mega.gamma", "attn.gamma", {.half_rotated = 1}},
                                                      {"mega.beta", "attn.beta", {.half_rotated = 1}},
                                                      {"nffn.norm.", "ffn.norm.", kNorm}}))},
      {PublishedNames::kMegalodonJax, port(port_layer())}};
  return kNamings.at(names);
}

PublishedPart renamed(const std::vector<Renaming>& renamings, const std::string& ours) {
  for (const Renaming& renaming : renamings) {
    if (!ours.starts_with(renaming.ours)) continue;
    PublishedPart part = renaming.part;
    const std::string kind = ours.substr(std::string(renaming.ours).size());
    part.name = renaming.published + kind;
    part.plus_one = part.plus_one && kind == "weight";
    return part;
  }
  fail("[hub] {} has no counterpart in the other names", ours);
}

/// The rows of part of a published parameter, as they lie there.
Tensor rows_there(const Tensor& published, const PublishedPart& part, const HeadLayout& heads) {
  if (part.of_fused == 0) return published;
  const int64_t begin = part.of_fused == 'q' ? 0 : part.of_fused == 'k' ? heads.q_rows : heads.q_rows + heads.kv_rows;
  return published.narrow(0, begin, part.of_fused == 'q' ? heads.q_rows : heads.kv_rows);
}

/// Of the published parameter that holds one of ours, of shape `ours`.
std::vector<int64_t> published_shape(torch::IntArrayRef ours, const PublishedPart& part, const HeadLayout& heads) {
  std::vector<int64_t> shape = ours.vec();
  if (part.of_fused != 0) shape[0] = heads.q_rows + 2 * heads.kv_rows;
  if (part.column || !part.imaginary.empty()) shape.pop_back();
  return shape;
}

/// Numbers in the dtype that is preferred, or in the other where that would round them.
Tensor narrowed(const Tensor& wide, torch::ScalarType preferred, torch::ScalarType otherwise) {
  const Tensor narrow = wide.to(preferred);
  return torch::equal(narrow.to(wide.scalar_type()), wide) ? narrow : wide.to(otherwise);
}

Tensor without_one(const Tensor& weight) {
  return narrowed(weight.to(torch::kFloat64) - 1, torch::kFloat32, torch::kFloat64);
}

}  // namespace

PublishedPart published_part(PublishedNames names, const std::string& ours) {
  static const std::string kLayers = "layers.";
  const Naming& how = naming(names);
  if (ours.starts_with(kLayers)) {
    const size_t dot = ours.find('.', kLayers.size());
    const std::string prefix = how.layers + ours.substr(kLayers.size(), dot + 1 - kLayers.size());
    PublishedPart part = renamed(how.inside, ours.substr(dot + 1));
    part.name = prefix + part.name;
    if (!part.imaginary.empty()) part.imaginary = prefix + part.imaginary;
    return part;
  }
  const auto is_of = [&](const Renaming& renaming) { return ours.starts_with(renaming.ours); };
  const bool outside = std::any_of(how.outside.begin(), how.outside.end(), is_of);
  return renamed(outside ? how.outside : how.inside, ours);
}

Tensor our_rows(const Tensor& published, const PublishedPart& part, const HeadLayout& heads) {
  const Tensor rows = rows_there(published, part, heads);
  if (part.column) return rows.unsqueeze(-1);
  const int axis = part.half_rotated;
  if (axis < 0) return rows;
  return rows.unflatten(axis, {-1, 2, heads.head_dim / 2}).transpose(axis + 1, axis + 2).flatten(axis, axis + 2);
}

void write_our_rows(const Tensor& ours, const PublishedPart& part, const HeadLayout& heads, const Tensor& published) {
  Tensor rows = rows_there(published, part, heads);
  if (part.column) {
    rows.copy_(ours.squeeze(-1));
  } else if (const int axis = part.half_rotated; axis >= 0) {
    rows.copy_(ours.unflatten(axis, {-1, heads.head_dim / 2, 2}).transpose(axis + 1, axis + 2).flatten(axis, axis + 2));
  } else {
    rows.copy_(ours);
  }
}

// ---- files ----------------------------------------------------------------------------------------------------------

void check_sizes(const io::TensorFile& file, PublishedNames names, const HeadLayout& heads, int64_t num_layers,
                 const NamedShapes& shapes) {
  check(num_layers <= std::ssize(file.tensors()), "[convert] expected {} layers, found {} tensors", num_layers,
        file.tensors().size());
  std::vector<std::string> problems;
  for (const auto& [ours, shape] : shapes) {
    const PublishedPart part = published_part(names, ours);
    problems.push_back(problem_of_parameter(file.find(part.name), part.name, published_shape(shape, part, heads)));
  }
  check_no_problems(std::move(problems));
}

std::string problem_of_tied(const io::TensorView& output, const io::TensorFile& file, const std::string& embedding) {
  const io::TensorView* view = file.find(embedding);
  if (view != nullptr && view->shape == output.shape && torch::equal(to_tensor(*view), to_tensor(output))) return "";
  return fmt::format("{}: the configuration says that it is {}, but they differ", output.name, embedding);
}

io::TensorFile our_tensors(const Model& model, PublishedNames names, const HeadLayout& heads,
                           const io::TensorFile& file, const ProblemOfSurplus& problem_of_surplus) {
  TensorCollector ours;
  std::set<std::string> used;
  std::vector<std::string> problems;
  /// With a problem noted where there is none of that shape.
  const auto find = [&](const std::string& name, const std::vector<int64_t>& shape) {
    const io::TensorView* view = file.find(name);
    if (!used.insert(name).second) return view;  // of a fused one, whose problem is noted once
    if (const std::string problem = problem_of_parameter(view, name, shape); !problem.empty())
      problems.push_back(problem);
    return view;
  };
  for (const auto& [name, parameter] : named_weights(model)) {
    const PublishedPart part = published_part(names, name);
    const std::vector<int64_t> shape = published_shape(parameter.sizes(), part, heads);
    const io::TensorView* view = find(part.name, shape);
    const io::TensorView* imaginary = part.imaginary.empty() ? nullptr : find(part.imaginary, shape);
    if (!problems.empty()) continue;  // only to be listed with the others
    if (part.is_same()) {
      io::TensorView same = *view;
      same.name = name;
      ours.add(std::move(same));
    } else if (imaginary != nullptr) {
      ours.add(name, torch::stack({to_tensor(*view), to_tensor(*imaginary)}, -1));
    } else {
      const Tensor rows = our_rows(to_tensor(*view), part, heads);
      ours.add(name, part.plus_one ? without_one(rows) : rows);
    }
  }
  for (const io::TensorView& view : file.tensors())
    if (!used.contains(view.name)) problems.push_back(problem_of_surplus(view));
  check_no_problems(std::move(problems));
  return ours.file(file);
}

io::TensorFile their_tensors(const io::TensorFile& ours, PublishedNames names, const HeadLayout& heads) {
  const torch::ScalarType matrices = to_torch(ours.find("embed.weight")->dtype);
  TensorCollector theirs;
  std::map<std::string, Tensor> wholes;
  for (const io::TensorView& view : ours.tensors()) {
    const PublishedPart part = published_part(names, view.name);
    if (part.is_same()) {
      io::TensorView same = view;
      same.name = part.name;
      theirs.add(std::move(same));
      continue;
    }
    Tensor tensor = to_tensor(view);
    if (!part.imaginary.empty()) {
      theirs.add(part.name, tensor.select(-1, 0));
      theirs.add(part.imaginary, tensor.select(-1, 1));
      continue;
    }
    if (part.plus_one) tensor = narrowed(tensor.to(torch::kFloat64) + 1, matrices, torch::kFloat32);
    Tensor& whole = wholes[part.name];  // of several of ours where it is fused
    if (!whole.defined()) {
      whole = torch::empty(published_shape(tensor.sizes(), part, heads), tensor.options());
      theirs.add(part.name, whole);
    }
    check(whole.scalar_type() == tensor.scalar_type(), "[convert] {}: expected {}, as its neighbours in {} are, got {}",
          view.name, c10::toString(whole.scalar_type()), part.name, c10::toString(tensor.scalar_type()));
    write_our_rows(tensor, part, heads, whole);
  }
  return theirs.file(ours);
}

}  // namespace megalodon
