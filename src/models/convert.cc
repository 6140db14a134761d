#include "models/convert.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "models/hub.h"
#include "models/ports.h"
#include "models/published.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

namespace {

/// A folder of ours, or a run's: whatever is none of the others is taken for one, and says what it lacks.
bool is_ours(const fs::path& path) {
  const auto is_of = [&](const ModelFormat& format) { return format.is != is_ours && format.is(path); };
  return fs::is_directory(path) && std::none_of(model_formats().begin(), model_formats().end(), is_of);
}

}  // namespace

const std::vector<ModelFormat>& model_formats() {
  static const std::vector<ModelFormat> kFormats = {
      {"megalodon", "model folder", nullptr, is_ours, read_ours, write_ours},
      {"published", "published checkpoint", "megalodon", is_published, read_published,
       [](const ModelContents& contents, const fs::path& folder, uint64_t) { write_published(contents, folder); }},
      {"hub", "Hugging Face folder", "transformer", is_hub, read_hub, write_hub},
      {"megalodon-jax", "checkpoint of the JAX port", "megalodon", is_megalodon_jax, read_megalodon_jax,
       [](const ModelContents& contents, const fs::path& folder, uint64_t) { write_megalodon_jax(contents, folder); }},
      {"megalodon-hf", "folder of the Hugging Face port", "megalodon", is_megalodon_hf, read_megalodon_hf, nullptr,
       kMegalodonHfNorm}};
  return kFormats;
}

const ModelFormat& format_of(const fs::path& path) {
  for (const ModelFormat& format : model_formats())
    if (format.is(path)) return format;
  fail("[convert] {}: expected a model's folder or the safetensors file of a JAX checkpoint", path.string());
}

namespace {

const ModelFormat& format_named(const std::string& name) {
  std::vector<std::string> names;
  for (const ModelFormat& format : model_formats()) {
    if (format.name == name) return format;
    names.push_back(format.name);
  }
  fail_usage("[convert] expected a format of {}, got '{}'", fmt::join(names, ", "), name);
}

bool holds(const ModelFormat& format, const std::string& architecture) {
  return format.architecture == nullptr || format.architecture == architecture;
}

const ModelFormat& target_format(const ModelFormat& from, const std::string& architecture, const std::string& name) {
  const ModelFormat& ours = model_formats().front();
  if (name.empty() && &from != &ours) return ours;
  if (name.empty()) {
    for (const ModelFormat& format : model_formats())
      if (&format != &ours && holds(format, architecture)) return format;
    fail("[convert] no other format holds models of architecture \"{}\"", architecture);
  }
  const ModelFormat& format = format_named(name);
  check(&format != &from, "[convert] the source is a {} already", format.description);
  check(format.write != nullptr, "[convert] no {} is written: {}", format.description, format.other_function);
  check(holds(format, architecture), "[convert] a {} holds models of architecture \"{}\", this is \"{}\"",
        format.description, format.architecture, architecture);
  return format;
}

// ---- the check ------------------------------------------------------------------------------------------------------

/// Tokens and, where somebody computed them, their logits.
struct Probe {
  Tensor tokens_BL, logits_BLV;
};

std::vector<Probe> probes_for(const fs::path& source, int64_t vocabulary) {
  constexpr int64_t kRows = 2, kSteps = 48;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(20240412);
  std::vector<Probe> probes = {{torch::randint(vocabulary, {kRows, kSteps}, generator, torch::kInt64), {}}};
  const fs::path path = source / "logits.safetensors";
  if (!fs::exists(path)) return probes;
  const io::TensorFile file = io::read_safetensors(path);
  const io::TensorView *tokens = file.find("in.tokens"), *logits = file.find("out.logits");
  check(tokens != nullptr && logits != nullptr && tokens->shape.size() == 2 && logits->shape.size() == 3 &&
            std::equal(tokens->shape.begin(), tokens->shape.end(), logits->shape.begin()),
        "[{}] expected in.tokens [B,L] and out.logits [B,L,V]", path.string());
  const Tensor tokens_BL = to_tensor(*tokens).to(torch::kInt64);
  check(tokens_BL.numel() > 0 && tokens_BL.min().item<int64_t>() >= 0 && tokens_BL.max().item<int64_t>() < vocabulary,
        "[{}] expected in.tokens to be tokens in [0, {})", path.string(), vocabulary);
  probes.push_back({tokens_BL, to_tensor(*logits)});
  check(torch::isfinite(probes.back().logits_BLV).all().item<bool>(), "[{}] out.logits are not all finite",
        path.string());
  return probes;
}

/// Of one model at a time: that of the other folder is not in memory meanwhile.
std::vector<Tensor> logits_of(const ModelContents& contents, const std::vector<Probe>& probes) {
  const torch::NoGradGuard no_grad;
  const auto model = model_of(contents);
  std::vector<Tensor> logits;
  for (const Probe& probe : probes) {
    NoCarry whole;
    logits.push_back(model->logits({probe.tokens_BL, {}}, whole));
    check(torch::isfinite(logits.back()).all().item<bool>(), "[convert] the check's logits are not all finite");
  }
  return logits;
}

void add_difference(LogitDifference& sum, const Tensor& got_BLV, const Tensor& expected_BLV) {
  check(got_BLV.sizes() == expected_BLV.sizes(), "[convert] expected logits {}, got {}",
        io::shape_text(expected_BLV.sizes()), io::shape_text(got_BLV.sizes()));
  const Tensor got = got_BLV.to(torch::kFloat64), expected = expected_BLV.to(torch::kFloat64);
  sum.positions += got.size(0) * got.size(1);
  sum.same_top += (got.argmax(-1) == expected.argmax(-1)).sum().item<int64_t>();
  sum.largest = std::max(sum.largest, (got - expected).abs().max().item<double>());
  sum.magnitude = std::max(sum.magnitude, expected.abs().max().item<double>());
}

void check_agreement(const LogitDifference& difference, double tolerance, const char* what) {
  check(
      difference.relative() <= tolerance,
      "[convert] the target's logits differ from {} by {:.3g} of the largest, {:.3g}, where {:.3g} of it is tolerated; "
      "the likeliest token is the same at {} of {} positions. Nothing was written; --no-check writes it nevertheless",
      what, difference.largest, difference.magnitude, tolerance, difference.same_top, difference.positions);
}

/// The differences of what `to` reads from the folder.
void check_target(Conversion& done, const std::vector<Probe>& probes, const std::vector<Tensor>& expected,
                  const fs::path& folder) {
  const std::vector<Tensor> got = logits_of(done.to->read(folder), probes);
  done.checked.emplace();
  for (size_t i = 0; i < probes.size(); ++i) {
    add_difference(*done.checked, got[i], expected[i]);
    if (!probes[i].logits_BLV.defined()) continue;
    add_difference(done.stored.emplace(), got[i], probes[i].logits_BLV);
    const bool is_wide = probes[i].logits_BLV.element_size() >= 4;
    check_agreement(*done.stored, is_wide ? 1e-4 : 2e-2, "those stored beside the source");
  }
  check_agreement(*done.checked, 1e-5, "those of the source");
}

std::string dtypes_of(const io::TensorFile& file) {
  std::map<std::string, int64_t> counts;
  for (const io::TensorView& view : file.tensors()) ++counts[io::dtype_name(view.dtype)];
  std::vector<std::string> texts;
  for (const auto& [name, count] : counts) texts.push_back(fmt::format("{} {}", name, count));
  return fmt::format("{}", fmt::join(texts, ", "));
}

void set_tokenizer(ModelContents& contents, TokenizerParts tokenizer, const fs::path& source) {
  const int64_t tokens = tokenizer.description.value("vocabulary", int64_t{0}), reads = contents.config->vocabulary();
  check(tokens <= reads, "[convert] the tokenizer has {} tokens, but the model in {} reads {}", tokens, source.string(),
        reads);
  Json description = contents.tokenizer.description;  // which may say where the published tokenizer is
  description.update(tokenizer.description);
  tokenizer.description = std::move(description);
  contents.tokenizer = std::move(tokenizer);
}

}  // namespace

Conversion convert(const fs::path& source, const fs::path& target, const ConvertOptions& options) {
  Conversion done;
  done.from = &format_of(source);
  check(done.from->other_function == nullptr || options.accept_other_norm,
        "[{}] {}. --accept-other-norm converts them nevertheless, to train on", source.string(),
        done.from->other_function == nullptr ? "" : done.from->other_function);
  ModelContents contents = done.from->read(source);
  if (options.tokenizer) set_tokenizer(contents, *options.tokenizer, source);
  done.to = &target_format(*done.from, contents.config->architecture(), options.format);
  done.tensors = std::ssize(contents.weights.tensors());
  for (const io::TensorView& view : contents.weights.tensors())
    done.parameters += static_cast<int64_t>(view.bytes.size() / io::dtype_size(view.dtype));
  done.dtypes = dtypes_of(contents.weights);
  std::vector<Probe> probes;
  std::vector<Tensor> expected;
  if (options.check) {
    probes = probes_for(source, contents.config->vocabulary());
    expected = logits_of(contents, probes);
  }
  write_folder_atomically(target, [&](const fs::path& folder) {
    done.to->write(contents, folder, options.max_shard_bytes);
    if (options.check) check_target(done, probes, expected, folder);
  });
  return done;
}

}  // namespace megalodon
