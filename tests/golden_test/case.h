// A case is a pair <name>.json + <name>.safetensors: parameters and inputs (param.*, in.*) and what they must give
// (out.*, grad.*, and the same in float64: out64.*, grad64.*). A Pass is one run of a case in one floating-point width.
#pragma once

#include <nlohmann/json.hpp>
#include <utility>

#include "comparer.h"
#include "io/tensor_file.h"
#include "models/megalodon.h"

namespace megalodon::golden {

using Json = nlohmann::ordered_json;

/// What this run computes on and in, by --device and --precision.
struct Target {
  torch::Device device = torch::kCPU;
  nn::Precision precision = nn::Precision::kFloat32;
};
Target& target();

/// Throws Error that names the file.
Json read_json(const fs::path& path);

class Case {
 public:
  /// `stem` is the path without extension. Throws when the pair is damaged or the two files do not describe the same
  /// tensors.
  explicit Case(const fs::path& stem);

  /// What selects the function that runs the case: "kind", or "op" of the configuration, which begins
  /// with mega_ in the family of Mega.
  std::string kind() const;
  const Json& json() const { return json_; }
  const Json& config() const { return json_.at("config"); }
  const io::TensorFile& file() const { return file_; }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  bool has_prefix(const std::string& prefix) const;
  /// A copy in the dtype of the file. Throws when there is none of that name.
  Tensor tensor(const std::string& name) const;
  /// The state dict of the case: the param.* tensors without the prefix. Views into the case, which must outlive it.
  io::TensorFile parameters() const;

  Tolerance output_tolerance(bool is_double = false) const;
  Tolerance gradient_tolerance(bool is_double = false) const;
  /// The same, wider where the data measured for this tensor that float32 is not that exact.
  Tolerance widened(Tolerance tolerance, const std::string& name) const;
  /// Results in the file (out.*, grad.*, …) that `comparer` has not seen fail the case: nothing is silently ignored.
  void check_all_compared(Comparer& comparer,
                          const std::vector<std::string>& results = {"out.", "out64.", "grad.", "grad64."}) const;

 private:
  Json json_;
  io::TensorFile file_;
};

class Pass {
 public:
  Pass(const Case& source, Comparer& comparer, torch::ScalarType dtype)
      : source_(source), comparer_(comparer), dtype_(dtype) {}

  const Case& source() const { return source_; }
  Comparer& comparer() const { return comparer_; }
  torch::ScalarType dtype() const { return dtype_; }
  bool is_double() const { return dtype_ == torch::kFloat64; }

  /// The tensor, in this pass's width if it is floating point. Throws when the file has none.
  Tensor get(const std::string& name) const;
  /// The same, undefined when the file has none.
  Tensor find(const std::string& name) const;
  /// The same as a leaf whose gradient finish() compares (param.x with grad.x, in.x with grad.in.x).
  Tensor leaf(const std::string& name);
  Tensor find_leaf(const std::string& name);
  /// Adds parameters, named as in the state dict, to the leaves.
  void leaves(const std::vector<std::pair<std::string, Tensor>>& parameters);

  /// Compares with out.<name> where the file has it (out64.<name> in double; integers always with out.<name>, exactly),
  /// and adds sum(got · cotangent) to the loss where the file has one, in.d<name> or in.cotangent.<name>.
  void output(const std::string& name, const Tensor& got);
  /// Differentiates `loss`, or what output() summed up, and compares the gradients of all leaves.
  void finish(Tensor loss = {});

 private:
  const Case& source_;
  Comparer& comparer_;
  torch::ScalarType dtype_;
  Tensor loss_;
  std::vector<std::pair<std::string, Tensor>> leaves_;
};

/// Reads the hyperparameters of a case or checkpoint: without what describes the case itself (batch, length, …).
void read_config(ModelConfig& config, const Json& json, const std::string& source);
MegalodonConfig read_config(const Json& json, const std::string& source);

}  // namespace megalodon::golden
