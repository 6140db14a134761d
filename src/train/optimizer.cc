#include "train/optimizer.h"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <sstream>

#include "base/check.h"
#include "models/weights.h"
#include "ops/adamw/adamw.h"

namespace megalodon {
namespace {

constexpr double kClipEps = 1e-6;  // of the published clipping: factor = clip / (norm + 1e-6)

/// True matrices only. Megalodon's [2,Z] affines, [D,N,1] EMA coefficients and [D,1] skips are tables of per-feature
/// scales: pulling those towards zero changes the function instead of regularizing it.
bool is_matrix(const std::string& name, const Tensor& parameter) {
  constexpr std::string_view kSuffix = ".weight";
  return parameter.dim() == 2 && parameter.size(0) > 2 && parameter.size(1) > 2 && name.size() > kSuffix.size() &&
         std::string_view(name).substr(name.size() - kSuffix.size()) == kSuffix;
}

/// A pattern that the author of one without matches may have meant; "" where none is near.
std::string near_pattern(const std::string& pattern, const std::vector<std::string>& names) {
  std::vector<std::string> candidates = names;
  for (const std::string& name : names)
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1))
      candidates.push_back("*" + name.substr(dot));
  const size_t star = pattern.rfind('*');
  return config::nearest(star == std::string::npos ? pattern : pattern.substr(star), candidates);
}

[[noreturn]] void refuse_empty(const ParameterGroup& group, const std::vector<std::string>& names) {
  if (std::any_of(names.begin(), names.end(), [&](const std::string& name) { return group.matches(name); }))
    fail_usage("[optim.groups] '{}' changes nothing: groups before it have all of its parameters", group.pattern);
  const std::string near = near_pattern(group.pattern, names);
  fail_usage("[optim.groups] '{}' matches no parameter; {}", group.pattern,
             near.empty() ? fmt::format("one is '{}'", names.front()) : fmt::format("did you mean '{}'?", near));
}

/// Why the file's tensor cannot fill `moment`; "" if it can.
std::string mismatch(const io::TensorView* view, const std::string& name, const Tensor& moment) {
  if (view == nullptr) return fmt::format("missing {}", name);
  if (view->dtype != io::Dtype::F32) return fmt::format("{} is {}, not F32", name, io::dtype_name(view->dtype));
  if (moment.sizes() != torch::IntArrayRef(view->shape))
    return fmt::format("{} has shape {}, expected {}", name, io::shape_text(view->shape),
                       io::shape_text(moment.sizes()));
  return "";
}

}  // namespace

void OptimizerConfig::visit(config::Visitor& v) {
  v.field("lr", lr, "peak learning rate");
  v.field("beta1", beta1, "decay of AdamW's average of gradients");
  v.field("beta2", beta2, "decay of AdamW's average of squared gradients");
  v.field("eps", eps, "added to the root of the second moment");
  v.field("eps_uncorrected", eps_uncorrected,
          "add eps before the bias of the second moment is corrected, as Mega's optimizer does");
  v.field("weight_decay", weight_decay, "decoupled weight decay, times the learning rate");
  v.field("decay_all", decay_all, "decay every parameter, as the published optimizer does, instead of matrices alone");
  v.field("clip", clip, "largest global norm of the gradient; 0: no clipping");
  v.field("groups", groups,
          "parameters updated otherwise, each \"PATTERN key=value ...\": names with * for any text, the first that "
          "matches counts; keys: lr, times the run's rate, and weight_decay, instead of the run's");
}

void OptimizerConfig::validate() const {
  if (!(lr > 0)) fail_usage("[optim.lr] expected a number above 0, got {}", lr);
  if (!(beta1 >= 0 && beta1 < 1)) fail_usage("[optim.beta1] expected a number in [0, 1), got {}", beta1);
  if (!(beta2 >= 0 && beta2 < 1)) fail_usage("[optim.beta2] expected a number in [0, 1), got {}", beta2);
  if (!(eps > 0)) fail_usage("[optim.eps] expected a number above 0, got {}", eps);
  if (!(weight_decay >= 0)) fail_usage("[optim.weight_decay] expected 0 or more, got {}", weight_decay);
  if (!(clip >= 0)) fail_usage("[optim.clip] expected 0 (off) or more, got {}", clip);
  for (const std::string& group : groups) parse_group(group);
}

bool ParameterGroup::matches(const std::string& name) const {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

void ParameterGroup::visit(config::Visitor& v) {
  v.field("lr", lr, "times the run's rate");
  v.field("weight_decay", weight_decay, "instead of the run's");
}

ParameterGroup parse_group(const std::string& text) {
  std::istringstream words(text);
  ParameterGroup group;
  std::string keys;
  words >> group.pattern;
  for (std::string word; words >> word;) keys += word + "\n";
  if (keys.empty())
    fail_usage("[optim.groups] expected a pattern of names and what it sets, as in \"*.bias lr=0.1\", got \"{}\"",
               text);
  const std::string source = fmt::format("optim.groups \"{}\"", text);
  const config::Tree tree = config::parse_toml(keys, source);
  config::read(group, tree, {}, source);
  if (!(group.lr >= 0)) fail_usage("lr in {} must be 0 or more, got {}", source, group.lr);
  if (tree.contains("weight_decay") && !(group.weight_decay >= 0))
    fail_usage("weight_decay in {} must be 0 or more, got {}", source, group.weight_decay);
  return group;
}

AdamW::AdamW(std::vector<std::pair<std::string, Tensor>> parameters, const OptimizerConfig& config) : config_(config) {
  std::vector<ParameterGroup> groups;
  for (const std::string& text : config.groups) groups.push_back(parse_group(text));
  std::set<const ParameterGroup*> used;
  std::vector<std::string> names;
  for (auto& [name, parameter] : parameters) {
    double decay = config.decay_all || is_matrix(name, parameter) ? config.weight_decay : 0, lr = 1;
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.matches(name); });
    if (group != groups.end()) {
      used.insert(&*group);
      lr = group->lr;
      if (group->weight_decay >= 0) decay = group->weight_decay;
    }
    names.push_back(name);
    slots_.push_back({name, parameter, torch::zeros_like(parameter), torch::zeros_like(parameter), decay, lr});
  }
  for (const ParameterGroup& group : groups)
    if (used.count(&group) == 0) refuse_empty(group, names);
}

double AdamW::gradient_norm() const {
  std::vector<Tensor> gradients;
  for (const Slot& slot : slots_)
    if (slot.parameter.grad().defined()) gradients.push_back(slot.parameter.grad());
  return std::sqrt(ops::sum_of_squares(gradients));
}

void AdamW::step(double lr, double norm) {
  torch::NoGradGuard no_grad;
  ++updates_;
  const double factor = config_.clip > 0 ? std::min(1.0, config_.clip / (norm + kClipEps)) : 1.0;
  std::map<double, std::vector<ops::AdamWTensors>> of_rate;
  for (const Slot& slot : slots_)
    if (slot.parameter.grad().defined())  // else it took no part in the loss
      of_rate[slot.lr].push_back({slot.parameter, slot.parameter.grad(), slot.exp_avg, slot.exp_avg_sq, slot.decay});
  // m̂ / (√v̂ + ε/s) = s m̂ / (√v + ε) with s = √(1 − β2^t).
  const double correction = std::sqrt(1 - std::pow(config_.beta2, static_cast<double>(updates_)));
  const double eps = config_.eps_uncorrected ? config_.eps / correction : config_.eps;
  for (const auto& [multiple, list] : of_rate)
    ops::adamw(list, {lr * multiple, config_.beta1, config_.beta2, eps, updates_, factor});
}

void AdamW::zero_grad() {
  // Dropped, not filled: the next backward pass then hands over its own buffers instead of adding to zeros.
  for (const Slot& slot : slots_) slot.parameter.mutable_grad() = Tensor();
}

std::vector<std::pair<std::string, Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Slot& slot : slots_) {
    tensors.emplace_back("exp_avg." + slot.name, slot.exp_avg);
    tensors.emplace_back("exp_avg_sq." + slot.name, slot.exp_avg_sq);
  }
  return tensors;
}

void AdamW::load_state(const io::TensorFile& file, int64_t updates) {
  const auto tensors = state();
  std::vector<std::string> problems;
  for (const auto& [name, moment] : tensors)
    if (std::string problem = mismatch(file.find(name), name, moment); !problem.empty())
      problems.push_back(std::move(problem));
  std::set<std::string> known;
  for (const auto& [name, moment] : tensors) known.insert(name);
  for (const io::TensorView& view : file.tensors())
    if (known.count(view.name) == 0) problems.push_back(fmt::format("surplus {}", view.name));
  check(problems.empty(), "[optimizer] the saved state does not fit the model: {}", fmt::join(problems, "; "));
  for (const auto& [name, moment] : tensors) Tensor(moment).copy_(to_tensor(*file.find(name)));
  updates_ = updates;
}

}  // namespace megalodon
