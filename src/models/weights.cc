#include "models/weights.h"

#include <fmt/ranges.h>

#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"

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

/// Entries that published state dicts hold besides trained parameters: rotary frequencies (recomputed, as float32), the
/// priors of timestep norms (count 0 in every released configuration, which makes mean and variance irrelevant) and the
/// second name of a tied output matrix. Refuses what it cannot represent.
bool is_published_buffer(const io::TensorView& view, const io::TensorFile& file, const Model& model) {
  if (view.name == "rope.freqs" || ends_with(view.name, ".prior_mean") || ends_with(view.name, ".prior_logv"))
    return true;
  if (ends_with(view.name, ".prior_count")) {
    check(to_tensor(view).abs().sum().item<double>() == 0,
          "[weights] {}: expected a prior count of 0, which every published "
          "configuration has, got {}",
          view.name, to_tensor(view).item<int64_t>());
    return true;
  }
  if (view.name != "output.output.weight") return false;
  const bool tied = model.output_weight().is_same(model.named_parameters()["embed.weight"]);
  if (!tied) return false;
  const io::TensorView* embedding = file.find("embed.weight");
  check(embedding != nullptr && embedding->shape == view.shape && torch::equal(to_tensor(*embedding), to_tensor(view)),
        "[weights] share_emb is on, but output.output.weight differs from embed.weight");
  return true;
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

std::vector<std::pair<std::string, Tensor>> named_weights(const Model& model) {
  std::vector<std::pair<std::string, Tensor>> weights;
  for (const auto& item : model.named_parameters()) weights.emplace_back(item.key(), item.value());
  return weights;
}

void load_weights(Model& model, const io::TensorFile& file) {
  torch::NoGradGuard no_grad;
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& [name, parameter] : named_weights(model)) {
    known.insert(name);
    const io::TensorView* view = file.find(name);
    if (view == nullptr) {
      problems.push_back(fmt::format("missing {} {}", name, io::shape_text(parameter.sizes())));
    } else if (parameter.sizes() != torch::IntArrayRef(view->shape)) {
      problems.push_back(fmt::format("{}: expected shape {}, got {}", name, io::shape_text(parameter.sizes()),
                                     io::shape_text(view->shape)));
    } else if (!torch::isFloatingType(to_torch(view->dtype))) {
      problems.push_back(fmt::format("{}: expected floating-point numbers, got {}", name, io::dtype_name(view->dtype)));
    }
  }
  for (const io::TensorView& view : file.tensors())
    if (known.count(view.name) == 0 && !is_published_buffer(view, file, model))
      problems.push_back(fmt::format("surplus {} {}", view.name, io::shape_text(view.shape)));
  check(problems.empty(), "[weights] the tensors do not fit the configuration:\n  {}", fmt::join(problems, "\n  "));
  for (const auto& [name, parameter] : named_weights(model)) Tensor(parameter).copy_(to_tensor(*file.find(name)));
}

std::pair<std::unique_ptr<ModelConfig>, Json> load_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  Json tree = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  check(tree.is_object(), "[{}] expected a JSON object", path.string());
  check(tree.value("format", Json()) == "megalodon.cpp",
        "[{}] not a megalodon.cpp model folder (\"format\" is missing){}", path.string(),
        tree.contains("model") ? "; for a published checkpoint run: megalodon convert SRC DST" : "");
  check(tree.value("format_version", Json()) == 1, "[{}] expected format_version 1, got {}", path.string(),
        tree.value("format_version", Json()).dump());
  check(tree.contains("model_type") && tree["model_type"].is_string(), "[{}] model_type is missing", path.string());
  const Json tokenizer = tree.value("tokenizer", Json::object());
  auto config = make_config(tree["model_type"].get<std::string>());
  for (const char* key : {"format", "format_version", "model_type", "tokenizer"}) tree.erase(key);
  config::read(*config, tree, {}, path.string());
  config->validate();
  return {std::move(config), tokenizer};
}

fs::path model_folder(const fs::path& folder) {
  check(fs::is_directory(folder), "[{}] no such model folder", folder.string());
  const fs::path latest = folder / "checkpoints" / "latest";
  if (fs::exists(folder / "config.json") || !fs::exists(latest)) return folder;
  std::string name = read_file(latest);
  while (!name.empty() && std::isspace(static_cast<unsigned char>(name.back()))) name.pop_back();
  check(!name.empty() && name.find('/') == std::string::npos && name[0] != '.', "[{}] does not name a checkpoint",
        latest.string());
  return folder / "checkpoints" / name;
}

LoadedModel load_model(const fs::path& path) {
  const fs::path folder = model_folder(path);
  auto [config, tokenizer] = load_config(folder);
  LoadedModel loaded{config->build(), tokenizer, folder};
  load_weights(*loaded.model, io::read_safetensors(folder / "model.safetensors"));
  loaded.model->eval();
  return loaded;
}

std::string config_json(const ModelConfig& config, const Json& tokenizer) {
  Json tree = {{"format", "megalodon.cpp"}, {"format_version", 1}, {"model_type", config.architecture()}};
  const auto copy = config.clone();
  tree.update(config::write(config::Visit([&](config::Visitor& v) { copy->visit(v); })));
  tree["tokenizer"] = tokenizer;
  return tree.dump(2) + "\n";
}

void save_model(const Model& model, const Json& tokenizer, const fs::path& folder) {
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : named_weights(model)) views.push_back(to_view(name, tensor));
  io::write_safetensors(folder / "model.safetensors", views);
  write_file_atomically(folder / "config.json", config_json(model.config(), tokenizer));
}

}  // namespace megalodon
