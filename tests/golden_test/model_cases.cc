// Whole models: one pass with gradients, streams, long inputs, generation.
#include "model_cases.h"

#include <fmt/format.h>

#include "base/check.h"
#include "cases.h"
#include "infer/generate.h"
#include "infer/score.h"
#include "layer_cases.h"
#include "models/weights.h"

namespace megalodon::golden {
namespace {

/// One pass over all tokens: hidden states and logits, then the loss by the path that training takes.
void compare_whole(Pass& pass, Model& model, const Tensor& tokens_BL) {
  NoCarry carry;
  {
    torch::NoGradGuard no_grad;
    model.set_observer(
        [&](int64_t layer, const Tensor& x_BLD) { pass.output(fmt::format("hidden.{}", layer), x_BLD); });
    pass.output("logits", model.logits({tokens_BL, {}}, carry));
    model.set_observer({});
  }
  model.train();
  pass.leaves(named_weights(model));
  const Tensor nll_BL = model.nll({tokens_BL, {}}, pass.get("in.targets"), carry);
  pass.output("nll", nll_BL);
  pass.output("loss", nll_BL.mean());
  pass.finish(nll_BL.mean());
  model.eval();
}

void compare_stream_caches(Pass& pass, const StreamCarry& carry, int64_t layers, const std::string& prefix) {
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Tensor alpha_DN1 = pass.get(fmt::format("param.layers.{}.mega.cema.alpha", layer));
    compare_cache(pass, fmt::format("{}cache.layers.{}.", prefix, layer),
                  MegalodonLayerState::unpack(carry.slots().at(layer)), alpha_DN1);
  }
  const State& last = carry.slots().at(layers);  // of the final norm
  pass.output(prefix + "cache.output.count", last.at(0));
  pass.output(prefix + "cache.output.mean", last.at(1));
  pass.output(prefix + "cache.output.var", last.at(2));
}

/// The first tokens in calls of the listed lengths. The file holds their logits and final caches in float32 only; in
/// float64 the logits must be those of the whole pass.
void compare_streams(Pass& pass, Model& model, const Tensor& tokens_BL) {
  if (!pass.source().json().contains("streams")) return;
  torch::NoGradGuard no_grad;
  for (const auto& [name, stream] : pass.source().json().at("streams").items()) {
    StreamCarry carry;
    std::vector<Tensor> pieces;
    int64_t done = 0;
    for (const int64_t length : stream.at("calls").get<std::vector<int64_t>>()) {
      pieces.push_back(model.logits({tokens_BL.narrow(1, done, length), {}}, carry));
      done += length;
    }
    const Tensor logits_BLV = torch::cat(pieces, 1);
    if (!pass.is_double()) {
      const std::string prefix = fmt::format("stream.{}.", name);
      pass.output(prefix + "logits", logits_BLV);
      compare_stream_caches(pass, carry, pass.source().config().at("num_layers").get<int64_t>(), prefix);
    } else if (pass.source().has("out64.logits")) {
      pass.comparer().near(fmt::format("out64.logits of stream {}", name), logits_BLV,
                           pass.get("out64.logits").narrow(1, 0, done), pass.source().output_tolerance(true));
    }
  }
}

}  // namespace

std::unique_ptr<Model> build_model(const Case& source, torch::ScalarType dtype) {
  const auto config = make_config(source.json().value("arch", "megalodon"));
  read_config(*config, source.config(), "case");
  auto model = config->build();
  load_weights(*model, source.parameters());
  model->to(target().device, dtype);
  model->set_precision(target().precision);
  model->eval();
  return model;
}

void run_model(Pass& pass) {
  const auto model = build_model(pass.source(), pass.dtype());
  const Tensor tokens_BL = pass.get("in.tokens");
  compare_whole(pass, *model, tokens_BL);
  compare_streams(pass, *model, tokens_BL);
}

void inform_logits(const Case& source, Comparer& comparer, const Tensor& logits_BLV) {
  for (const char* name : {"out.logits", "out.logits_rope_float32", "out.logits_float32_model"})
    if (source.has(name)) comparer.inform(name, logits_BLV, source.tensor(name));
}

void run_model_bf16(Pass& pass) {
  // We compute in float32 from the bfloat16 weights.
  torch::NoGradGuard no_grad;
  NoCarry carry;
  const auto model = build_model(pass.source());
  const ModelInput input{pass.get("in.tokens"), {}};
  inform_logits(pass.source(), pass.comparer(), model->logits(input, carry));
  if (pass.source().has("out.nll"))
    pass.comparer().inform("out.nll", model->nll(input, pass.get("in.targets"), carry), pass.get("out.nll"));
}

void run_long_inference(Pass& pass) {
  torch::NoGradGuard no_grad;
  const Json& config = pass.source().config();
  const auto chunk = config.at("chunk_size").get<int64_t>();
  ScoreOptions options;
  options.stretch = chunk * config.at("chunks_per_call").get<int64_t>();
  options.truncate_from = chunk * config.at("truncate_from_chunks").get<int64_t>();
  options.window = chunk * config.at("window_chunks").get<int64_t>();
  options.whole = chunk;
  const auto model = build_model(pass.source(), pass.dtype());
  pass.output("nll", score(*model, pass.get("in.tokens"), pass.get("in.targets"), options));
}

void run_generation(Pass& pass) {
  std::vector<std::vector<int64_t>> prompts;
  for (std::string name = "in.prompt.0"; pass.source().has(name); name = fmt::format("in.prompt.{}", prompts.size())) {
    const Tensor prompt = pass.source().tensor(name).contiguous();
    prompts.emplace_back(prompt.data_ptr<int64_t>(), prompt.data_ptr<int64_t>() + prompt.numel());
  }
  const auto model = build_model(pass.source(), pass.dtype());
  const auto rows = generate_greedy(*model, prompts, pass.source().config().at("max_gen_len").get<int64_t>());
  for (size_t row = 0; row < rows.size(); ++row) {
    const std::string name = fmt::format("tokens.{}", row);
    const Tensor tokens = torch::tensor(rows[row], torch::kInt64);
    if (target().precision == nn::Precision::kFloat32)
      pass.output(name, tokens);
    else  // the likeliest of two that are nearly so may be the other; from there on texts differ
      pass.comparer().inform("out." + name, tokens, pass.get("out." + name));
  }
}

}  // namespace megalodon::golden
