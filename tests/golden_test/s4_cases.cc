// S4 and S4D: initial matrices, kernels, recurrences, layers and classifiers.
#include <fmt/format.h>

#include "cases.h"
#include "models/classifier.h"
#include "models/s4.h"
#include "nn/hippo.h"
#include "ops/long_convolution/long_convolution.h"

namespace megalodon::golden {
namespace {

/// Of float64 results: the order of operations is all that differs.
constexpr Tolerance kExact{1e-11};

void exactly(Pass& pass, const std::string& name, const Tensor& got) {
  const std::string full = "out." + name;
  if (!pass.source().has(full)) return;
  const Tensor plain = got.is_complex() ? torch::view_as_real(got.resolve_conj()) : got;
  pass.comparer().near(full, plain, pass.source().tensor(full), kExact);
}

void output_pairs(Pass& pass, const std::string& name, const Tensor& got) {
  pass.output(name, torch::view_as_real(got.resolve_conj()));
}

// ---- state spaces ---------------------------------------------------------------------------------------------------

/// The parameters of a kernel, leaves of the pass.
nn::StateSpaceParameters leaf_parameters(Pass& pass) {
  const auto leaf = [&](const char* name) { return pass.find_leaf(fmt::format("param.{}", name)); };
  return {leaf("inv_dt"), leaf("A_real"), leaf("A_imag"), leaf("B"), leaf("C"), leaf("P")};
}

nn::StateSpaceTransforms transforms_of(const Json& config) {
  return {config.value("dt_transform", "exp"), config.value("real_transform", "exp")};
}

nn::StateSpaceUse use_of(const Json& config) {
  return {config.value("disc", "zoh"), config.value("l_kernel", int64_t{0})};
}

/// [B,L,C·H] as the cases have it, [B,C,H,L].
Tensor by_channel(const Tensor& y_BLE, int64_t features) {
  return y_BLE.view({y_BLE.size(0), y_BLE.size(1), -1, features}).permute({0, 2, 3, 1});
}

/// x and conj(x), as which the cases write states, of their real and imaginary parts.
struct Completed {
  Tensor dA, dB;
};

Completed completed(const ops::NplrMatrices& matrices) {
  const auto wide = [](const Tensor& t) { return t.to(torch::kComplexDouble); };
  const int64_t N = matrices.b_HX.size(1) / 2;
  const Tensor one = torch::eye(N, wide(matrices.a_HXX).options()), i = one * c10::complex<double>(0, 1);
  const Tensor to = torch::cat({torch::cat({one, i}, 1), torch::cat({one, -i}, 1)});
  const Tensor from = torch::cat({torch::cat({one, one}, 1), torch::cat({-i, i}, 1)}) / 2;
  return {torch::matmul(to, torch::matmul(wide(matrices.a_HXX), from)), torch::matmul(wide(matrices.b_HX), to.t())};
}

/// y of the recurrence x_t = Ā x_(t-1) + B̄ u_t with real matrices.
Tensor by_matrices(const ops::NplrMatrices& wide, const Tensor& c_CHN, const Tensor& u_BLH) {
  const auto type = u_BLH.scalar_type();
  const Tensor a_HXX = wide.a_HXX.to(type), b_HX = wide.b_HX.to(type);
  const Tensor c_CHX = 2 * torch::cat({torch::real(c_CHN), -torch::imag(c_CHN)}, -1).to(type);
  Tensor x_BHX = torch::zeros({u_BLH.size(0), b_HX.size(0), b_HX.size(1)}, u_BLH.options());
  std::vector<Tensor> y_BCH;
  for (int64_t t = 0; t < u_BLH.size(1); ++t) {
    x_BHX = torch::einsum("hxy,bhy->bhx", {a_HXX, x_BHX}) + b_HX * u_BLH.select(1, t).unsqueeze(-1);
    y_BCH.push_back(torch::einsum("chx,bhx->bch", {c_CHX, x_BHX}));
  }
  return torch::stack(y_BCH, -1);
}

/// The same in the eigenbasis of Ā, which makes a linear recurrence of it. (Not what a model should do: the eigenbasis
/// of legs is nearly singular for more than a few states.)
Tensor by_eigenvalues(const Completed& system, const Tensor& c_CHN, const Tensor& u_BLH) {
  const auto [q_HX, v_HXX] = torch::linalg_eig(system.dA);
  const Tensor b_HX = torch::linalg_solve(v_HXX, system.dB.unsqueeze(-1)).squeeze(-1);
  const Tensor c_CHX = torch::einsum("chx,hxy->chy", {torch::cat({c_CHN, c_CHN.conj()}, -1), v_HXX}) * b_HX;
  const Tensor u = u_BLH.to(torch::kFloat64), no_skip = torch::zeros({u.size(2)}, u.options());
  std::vector<Tensor> channels;
  for (const Tensor& c_HX : c_CHX.unbind())
    channels.push_back(ops::linear_recurrence(u, q_HX, c_HX, no_skip).y_BLD.transpose(1, 2));
  return torch::stack(channels, 1);
}

/// The recurrences of a state space with a low-rank part: matrices, Woodbury's form, eigenvalues.
void compare_low_rank_steps(Pass& pass, const nn::StateSpace& space, const nn::StateSpaceUse& use,
                            const Tensor& u_BLH) {
  const ops::NplrSystem system = nn::nplr_system(space);
  const ops::NplrMatrices matrices = ops::nplr_matrices(system);
  const bool attuned = use.attuned_length > 0;
  const Tensor c_CHN = attuned ? ops::nplr_unattune(system, space.c_CHN, use.attuned_length) : space.c_CHN;
  const Completed whole = completed(matrices);
  output_pairs(pass, "dA", whole.dA);
  output_pairs(pass, "dB", whole.dB);
  output_pairs(pass, "dC", torch::cat({c_CHN, c_CHN.conj()}, -1));
  pass.output("y_step", by_matrices(matrices, c_CHN, u_BLH));
  const Tensor no_skip = torch::zeros(c_CHN.sizes().slice(0, 2), u_BLH.options());
  const auto out = nn::run(nn::recurrence(space, use, u_BLH.scalar_type()), u_BLH, no_skip);
  pass.output("y_step_linear", by_channel(out.y_BLD, u_BLH.size(2)));
  pass.output("y_step_diagonal", by_eigenvalues(whole, c_CHN, u_BLH));
}

/// The recurrence of a diagonal state space and its states, in one pass and in two.
void compare_diagonal_steps(Pass& pass, const nn::StateSpace& space, const nn::StateSpaceUse& use,
                            const Tensor& u_BLH) {
  const nn::DiagonalSystem system = nn::discretize(space, use.discretization);
  output_pairs(pass, "dA", system.q_HN);
  output_pairs(pass, "dB", system.b_HN);
  output_pairs(pass, "dC", space.c_CHN);
  const auto recurrence = nn::recurrence(space, use, u_BLH.scalar_type());
  const Tensor no_skip = torch::zeros(space.c_CHN.sizes().slice(0, 2), u_BLH.options());
  const auto whole = nn::run(recurrence, u_BLH, no_skip, {{}, {}, true});
  pass.output("y_step", by_channel(whole.y_BLD, u_BLH.size(2)));
  output_pairs(pass, "final_state", whole.h_BDN * system.b_HN);
  const int64_t L = u_BLH.size(1), cut = L / 2;
  Tensor state;
  if (cut > 0) state = nn::run(recurrence, u_BLH.narrow(1, 0, cut), no_skip, {{}, {}, true}).h_BDN;
  const auto rest = nn::run(recurrence, u_BLH.narrow(1, cut, L - cut), no_skip, {state, {}, true});
  output_pairs(pass, "final_state_chunk_form", rest.h_BDN * system.b_HN);
}

// ---- modules --------------------------------------------------------------------------------------------------------

/// A published parameter as one of ours: sign · published + offset, in our shape. Without a name it is the constant 1.
struct Origin {
  std::string name;
  double sign = 1, offset = 0;
};

/// In a block. `minimal`: of the short implementation of S4D, which has the other of each pair of conjugates.
Origin origin_in_block(std::string name, bool minimal) {
  if (!minimal) return {name};
  if (name == "layer.kernel.inv_dt") return {"kernel.log_dt"};
  if (name == "layer.kernel.A_real") return {"kernel.log_A_real"};
  if (name == "layer.kernel.A_imag") return {"kernel.A_imag", -1};
  if (name == "layer.kernel.B") return {""};
  if (name.rfind("layer.", 0) == 0) return {name.substr(6)};
  return {name};
}

/// In a classifier, whose embedding is "encoder" and whose output is "decoder", where encoder.layers.<i>.norm is
/// norms.<i> and encoder.layers.<i>.s4 is s4_layers.<i>.
Origin origin_in_classifier(const std::string& name, bool minimal) {
  if (name.starts_with("embed.")) return {"encoder." + name.substr(6)};
  if (name.starts_with("output.")) return {"decoder." + name.substr(7)};
  const size_t begin = std::string("encoder.layers.").size(), dot = name.find('.', begin);
  const std::string index = name.substr(begin, dot - begin), rest = name.substr(dot + 1);
  if (rest.rfind("norm.", 0) == 0) return {"norms." + index + rest.substr(4), 1, rest == "norm.weight" ? -1.0 : 0.0};
  Origin origin = origin_in_block(rest.substr(3), minimal);
  if (!origin.name.empty()) origin.name = "s4_layers." + index + "." + origin.name;
  return origin;
}

using OriginOf = std::function<Origin(const std::string&)>;

void load_published(const Pass& pass, torch::nn::Module& module, const OriginOf& origin_of) {
  const torch::NoGradGuard no_grad;
  module.to(target().device, pass.dtype());
  for (const auto& item : module.named_parameters()) {
    const Origin origin = origin_of(item.key());
    Tensor parameter = item.value();
    if (origin.name.empty())
      torch::view_as_complex(parameter).fill_(1);
    else
      parameter.copy_(pass.get("param." + origin.name).view(parameter.sizes()) * origin.sign + origin.offset);
  }
}

/// Differentiates and compares the gradients of parameters and inputs.
void finish_module(Pass& pass, const torch::nn::Module& module, const OriginOf& origin_of, const Tensor& loss = {}) {
  pass.finish(loss);
  const Tolerance tolerance = pass.source().gradient_tolerance();
  for (const auto& item : module.named_parameters()) {
    const Origin origin = origin_of(item.key());
    const std::string name = "grad." + origin.name;
    if (!pass.source().has(name)) continue;
    const Tensor expected = pass.source().tensor(name), got = item.value().grad() * origin.sign;
    pass.comparer().near(name, got.view(expected.sizes()), expected, pass.source().widened(tolerance, name));
  }
}

/// Of the layer whose parameters' names begin so; what shapes tell is taken from them.
S4LayerConfig layer_config(const Pass& pass, const std::string& prefix, const Json& arguments, bool minimal) {
  const auto sizes = [&](const std::string& name) { return pass.get("param." + prefix + name).sizes().vec(); };
  const auto frequencies = sizes("kernel.A_imag"), skip = sizes("D");
  S4LayerConfig config;
  config.features = skip.back();
  config.state_dim = 2 * frequencies[1];
  config.channels = skip.size() == 2 ? skip[0] : 1;
  config.matrices = frequencies[0];
  config.bidirectional = arguments.value("bidirectional", false);
  config.transforms = transforms_of(arguments);
  config.use = use_of(arguments);
  if (arguments.contains("l_max") && arguments.at("l_max").is_number())
    config.longest_kernel = arguments.at("l_max").get<int64_t>();
  if (!minimal && pass.source().has("param." + prefix + "kernel.P")) {
    config.rank = sizes("kernel.P")[0];
    config.use.attuned_length = pass.get("param." + prefix + "kernel.l_kernel").item<int64_t>();
  }
  return config;
}

/// forward(x, carry) step by step.
template <class Forward>
Tensor stepped(const Forward& forward, const Tensor& x_BLD) {
  const torch::NoGradGuard no_grad;
  StreamCarry carry;
  std::vector<Tensor> steps;
  for (int64_t t = 0; t < x_BLD.size(1); ++t) steps.push_back(forward(x_BLD.narrow(1, t, 1), carry));
  return torch::cat(steps, 1);
}

/// forward(x, carry): the whole sequence, steps where the case has them, gradients.
template <class Module, class Forward>
void compare_module(Pass& pass, Module& module, const OriginOf& origin_of, const Forward& forward, bool length_last) {
  load_published(pass, module, origin_of);
  const Tensor u = pass.leaf("in.u");
  Tensor x_BLD = length_last ? u.transpose(1, 2) : u;
  if (pass.source().has("in.lengths")) {
    const Tensor step_L1 = torch::arange(x_BLD.size(1), pass.get("in.lengths").options()).unsqueeze(1);
    x_BLD = x_BLD * (step_L1 < pass.get("in.lengths").view({-1, 1, 1})).to(x_BLD.scalar_type());
  }
  NoCarry whole;
  const Tensor y_BLD = forward(x_BLD, whole);
  pass.output("y", length_last ? y_BLD.transpose(1, 2) : y_BLD);
  if (pass.source().has("out.y_step")) {
    module.eval();
    pass.output("y_step", stepped(forward, x_BLD.detach()));
  }
  finish_module(pass, module, origin_of);
}

}  // namespace

void run_hippo(Pass& pass) {
  const Json& config = pass.source().config();
  const nn::Hippo hippo = nn::hippo(config.at("measure").get<std::string>(), config.at("d_state").get<int64_t>());
  exactly(pass, "A", hippo.A_NN);
  exactly(pass, "B", hippo.B_N);
  exactly(pass, "P", hippo.P_RN);
  const nn::NormalPlusLowRank d = nn::diagonalize(hippo);
  exactly(pass, "eigenvalues", d.a_N);
  exactly(pass, "P_diag_abs2", d.p_RN.abs().square());
  exactly(pass, "B_diag_abs2", d.b_N.abs().square());
  exactly(pass, "conjP_B", d.p_RN.conj() * d.b_N);
  // The phases of the eigenvectors are arbitrary: ours are turned to those of the data.
  const Tensor inner_N = (d.v_nN.conj() * torch::view_as_complex(pass.source().tensor("out.V"))).sum(0);
  const Tensor phase_N = inner_N / inner_N.abs();
  exactly(pass, "V", d.v_nN * phase_N);
  exactly(pass, "P_diag", d.p_RN * phase_N.conj());
  exactly(pass, "B_diag", d.b_N * phase_N.conj());
}

void run_s4d_init(Pass& pass) {
  const Json& config = pass.source().config();
  const auto states = config.at("d_state").get<int64_t>() / 2, features = config.at("d_model").get<int64_t>();
  for (const auto& kind : config.at("variants").get<std::vector<std::string>>()) {
    const Tensor a_N = nn::diagonal_a(kind, states);
    exactly(pass, "A_" + kind, a_N.expand({features, states}).contiguous());
    exactly(pass, "B_" + kind, torch::ones({features, states}, a_N.options()));
  }
}

void run_s4d_kernel(Pass& pass) {
  const Json& config = pass.source().config();
  const nn::StateSpace space = nn::state_space(leaf_parameters(pass), transforms_of(config));
  const nn::StateSpaceUse use = use_of(config);
  const Tensor u_BLH = pass.get("in.u").transpose(1, 2);
  const Tensor kernel_CHL = nn::convolution_kernel(space, use, u_BLH.size(1), pass.dtype());
  pass.output("K", kernel_CHL);
  {
    const torch::NoGradGuard no_grad;
    const Tensor no_skip = torch::zeros(kernel_CHL.sizes().slice(0, 2), u_BLH.options());
    pass.output("y", by_channel(ops::long_convolution(u_BLH, kernel_CHL, no_skip), u_BLH.size(2)));
    compare_diagonal_steps(pass, space, use, u_BLH);
  }
  pass.finish();
}

void run_nplr_kernel(Pass& pass) {
  const Json& config = pass.source().config();
  const nn::StateSpace space = nn::state_space(leaf_parameters(pass), transforms_of(config));
  const nn::StateSpaceUse use = use_of(config);
  const Tensor u_BLH = pass.get("in.u").transpose(1, 2);
  const int64_t L = u_BLH.size(1);
  const Tensor kernel_CHL = nn::convolution_kernel(space, use, L, pass.dtype());
  pass.output("K", kernel_CHL);
  {
    const torch::NoGradGuard no_grad;
    const int64_t known = use.attuned_length > 0 ? use.attuned_length : L;
    const int64_t grown = ops::nplr_grow(nn::nplr_system(space), {space.c_CHN, known}, L).length;
    pass.output("l_kernel_after", torch::scalar_tensor(static_cast<double>(grown)));
    const Tensor no_skip = torch::zeros(kernel_CHL.sizes().slice(0, 2), u_BLH.options());
    pass.output("y", by_channel(ops::long_convolution(u_BLH, kernel_CHL, no_skip), u_BLH.size(2)));
    compare_low_rank_steps(pass, space, use, u_BLH);
  }
  pass.finish();
}

void run_nplr_attunement(Pass& pass) {
  const torch::NoGradGuard no_grad;
  const auto length = pass.source().config().at("seq_len").get<int64_t>();
  nn::StateSpace space = nn::state_space(leaf_parameters(pass), transforms_of(pass.source().config()));
  const ops::NplrSystem system = nn::nplr_system(space);
  const Completed whole = completed(ops::nplr_matrices(system));
  output_pairs(pass, "dA", whole.dA);
  output_pairs(pass, "dB", whole.dB);
  space.c_CHN = ops::nplr_attune(system, space.c_CHN, length);
  output_pairs(pass, "C_tilde", space.c_CHN);
  pass.output("K", nn::convolution_kernel(space, {"", length}, length, pass.dtype()));
  const ops::AttunedRow doubled = ops::nplr_grow(system, {space.c_CHN, length}, 2 * length);
  output_pairs(pass, "C_tilde_doubled", doubled.c_CHN);
  pass.output("l_kernel_doubled", torch::scalar_tensor(static_cast<double>(doubled.length)));
  pass.output("K_doubled", nn::convolution_kernel(space, {"", length}, 2 * length, pass.dtype()));
}

void run_s4_convolution(Pass& pass) {
  const Json& config = pass.source().config();
  S4Convolution convolution(layer_config(pass, "", config, false));
  const bool activates = !config.at("activation").is_null();
  const auto forward = [&](const Tensor& x_BLD, Carry& carry) {
    const Tensor y_BLE = convolution.forward(x_BLD, {}, carry, 0);
    return activates ? torch::gelu(y_BLE) : y_BLE;
  };
  compare_module(
      pass, convolution, [](const std::string& name) { return Origin{name}; }, forward, false);
}

void run_s4_block(Pass& pass) {
  S4Block block(layer_config(pass, "layer.", pass.source().config(), false));
  const auto forward = [&](const Tensor& x_BLD, Carry& carry) { return block.forward(x_BLD, {}, carry, 0, 0); };
  compare_module(
      pass, block, [](const std::string& name) { return Origin{name}; }, forward, false);
}

void run_s4d_layer(Pass& pass) {
  const Json& config = pass.source().config();
  S4Block block(layer_config(pass, "", config, true));
  const auto forward = [&](const Tensor& x_BLD, Carry& carry) { return block.forward(x_BLD, {}, carry, 0, 0); };
  const auto origin = [](const std::string& name) { return origin_in_block(name, true); };
  compare_module(pass, block, origin, forward, config.at("transposed").get<bool>());

  const torch::NoGradGuard no_grad;
  const auto p = block.named_parameters();
  const nn::StateSpace space = nn::state_space({p["layer.kernel.inv_dt"],
                                                p["layer.kernel.A_real"],
                                                p["layer.kernel.A_imag"],
                                                p["layer.kernel.B"],
                                                p["layer.kernel.C"],
                                                {}});
  const auto length = config.at("seq_len").get<int64_t>();
  pass.output("K", nn::convolution_kernel(space, use_of(config), length, pass.dtype()).squeeze(0));
}

void run_s4d_states(Pass& pass) {
  const Json& config = pass.source().config();
  S4Convolution convolution(layer_config(pass, "", config, false));
  const auto origin = [](const std::string& name) { return Origin{name}; };
  load_published(pass, convolution, origin);
  const Tensor x_BLD = pass.leaf("in.u").transpose(1, 2);
  NoCarry whole;
  pass.output("y_parallel", convolution.forward(x_BLD, {}, whole, 0).transpose(1, 2));
  {
    const torch::NoGradGuard no_grad;
    const auto p = convolution.named_parameters();
    const nn::StateSpace space =
        nn::state_space({p["kernel.inv_dt"], p["kernel.A_real"], p["kernel.A_imag"], p["kernel.B"], p["kernel.C"], {}});
    const Tensor b_HN = nn::discretize(space, use_of(config).discretization).b_HN;
    const auto cut = config.at("cut").get<int64_t>();
    StreamCarry carry;
    const Tensor first_BLD = convolution.forward(x_BLD.narrow(1, 0, cut), {}, carry, 0);
    output_pairs(pass, "state_mid", carry.slots().at(0).at(0) * b_HN);
    const Tensor rest_BLD = convolution.forward(x_BLD.narrow(1, cut, x_BLD.size(1) - cut), {}, carry, 0);
    output_pairs(pass, "state_end", carry.slots().at(0).at(0) * b_HN);
    pass.output("y_incremental", torch::cat({first_BLD, rest_BLD}, 1).transpose(1, 2));
  }
  finish_module(pass, convolution, origin);
}

void run_s4_classifier(Pass& pass) {
  const Json& config = pass.source().config();
  const bool minimal = config.at("layer").get<std::string>() == "s4d";
  S4LayerConfig layer =
      layer_config(pass, minimal ? "s4_layers.0." : "s4_layers.0.layer.", config.at("layer_args"), minimal);
  layer.prenorm = config.at("prenorm").get<bool>();
  ClassifierConfig classifier;
  classifier.input = "vectors", classifier.input_dim = config.at("d_input").get<int64_t>();
  classifier.classes = config.at("classes").get<int64_t>();
  S4EncoderConfig encoder{layer, {}};
  encoder.kinds.assign(config.at("layers").get<size_t>(), S4LayerKind::kStateSpace);
  SequenceClassifier model(classifier, std::make_shared<S4Encoder>(encoder));
  const auto origin = [&](const std::string& name) { return origin_in_classifier(name, minimal); };
  load_published(pass, model, origin);
  const Tensor logits_BK = model.logits({pass.find_leaf("in.x"), {}});
  pass.output("logits", logits_BK);
  const Tensor loss = torch::cross_entropy_loss(logits_BK, pass.get("in.target"));
  pass.output("loss", loss);
  finish_module(pass, model, origin, loss);
}

}  // namespace megalodon::golden
