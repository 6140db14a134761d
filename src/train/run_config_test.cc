#include "train/run_config.h"

#include "train/testing.h"

namespace megalodon {
namespace {

class RunFile : public FolderTest {
 protected:
  RunConfig load(std::string_view text, const config::Overrides& overrides = {}) const {
    return load_run_config(put("run.toml", text), overrides);
  }
  std::string error(std::string_view text, const config::Overrides& overrides = {}) const {
    try {
      load(text, overrides);
    } catch (const UsageError& error) {
      return error.what();
    }
    ADD_FAILURE() << "expected a UsageError for: " << text;
    return {};
  }

  static constexpr const char* kMinimal = "[data]\ntrain = \"corpus\"\n";
};

TEST_F(RunFile, ReadsEverySection) {
  const RunConfig run = load(R"(
[model]
model_dim = 64
norm_num_groups = 8
[data]
train = "corpus/train"
valid = "corpus/valid"
seq_len = 128
[optim]
lr = 4e-3
[optim.schedule]
kind = "wsd"
warmup = 7
[train]
steps = 50
eval_every = 10
)",
                             {{"optim.lr", "1e-4"}});
  EXPECT_EQ(config::write(run)["model"]["model_dim"], 64);
  EXPECT_EQ(run.data.seq_len, 128);
  EXPECT_EQ(run.optimizer.lr, 1e-4);
  EXPECT_EQ(run.schedule.kind, "wsd");
  EXPECT_EQ(run.schedule.warmup, 7);
  EXPECT_EQ(run.train.steps, 50);
}

TEST_F(RunFile, RoundTrip) {
  const RunConfig run = load(kMinimal, {{"model.preset", "mega200M"}, {"model.dropout", "0.25"}, {"train.seed", "9"}});
  const std::string text = to_toml(run);
  EXPECT_EQ(to_toml(load(text)), text);
  EXPECT_EQ(to_toml(RunConfig(run)), text);
}

TEST_F(RunFile, APresetIsWhereTheOtherFieldsStart) {
  const RunConfig run = load(kMinimal, {{"model.preset", "mega200M"}, {"model.num_layers", "3"}});
  const auto preset = fields_of(*make_preset("mega200M"));
  auto model = config::write(run)["model"];
  EXPECT_EQ(model["num_layers"], 3);
  EXPECT_EQ(model["model_dim"], preset["model_dim"]);
  EXPECT_EQ(model["vocab_size"], preset["vocab_size"]);
}

TEST_F(RunFile, TheVocabularyIsTheTokenizersUnlessGiven) {
  EXPECT_EQ(load(kMinimal).model->vocabulary(), 256);
  EXPECT_EQ(load(kMinimal, {{"model.vocab_size", "300"}}).model->vocabulary(), 300);
  EXPECT_EQ(load("[model]\nvocab_size = 512\n[data]\ntrain = \"x\"\n").model->vocabulary(), 512);
}

TEST_F(RunFile, UnknownKeysNameTheNearest) {
  expect_contains(error("[data]\ntrain = \"x\"\n[optim]\nlrr = 1.0\n"), {"optim.lrr", "optim.lr"});
  expect_contains(error(kMinimal, {{"train.step", "3"}}), {"train.step", "train.steps"});
}

TEST_F(RunFile, RefusesWhatDoesNotFit) {
  const auto with = [&](const char* key, const char* value) { return error(kMinimal, {{key, value}}); };
  expect_contains(error(""), {"data.train"});
  expect_contains(with("train.precision", "float16"), {"float16", "bfloat16", "range"});
  expect_contains(with("train.precision", "bf16"), {"train.precision", "float32 or bfloat16", "bf16"});
  expect_contains(with("train.eval_every", "5"), {"train.eval_every", "data.valid"});
  expect_contains(with("train.steps", "0"), {"train.steps", "0"});
  expect_contains(with("train.steps", "9223372036854775807"), {"train.steps", "at most 1073741824"});
  expect_contains(with("train.threads", "1e12"), {"train.threads", "at most 1073741824"});
  expect_contains(with("model.norm_num_groups", "7"), {"model.model_dim", "divisible", "norm_num_groups = 7"});
  expect_contains(with("model.model_dim", "1e12"), {"model.model_dim", "at most 2147483648"});
  expect_contains(with("train.keep", "0"), {"train.keep"});
  expect_contains(with("data.batch", "0"), {"data.batch"});
  expect_contains(with("data.tokenizer", "words"), {"words", "bytes"});
  expect_contains(with("model.vocab_size", "100"), {"model.vocab_size", "100", "256"});
  expect_contains(with("model.arch", "transformerxl"), {"transformerxl", "megalodon"});
  expect_contains(with("model.preset", "mega8B"), {"mega8B", "mega200M"});
  expect_contains(with("optim.lr", "-1"), {"optim.lr"});
  expect_contains(with("optim.schedule.kind", "cosin"), {"optim.schedule.kind"});
  expect_contains(error(kMinimal, {{"data.valid", "v"}, {"train.eval_tokens", "10"}}),
                  {"train.eval_tokens", "seq_len"});
}

TEST_F(RunFile, AMissingFileIsNamed) {
  expect_contains(error_of([&] { load_run_config(folder_ / "absent.toml", {}); }), {"absent.toml"});
}

TEST_F(RunFile, HelpNamesEveryField) {
  expect_contains(run_config_help(), {"model.chunk_size", "data.seq_len", "optim.lr", "optim.schedule.warmup",
                                      "train.save_every", "train.stop_after"});
}

}  // namespace
}  // namespace megalodon
