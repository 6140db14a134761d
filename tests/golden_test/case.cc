#include "case.h"

#include <algorithm>

#include "base/check.h"
#include "models/weights.h"

namespace megalodon::golden {
namespace {

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.rfind(prefix, 0) == 0;
}

/// Between two float64 computations of one formula; the cases come within 3e-14.
constexpr double kDouble = 1e-11;

/// The data are of float32. Products of numbers of 8 bits, several layers of them, come this near; worse is an error.
constexpr double kOutputsInBfloat16 = 3e-2, kGradientsInBfloat16 = 1e-1;

/// What the data measured between its own float32 and float64 runs; 0 where it did not.
double measured(const Json& json, const char* what) {
  const Json::json_pointer pointer(std::string("/float32_vs_float64/") + what + "/max_rel");
  return json.contains(pointer) && json.at(pointer).is_number() ? json.at(pointer).get<double>() : 0.0;
}

fs::path with_extension(fs::path stem, const char* extension) {
  return stem += extension;
}

void check_tensors_as_described(const Json& json, const io::TensorFile& file) {
  const Json& described = json.at("tensors");
  for (const auto& [name, entry] : described.items()) {
    const io::TensorView* view = file.find(name);
    check(view != nullptr, "[golden] the JSON describes {}, which the tensor file does not hold", name);
    const auto shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto dtype = entry.at("dtype").get<std::string>();
    check(view->shape == shape && dtype == io::dtype_name(view->dtype), "[golden] {} is {} {}, described as {} {}",
          name, io::dtype_name(view->dtype), io::shape_text(view->shape), dtype, io::shape_text(shape));
  }
  for (const auto& view : file.tensors())
    check(described.contains(view.name), "[golden] the tensor file holds {}, which the JSON does not describe",
          view.name);
}

}  // namespace

Target& target() {
  static Target chosen;
  return chosen;
}

Json read_json(const fs::path& path) {
  const std::string text = read_file(path);
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    fail("[golden] {} is not JSON: {}", path.string(), e.what());
  }
}

Case::Case(const fs::path& stem)
    : json_(read_json(with_extension(stem, ".json"))),
      file_(io::read_safetensors(with_extension(stem, ".safetensors"))) {
  if (json_.contains("tensors")) check_tensors_as_described(json_, file_);
}

std::string Case::kind() const {
  if (json_.contains("kind")) return json_.at("kind").get<std::string>();
  const auto op = config().at("op").get<std::string>();
  const bool mega = json_.value("family", "") == "mega" && !starts_with(op, "mega_");
  return mega ? "mega_" + op : op;
}

bool Case::has_prefix(const std::string& prefix) const {
  return std::any_of(file_.tensors().begin(), file_.tensors().end(),
                     [&](const io::TensorView& view) { return starts_with(view.name, prefix); });
}

Tensor Case::tensor(const std::string& name) const {
  const io::TensorView* view = file_.find(name);
  check(view != nullptr, "[golden] the case has no tensor {}", name);
  return to_tensor(*view);
}

io::TensorFile Case::parameters() const {
  static const std::string kPrefix = "param.";
  std::vector<io::TensorView> views;
  for (io::TensorView view : file_.tensors()) {
    if (!starts_with(view.name, kPrefix)) continue;
    view.name.erase(0, kPrefix.size());
    views.push_back(std::move(view));
  }
  return {std::move(views), {}, {}};
}

Tolerance Case::output_tolerance(bool is_double) const {
  if (is_double) return {kDouble};
  if (target().precision == nn::Precision::kBfloat16) return {kOutputsInBfloat16};
  return {std::max(1e-5, measured(json_, "outputs"))};
}

Tolerance Case::gradient_tolerance(bool is_double) const {
  // A gradient that cancels to zero, or nearly (the key's offset beta under a softmax over one key), keeps the rounding
  // error of its terms, which are as large as the case's other gradients: one unit in the last place of the largest.
  double largest = 0;
  for (const auto& view : file_.tensors())
    if (starts_with(view.name, is_double ? "grad64." : "grad.") && !view.bytes.empty())
      largest = std::max(largest, to_tensor(view).abs().max().item<double>());
  if (is_double) return {kDouble, 0x1p-52 * largest};
  if (target().precision == nn::Precision::kBfloat16) return {kGradientsInBfloat16, 0x1p-8 * largest};
  return {std::max(5e-5, measured(json_, "gradients")), 0x1p-23 * largest};
}

Tolerance Case::widened(Tolerance tolerance, const std::string& name) const {
  // An error of one run is a sample; another order of the same operations draws another.
  constexpr double kFew = 4;
  const Json::json_pointer pointer("/f32_reference_error/" + name + "/max_abs_err");
  if (json_.contains(pointer))
    tolerance.absolute = std::max(tolerance.absolute, kFew * json_.at(pointer).get<double>());
  return tolerance;
}

void Case::check_all_compared(Comparer& comparer, const std::vector<std::string>& results) const {
  for (const auto& view : file_.tensors()) {
    const bool result = std::any_of(results.begin(), results.end(), [&](auto p) { return starts_with(view.name, p); });
    if (result && !comparer.compared(view.name)) comparer.fail(view.name + " was not compared with anything");
  }
  if (comparer.count() == 0) comparer.fail("nothing was compared");
}

Tensor Pass::get(const std::string& name) const {
  const Tensor tensor = source_.tensor(name).to(target().device);
  return tensor.is_floating_point() ? tensor.to(dtype_) : tensor;
}

Tensor Pass::find(const std::string& name) const {
  return source_.has(name) ? get(name) : Tensor();
}

Tensor Pass::leaf(const std::string& name) {
  const Tensor tensor = get(name).set_requires_grad(true);
  leaves_.emplace_back(starts_with(name, "param.") ? name.substr(6) : name, tensor);
  return tensor;
}

Tensor Pass::find_leaf(const std::string& name) {
  return source_.has(name) ? leaf(name) : Tensor();
}

void Pass::leaves(const std::vector<std::pair<std::string, Tensor>>& parameters) {
  leaves_.insert(leaves_.end(), parameters.begin(), parameters.end());
}

void Pass::output(const std::string& name, const Tensor& got) {
  const std::string single = "out." + name, wide = "out64." + name;
  if (source_.has(single) && !source_.tensor(single).is_floating_point())
    comparer_.equal(single, got, source_.tensor(single));
  else if (source_.has(is_double() ? wide : single))
    comparer_.near(is_double() ? wide : single, got, source_.tensor(is_double() ? wide : single),
                   source_.widened(source_.output_tolerance(is_double()), single));
  const Tensor cotangent = find(source_.has("in.d" + name) ? "in.d" + name : "in.cotangent." + name);
  if (!cotangent.defined() || !got.defined()) return;
  const Tensor term = (got * cotangent).sum();
  loss_ = loss_.defined() ? loss_ + term : term;
}

void Pass::finish(Tensor loss) {
  const std::string prefix = is_double() ? "grad64." : "grad.";
  if (!loss.defined()) loss = loss_;
  if (!loss.defined() || !source_.has_prefix(prefix)) return;
  loss.backward();
  const Tolerance tolerance = source_.gradient_tolerance(is_double());
  for (const auto& [key, leaf] : leaves_) {
    if (!source_.has(prefix + key)) continue;
    const Tensor gradient = leaf.grad().defined() ? leaf.grad() : torch::zeros_like(leaf);
    comparer_.near(prefix + key, gradient, source_.tensor(prefix + key), source_.widened(tolerance, prefix + key));
  }
}

void read_config(ModelConfig& config, const Json& json, const std::string& source) {
  // What describes the case, and two switches of the published code that change memory but no number.
  static const std::set<std::string> kNotHyperparameters = {"batch",           "length",         "cached",
                                                            "rescale_init",    "efficient_attn", "layerwise_ckpt",
                                                            "chunks_per_call", "window_chunks",  "truncate_from_chunks",
                                                            "max_gen_len",     "prompt_lengths", "steps",
                                                            "total_steps",     "optimizer"};
  Json kept = Json::object();
  for (const auto& [key, value] : json.items())
    if (kNotHyperparameters.count(key) == 0) kept[key] = value;
  config::read(config, kept, {}, source);
}

MegalodonConfig read_config(const Json& json, const std::string& source) {
  MegalodonConfig config;
  read_config(config, json, source);
  return config;
}

}  // namespace megalodon::golden
