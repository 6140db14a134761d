#include "models/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/json.h"
#include "io/bytes.h"

namespace megalodon {

using io::Dtype;
using Json = nlohmann::ordered_json;

namespace {

constexpr std::array<std::pair<Dtype, torch::ScalarType>, 11> kDtypes = {{
    {Dtype::Bool, torch::kBool},
    {Dtype::U8, torch::kUInt8},
    {Dtype::I8, torch::kInt8},
    {Dtype::I16, torch::kInt16},
    {Dtype::F16, torch::kFloat16},
    {Dtype::BF16, torch::kBFloat16},
    {Dtype::I32, torch::kInt32},
    {Dtype::F32, torch::kFloat32},
    {Dtype::I64, torch::kInt64},
    {Dtype::F64, torch::kFloat64},
    {Dtype::C64, torch::kComplexFloat},
}};

bool ends_with(std::string_view name, std::string_view suffix) {
  return name.size() >= suffix.size() && name.substr(name.size() - suffix.size()) == suffix;
}

/// Why a tensor that is no parameter cannot be left out; "" if it can. Published state dicts hold some besides: rotary
/// frequencies (recomputed, as float32), the priors of timestep norms (count 0 in every released configuration, which
/// makes mean and variance irrelevant) and the second name of a tied output matrix.
std::string problem_of_surplus(const io::TensorView& view, const io::TensorFile& file, const Model& model) {
  if (view.name == "rope.freqs" || ends_with(view.name, ".prior_mean") || ends_with(view.name, ".prior_logv"))
    return "";
  if (ends_with(view.name, ".prior_count")) {
    const bool zero = to_tensor(view).eq(0).all().item<bool>();
    return zero ? ""
                : fmt::format("{}: expected a prior count of 0, which every published configuration has", view.name);
  }
  const bool tied = model.output().weight.is_same(model.named_parameters()["embed.weight"]);
  if (view.name != "output.output.weight" || !tied)
    return fmt::format("surplus {} {}", view.name, io::shape_text(view.shape));
  const io::TensorView* embedding = file.find("embed.weight");
  if (embedding != nullptr && embedding->shape == view.shape && torch::equal(to_tensor(*embedding), to_tensor(view)))
    return "";
  return "share_emb is on, but output.output.weight differs from embed.weight";
}

bool is_floating(Dtype dtype) {
  constexpr std::array kFloating = {Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F64};
  return std::find(kFloating.begin(), kFloating.end(), dtype) != kFloating.end();
}

/// Why the file's tensor (null: there is none) has another shape; "" if it has not.
std::string problem_of_tensor(const io::TensorView* view, const std::string& name, torch::IntArrayRef shape) {
  if (view == nullptr) return fmt::format("missing {} {}", name, io::shape_text(shape));
  if (shape != torch::IntArrayRef(view->shape))
    return fmt::format("{}: expected shape {}, got {}", name, io::shape_text(shape), io::shape_text(view->shape));
  return "";
}

/// Of a checkpoint's files, those that loading its model reads: all but what only resuming needs and is large.
bool is_of_model(const std::string& name) {
  return name.find('/') == std::string::npos && (name.starts_with("model") || !name.ends_with(".safetensors"));
}

}  // namespace

torch::ScalarType to_torch(Dtype dtype) {
  for (const auto& [ours, torchs] : kDtypes)
    if (ours == dtype) return torchs;
  fail("[weights] tensors of dtype {} have no counterpart in libtorch", io::dtype_name(dtype));
}

Dtype from_torch(torch::ScalarType dtype) {
  for (const auto& [ours, torchs] : kDtypes)
    if (torchs == dtype) return ours;
  fail("[weights] tensors of dtype {} cannot be stored", c10::toString(dtype));
}

Tensor to_tensor(const io::TensorView& view) {
  Tensor tensor = torch::empty(view.shape, to_torch(view.dtype));
  // Bytes of a file may lie at any alignment, so they are copied, never cast in place.
  if (!view.bytes.empty()) std::memcpy(tensor.data_ptr(), view.bytes.data(), view.bytes.size());
  return tensor;
}

io::TensorView to_view(const std::string& name, const Tensor& tensor) {
  check(tensor.is_contiguous() && tensor.device().is_cpu(), "[weights] {}: expected a contiguous CPU tensor", name);
  const auto bytes = static_cast<size_t>(tensor.numel()) * tensor.element_size();
  return {name,
          from_torch(tensor.scalar_type()),
          tensor.sizes().vec(),
          {static_cast<const std::byte*>(tensor.data_ptr()), bytes}};
}

NamedTensors named_weights(const torch::nn::Module& model) {
  NamedTensors weights;
  for (const auto& item : model.named_parameters()) weights.emplace_back(item.key(), item.value());
  return weights;
}

NamedTensors named_state(const torch::nn::Module& model) {
  NamedTensors tensors = named_weights(model);
  for (const auto& item : model.named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

std::string problem_of_parameter(const io::TensorView* view, const std::string& name, torch::IntArrayRef shape) {
  std::string problem = problem_of_tensor(view, name, shape);
  if (problem.empty() && !is_floating(view->dtype))
    problem = fmt::format("{}: expected floating-point numbers, got {}", name, io::dtype_name(view->dtype));
  return problem;
}

void check_no_problems(std::vector<std::string> problems) {
  std::erase(problems, "");
  check(problems.empty(), "[weights] the tensors do not fit the configuration:\n  {}", fmt::join(problems, "\n  "));
}

void check_weights(const Model& model, const io::TensorFile& file) {
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& [name, parameter] : named_weights(model)) {
    known.insert(name);
    problems.push_back(problem_of_parameter(file.find(name), name, parameter.sizes()));
  }
  for (const io::TensorView& view : file.tensors())
    if (known.count(view.name) == 0) problems.push_back(problem_of_surplus(view, file, model));
  check_no_problems(std::move(problems));
}

void load_weights(Model& model, const io::TensorFile& file) {
  torch::NoGradGuard no_grad;
  check_weights(model, file);
  for (const auto& [name, parameter] : named_weights(model)) Tensor(parameter).copy_(to_tensor(*file.find(name)));
}

void load_state(torch::nn::Module& model, const io::TensorFile& file) {
  torch::NoGradGuard no_grad;
  const NamedTensors state = named_state(model);
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& [name, tensor] : state) {
    known.insert(name);
    const io::TensorView* view = file.find(name);
    std::string problem = problem_of_tensor(view, name, tensor.sizes());
    if (problem.empty() && tensor.is_floating_point() != is_floating(view->dtype))
      problem = fmt::format("{}: expected {}, got {}", name, io::dtype_name(from_torch(tensor.scalar_type())),
                            io::dtype_name(view->dtype));
    problems.push_back(std::move(problem));
  }
  for (const io::TensorView& view : file.tensors())
    if (known.count(view.name) == 0)
      problems.push_back(fmt::format("surplus {} {}", view.name, io::shape_text(view.shape)));
  check_no_problems(std::move(problems));
  for (const auto& [name, tensor] : state) Tensor(tensor).copy_(to_tensor(*file.find(name)));
}

/// "matrices" of config.json.
std::optional<ops::FixedType> stored_type(const Json& tree, const std::string& path) {
  if (!tree.contains("matrices")) return {};
  const Json& name = tree["matrices"];
  check(name == "bfloat16" || name == "q8" || name == "q4",
        "[{}] matrices: expected \"bfloat16\", \"q8\" or \"q4\", got {}", path, name.dump());
  return ops::fixed_type(name.get<std::string>());
}

Json read_config_json(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  Json tree = parse_json<Json>(read_file(path), path.string());
  check(tree.is_object(), "[{}] expected a JSON object", path.string());
  check(tree.value("format", Json()) == "megalodon.cpp",
        "[{}] not a megalodon.cpp model folder (\"format\" is missing){}", path.string(),
        tree.contains("model") ? "; for a published checkpoint run: megalodon convert SRC DST" : "");
  check(tree.value("format_version", Json()) == 1, "[{}] expected format_version 1, got {}", path.string(),
        tree.value("format_version", Json()).dump());
  check(tree.contains("model_type") && tree["model_type"].is_string(), "[{}] model_type is missing", path.string());
  return tree;
}

FolderConfig load_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  Json tree = read_config_json(folder);
  check(tree["model_type"] != kClassifierType,
        "[{}] holds a classifier, which knows no text to continue: megalodon eval classify takes it", folder.string());
  const Json tokenizer = tree.value("tokenizer", Json::object());
  auto config = make_config(tree["model_type"].get<std::string>());
  const auto matrices = stored_type(tree, path.string());
  for (const char* key : {"format", "format_version", "model_type", "tokenizer", "matrices"}) tree.erase(key);
  config::read(*config, tree, {}, path.string());
  io::with_context(fmt::format("[{}]", path.string()), [&] { config->validate(); });
  return {std::move(config), tokenizer, matrices};
}

void refuse_quantized(const fs::path& folder, const FolderConfig& config) {
  if (config.matrices)
    fail(
        "[{}] expected a folder with the weights themselves, found matrices stored as {}; take the folder that it was "
        "quantized from",
        folder.string(), ops::name_of(*config.matrices));
}

fs::path model_folder(const fs::path& folder) {
  check(fs::is_directory(folder), "[{}] {}", folder.string(),
        fs::exists(folder) ? "expected a model folder, got a file" : "no such model folder");
  const fs::path latest = folder / "checkpoints" / "latest";
  if (fs::exists(folder / "config.json")) return folder;
  check(fs::exists(latest),
        "[{}] expected a model folder (with config.json) or a run folder with a checkpoint (checkpoints/latest)",
        folder.string());
  std::string name = read_file(latest);
  while (!name.empty() && std::isspace(static_cast<unsigned char>(name.back()))) name.pop_back();
  check(!name.empty() && name.find('/') == std::string::npos && name[0] != '.', "[{}] does not name a checkpoint",
        latest.string());
  return folder / "checkpoints" / name;
}

std::string folder_identity(const fs::path& folder) {
  try {
    return read_file(folder / kManifestName);
  } catch (const Error&) {
    return "";
  }
}

void verify_model(const fs::path& folder) {
  if (fs::exists(folder / kManifestName)) verify_manifest(folder, is_of_model);
}

LoadedModel load_model(const fs::path& path) {
  return with_model_folder(path, [](const fs::path& folder) {
    verify_model(folder);
    const FolderConfig config = load_config(folder);
    refuse_quantized(folder, config);
    LoadedModel loaded{config.model->build(), config.tokenizer};
    io::with_context(fmt::format("[{}]", folder.string()),
                     [&] { load_weights(*loaded.model, io::read_tensors(folder, "model")); });
    loaded.model->eval();
    return loaded;
  });
}

config::Tree fields_of(const ModelConfig& config) {
  const auto copy = config.clone();
  return config::write(config::Visit([&](config::Visitor& v) { copy->visit(v); }));
}

std::string config_json(const ModelConfig& config, const Json& tokenizer, std::optional<ops::FixedType> matrices) {
  Json tree = {{"format", "megalodon.cpp"}, {"format_version", 1}, {"model_type", config.architecture()}};
  tree.update(fields_of(config));
  tree["tokenizer"] = tokenizer;
  if (matrices) tree["matrices"] = ops::name_of(*matrices);
  return tree.dump(2) + "\n";
}

FolderParts model_parts(const ModelConfig& config, NamedTensors weights, const Json& tokenizer) {
  return {{{"model", std::move(weights)}}, {{"config.json", config_json(config, tokenizer)}}};
}

void save_model(const Model& model, const Json& tokenizer, const fs::path& folder) {
  write_parts(model_parts(model.config(), named_weights(model), tokenizer), folder);
}

}  // namespace megalodon
