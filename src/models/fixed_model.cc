#include "models/fixed_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "io/bytes.h"

namespace megalodon {

using io::Dtype;
using ops::FixedMatrix;
using ops::FixedType;

namespace {

using FilePtr = std::shared_ptr<const io::TensorFile>;

FilePtr read_model_file(const fs::path& folder) {
  return std::make_shared<const io::TensorFile>(io::read_tensors(folder, "model"));
}

/// The tensor where it lies in the file, which lives as long; a copy where it does not lie as processors read it.
Tensor in_place(const FilePtr& file, const io::TensorView& view) {
  const size_t alignment = std::max(io::dtype_size(view.dtype), size_t{4});  // what fixed matrices need
  if (view.bytes.empty() || reinterpret_cast<uintptr_t>(view.bytes.data()) % alignment != 0) return to_tensor(view);
  return torch::from_blob(
      const_cast<std::byte*>(view.bytes.data()), view.shape, [file](void*) {}, to_torch(view.dtype));
}

/// A linear layer, and the name of its weight.
struct Matrix {
  std::string weight;
  nn::Linear* linear;

  int64_t outputs() const { return linear->weight.size(0); }
  int64_t inputs() const { return linear->weight.size(1); }
  std::string stored_name(FixedType type) const { return fmt::format("{}.{}", weight, ops::name_of(type)); }
};

std::vector<Matrix> matrices_of(Model& model) {
  const NamedTensors weights = named_weights(model);
  std::vector<Matrix> matrices;
  for (nn::Linear* linear : model.linears()) {
    const auto found = std::find_if(weights.begin(), weights.end(),
                                    [&](const auto& weight) { return weight.second.is_same(linear->weight); });
    check(found != weights.end(), "[fixed_model] a linear layer's weight is no parameter of the model");
    matrices.push_back({found->first, linear});
  }
  return matrices;
}

/// The parameters that are not linear layers' weights alone.
NamedTensors other_weights(Model& model) {
  NamedTensors others = named_weights(model);
  for (const Matrix& matrix : matrices_of(model))
    if (!matrix.linear->shared())
      std::erase_if(others, [&](const auto& other) { return other.first == matrix.weight; });
  return others;
}

// ---- the stored form ------------------------------------------------------------------------------------------------

std::vector<int64_t> stored_shape(FixedType type, int64_t outputs, int64_t inputs) {
  const ops::FixedView view = {type, outputs, inputs, nullptr};
  const ops::FixedLayout layout = ops::fixed_layout(type);
  if (type != FixedType::kBfloat16) return {view.blocks(), view.records(), layout.record_bytes};
  return {view.blocks(), view.records(), layout.record_inputs / 2, layout.block_rows, 2};
}

Dtype stored_dtype(FixedType type) {
  return type == FixedType::kBfloat16 ? Dtype::BF16 : Dtype::U8;
}

Tensor stored_form(const FixedMatrix& matrix) {
  return matrix.bytes()
      .view(to_torch(stored_dtype(matrix.type())))
      .view(stored_shape(matrix.type(), matrix.outputs(), matrix.inputs()));
}

/// Why the file's tensor cannot be that matrix; "" if it can.
std::string problem_of_matrix(const io::TensorFile& file, const Matrix& matrix, FixedType type) {
  const std::string name = matrix.stored_name(type);
  const io::TensorView* view = file.find(name);
  const auto text = [](Dtype dtype, std::span<const int64_t> shape) {
    return fmt::format("{} {}", io::dtype_name(dtype), io::shape_text(shape));
  };
  const std::string expected = text(stored_dtype(type), stored_shape(type, matrix.outputs(), matrix.inputs()));
  if (view == nullptr) return fmt::format("missing {} {}", name, expected);
  const std::string found = text(view->dtype, view->shape);
  return found == expected ? "" : fmt::format("{}: expected {}, got {}", name, expected, found);
}

void check_stored(Model& model, FixedType type, const io::TensorFile& file) {
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& [name, parameter] : other_weights(model)) {
    known.insert(name);
    problems.push_back(problem_of_parameter(file.find(name), name, parameter.sizes()));
  }
  for (const Matrix& matrix : matrices_of(model)) {
    known.insert(matrix.stored_name(type));
    problems.push_back(problem_of_matrix(file, matrix, type));
  }
  for (const io::TensorView& view : file.tensors())
    if (known.count(view.name) == 0)
      problems.push_back(fmt::format("surplus {} {}", view.name, io::shape_text(view.shape)));
  check_no_problems(problems);
}

FixedMatrix stored_matrix(const FilePtr& file, const Matrix& matrix, FixedType type) {
  const std::string name = matrix.stored_name(type);
  const Tensor bytes = in_place(file, *file->find(name)).view({-1}).view(torch::kUInt8);
  FixedMatrix stored(type, matrix.outputs(), matrix.inputs(), bytes);
  check(ops::is_finite(stored), "[weights] {}: the {} are not all finite", name,
        type == FixedType::kBfloat16 ? "weights" : "scales");
  return stored;
}

// ---- loading --------------------------------------------------------------------------------------------------------

/// What a matrix is made of: float32 or bfloat16.
Tensor source_of(const FilePtr& file, const std::string& name) {
  const Tensor weight = in_place(file, *file->find(name));
  return weight.scalar_type() == torch::kBFloat16 ? weight : weight.to(torch::kFloat32);
}

void fix_matrices(Model& model, const FilePtr& file, std::optional<FixedType> stored, FixedType type,
                  torch::Device device) {
  for (const Matrix& matrix : matrices_of(model)) {
    const FixedMatrix fixed =
        stored ? stored_matrix(file, matrix, type) : ops::fix_matrix(source_of(file, matrix.weight), type);
    matrix.linear->fix(fixed.to(device));
  }
}

void place_others(Model& model, const FilePtr& file, torch::Device device) {
  for (auto& [name, parameter] : other_weights(model))
    Tensor(parameter).set_data(in_place(file, *file->find(name)).to(device, torch::kFloat32));
}

void check_weights_of(const fs::path& folder, const Model& model, const io::TensorFile& file) {
  io::with_context(fmt::format("[{}]", folder.string()), [&] { check_weights(model, file); });
}

void check_type(const fs::path& folder, std::optional<FixedType> stored, std::optional<FixedType> type) {
  if (stored && type && *stored != *type)
    fail_usage(
        "[--type] the matrices of '{}' are stored as {}, which is its --type; got {}: quantize the folder that it "
        "was made from",
        folder.string(), ops::name_of(*stored), ops::name_of(*type));
}

LoadedModel load(const fs::path& folder, std::optional<FixedType> type, torch::Device device) {
  const std::string identity = folder_identity(folder);
  verify_model(folder);
  const FolderConfig config = load_config(folder);
  check_type(folder, config.matrices, type);
  LoadedModel loaded{config.model->build(), config.tokenizer};
  Model& model = *loaded.model;
  const torch::NoGradGuard no_grad;
  model.eval();
  for (Tensor& parameter : model.parameters()) parameter.requires_grad_(false);
  const FilePtr file = read_model_file(folder);
  if (config.matrices)
    check_stored(model, *config.matrices, *file);
  else
    check_weights_of(folder, model, *file);
  // Where matrices are copies, a mapping of their own takes what was read for them out of memory with it.
  fix_matrices(model, config.matrices ? file : read_model_file(folder), config.matrices,
               config.matrices.value_or(type.value_or(FixedType::kFloat32)), device);
  place_others(model, file, device);
  check(folder_identity(folder) == identity, "[{}] was replaced while it was read", folder.string());
  return loaded;
}

}  // namespace

LoadedModel load_fixed_model(const fs::path& path, std::optional<FixedType> type, torch::Device device) {
  return with_model_folder(path, [&](const fs::path& folder) { return load(folder, type, device); });
}

std::string type_of_matrices(const fs::path& folder) {
  const FolderConfig config = load_config(folder);
  if (config.matrices) return ops::name_of(*config.matrices);
  const auto model = config.model->build();
  const FilePtr file = read_model_file(folder);
  check_weights_of(folder, *model, *file);
  std::set<std::string> types;
  for (const Matrix& matrix : matrices_of(*model)) types.insert(io::dtype_name(file->find(matrix.weight)->dtype));
  return types.size() == 1 ? *types.begin() : "mixed";
}

FolderParts fixed_model_parts(Model& model, const nlohmann::ordered_json& tokenizer) {
  const FixedType type = model.output().packed->fixed().type();
  check(model.output().packed->fixed().defined() && type != FixedType::kFloat32,
        "[fixed_model] expected a model whose matrices are bfloat16, q8 or q4");
  NamedTensors tensors;
  for (const auto& [name, weight] : other_weights(model))
    tensors.emplace_back(name, weight.detach().to(torch::kFloat32).contiguous());
  for (const Matrix& matrix : matrices_of(model))
    tensors.emplace_back(matrix.stored_name(type), stored_form(matrix.linear->packed->fixed()));
  return {{{"model", std::move(tensors)}}, {{"config.json", config_json(model.config(), tokenizer, type)}}};
}

}  // namespace megalodon
