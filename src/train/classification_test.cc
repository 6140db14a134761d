#include "train/classification.h"

#include <limits>
#include <memory>

#include "models/classifier_folder.h"
#include "nn/parameters.h"
#include "train/trainer_testing.h"

namespace megalodon {
namespace {

using data::ByteTokenizer;
using data::ExampleWriter;

/// Sets of examples whose class shows at every step, and runs on them.
class ClassificationRun : public testing::Training {
 protected:
  void SetUp() override {
    Training::SetUp();
    put_tokens("letters", 24, 2), put_tokens("letters_valid", 11, 2);
    put_vectors("waves", 24), put_vectors("waves_valid", 10);
  }

  fs::path path(const std::string& name) const { return folder_ / name; }

  /// Of class c are words of the letters from 'a' + 8 c on, between 3 and 9 steps long.
  void put_tokens(const std::string& name, int64_t examples, int64_t classes, std::vector<std::string> names = {},
                  bool pairs = false) const {
    ExampleWriter writer(path(name), ByteTokenizer());
    for (int64_t i = 0; i < examples; ++i) {
      for (int64_t sequence = 0; sequence < (pairs ? 2 : 1); ++sequence) {
        std::vector<int32_t> word;
        for (int64_t t = 0; t < 3 + (5 * i + sequence) % 7; ++t)
          word.push_back(static_cast<int32_t>('a' + 8 * (i % classes) + (i * t + t * t) % 5));
        writer.add_tokens(word);
      }
      writer.end_example(i % classes);
    }
    writer.finish({classes, std::move(names)});
  }

  /// Of class 1 are sequences of 6 numbers that alternate.
  void put_vectors(const std::string& name, int64_t examples) const {
    ExampleWriter writer(path(name), io::Dtype::F32, 1);
    for (int64_t i = 0; i < examples; ++i) {
      std::vector<float> wave;
      for (int64_t t = 0; t < 6; ++t)
        wave.push_back(0.1F * static_cast<float>(i % 5) + (i % 2 == 1 && t % 2 == 1 ? -1.0F : 1.0F));
      writer.add_vectors<float>(wave);
      writer.end_example(i % 2);
    }
    writer.finish({2, {"level", "alternating"}});
  }

  RunConfig classifier_run(const std::string& out, const std::string& train, const std::string& arch,
                           const config::Tree& fields) const {
    RunConfig run = tiny_run(out);
    run.arch = arch, run.model = make_config(arch);
    config::read(*run.model, fields, {}, "test");
    run.train.task = "classification";
    run.train.steps = 12, run.train.accumulate = 1;
    run.data.train = {path(train).string()}, run.data.valid = {path(train + "_valid").string()};
    run.data.seq_len = DataConfig().seq_len;
    run.data.batch = 5;  // epochs of 24 end within batches
    run.optimizer.lr = 2e-2;
    return run;
  }
  RunConfig letters(const std::string& out) const {
    RunConfig run = classifier_run(out, "letters", "megalodon",
                                   {{"num_layers", 1},
                                    {"model_dim", 16},
                                    {"z_dim", 8},
                                    {"value_dim", 16},
                                    {"num_heads", 2},
                                    {"ffn_hidden_dim", 24},
                                    {"cema_ndim", 4},
                                    {"chunk_size", 4},
                                    {"norm_num_groups", 4},
                                    {"dropout", 0.1}});
    run.classifier.head_layers = 1, run.classifier.head_dim = 8, run.classifier.dropout = 0.1;
    return run;
  }
  /// With batch norms, whose running statistics are no parameters.
  RunConfig waves(const std::string& out) const {
    RunConfig run = classifier_run(out, "waves", "mega",
                                   {{"num_layers", 1},
                                    {"model_dim", 8},
                                    {"z_dim", 4},
                                    {"value_dim", 12},
                                    {"ffn_hidden_dim", 12},
                                    {"ema_ndim", 2},
                                    {"chunk_size", 0},
                                    {"truncation", 0},
                                    {"position", "simple"},
                                    {"max_positions", 6},
                                    {"attention", "laplace"},
                                    {"norm", "batch"}});
    run.classifier.input = "vectors";
    return run;
  }

  static std::vector<Tensor> copies(const torch::nn::Module& network) {
    std::vector<Tensor> list;
    for (const auto& [name, tensor] : named_state(network)) list.push_back(tensor.detach().clone());
    return list;
  }
  static bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                              [](const Tensor& x, const Tensor& y) { return torch::equal(x, y); });
  }
};

TEST_F(ClassificationRun, LearnsWhatShowsInEveryStep) {
  RunConfig run = waves("run");
  run.train.steps = 60;
  EXPECT_EQ(train(run), Outcome::kFinished);
  const auto last = records(run).back();
  EXPECT_EQ(last["accuracy/waves_valid"], 1.0);
  EXPECT_EQ(last["eval_examples/waves_valid"], 10);
  EXPECT_LT(last["eval_loss/waves_valid"].get<double>(), 0.2);
  EXPECT_FALSE(last.contains("perplexity/waves_valid"));
}

TEST_F(ClassificationRun, GoesOnToTheSameBitsWhereItWasStopped) {
  for (const bool vectors : {false, true}) {
    const auto named = [&](const char* name) {
      RunConfig run = vectors ? waves(std::string("waves_") + name) : letters(std::string("letters_") + name);
      run.train.eval_every = 4, run.train.ema_decay = 0.9, run.train.eval_ema = true;
      return run;
    };
    const RunConfig whole = named("whole");
    train(whole);
    RunConfig parts = named("parts");
    for (const int64_t stop : {5, 6, 0}) {
      parts.train.stop_after = stop;
      train(parts);
    }
    expect_same_run(whole, parts);
    EXPECT_TRUE(file_of_latest(whole, "ema/model.safetensors") == file_of_latest(parts, "ema/model.safetensors"));
    EXPECT_EQ(records(whole).size(), 12U + 3U);
  }
}

TEST_F(ClassificationRun, ItsCheckpointsAreClassifiers) {
  RunConfig run = waves("run");
  run.train.ema_decay = 0.5, run.train.eval_ema = true;
  train(run);
  const auto last = records(run).back();
  const data::ExampleFile file(path("waves_valid"));
  const LoadedClassifier loaded = load_classifier(run.train.out);
  EXPECT_EQ(loaded.description.class_names, (std::vector<std::string>{"level", "alternating"}));
  EXPECT_NEAR(classify(*loaded.model, file, {.batch = 3})->loss, last["eval_loss/waves_valid"].get<double>(), 1e-6);
  const LoadedClassifier average = load_classifier(*RunFolder(run.train.out).latest() / "ema");
  EXPECT_NEAR(classify(*average.model, file, {.batch = 10})->loss, last["eval_loss/waves_valid.ema"].get<double>(),
              1e-6);
  expect_contains(error_of([&] { load_model(run.train.out); }), {"classifier", "eval classify"});
  const RunConfig other = tiny_run("language_model");
  train(other);
  expect_contains(error_of([&] { load_classifier(other.train.out); }), {"expected a classifier", "megalodon"});
}

TEST_F(ClassificationRun, ASplitIntoForwardPassesChangesNoGradient) {
  RunConfig one = letters("one"), three = letters("three");
  for (RunConfig* run : {&one, &three}) {
    config::read(*run->model, {{"dropout", 0.0}}, {}, "test");
    run->classifier.dropout = 0;
  }
  one.data.batch = 6, three.data.batch = 2, three.train.accumulate = 3;
  std::vector<std::vector<Tensor>> gradients;
  std::vector<double> losses;
  for (const RunConfig* run : {&one, &three}) {
    SequenceClassification task(*run);
    task.init_weights(1);
    ASSERT_TRUE(task.read({}));
    EXPECT_EQ(task.targets(), 6);
    EXPECT_EQ(task.position(), 6);
    losses.push_back(*task.backward([](size_t) { return 0; }, {}));
    for (const Tensor& parameter : task.network().parameters()) gradients.emplace_back().push_back(parameter.grad());
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-5);
  const size_t half = gradients.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const Tensor a = gradients[i][0], b = gradients[i + half][0];
    ASSERT_TRUE(a.defined() && b.defined()) << i;
    EXPECT_LE((a - b).abs().max().item<double>(), 2e-5 * a.abs().max().item<double>() + 1e-7) << i;
  }
}

TEST_F(ClassificationRun, RunningStatisticsMoveWithUpdatesOnly) {
  RunConfig run = waves("run");
  run.train.accumulate = 2;
  SequenceClassification task(run);
  task.init_weights(1);
  const auto before = copies(task.network());
  const auto key = [](size_t) { return 0; };
  for (const Verdict verdict : {Verdict::kSkip, Verdict::kRollback, Verdict::kApply}) {
    task.read({});
    ASSERT_TRUE(task.backward(key, {}));
    EXPECT_TRUE(same(copies(task.network()), before)) << "whatever happens before it is settled";
    task.settle(verdict);
    EXPECT_EQ(same(copies(task.network()), before), verdict != Verdict::kApply);
  }
  const auto applied = copies(task.network());
  task.read({});
  EXPECT_FALSE(task.backward(key, [] { return true; })) << "stopped between two forward passes";
  task.settle(Verdict::kRollback);
  EXPECT_TRUE(same(copies(task.network()), applied));
  EXPECT_THROW(task.backward([](size_t i) -> uint64_t { return i == 0 ? 0 : throw Error("broken"); }, {}), Error);
  EXPECT_TRUE(same(copies(task.network()), applied)) << "an error, too, leaves them as they were";
}

TEST_F(ClassificationRun, RunningStatisticsAreThoseOfTheStepsThatCount) {
  const auto poisoned = [&](RunConfig run, const char* policy) {
    run.train.guard.nonfinite = policy, run.train.save_every = 2;
    auto trainer = std::make_unique<Trainer>(run, TrainerOptions{.out = null_});
    trainer->task().network().parameters()[0].register_hook(
        [at = trainer.get(), left = std::make_shared<int>(1)](Tensor gradient) {
          if (at->step() == 5 && (*left)-- > 0) gradient.fill_(std::numeric_limits<float>::quiet_NaN());
        });
    return trainer;
  };
  const auto batches_seen = [](const RunConfig& run) {
    const io::TensorFile file = io::read_tensors(*RunFolder(run.train.out).latest(), "model");
    return to_tensor(*file.find("encoder.final_norm.num_batches_tracked")).item<int64_t>();
  };
  const RunConfig raising = waves("raising"), skipping = waves("skipping"), returning = waves("returning");
  EXPECT_THROW(poisoned(raising, "raise")->run(), Error);
  EXPECT_EQ(batches_seen(raising), 5) << "the last good step is saved as it was";
  EXPECT_EQ(poisoned(skipping, "skip")->run(), Outcome::kFinished);
  EXPECT_EQ(batches_seen(skipping), 11) << "of 12 steps";
  EXPECT_EQ(poisoned(returning, "rollback")->run(), Outcome::kFinished);
  EXPECT_EQ(batches_seen(returning), 12) << "those after step 4 were done again";
}

TEST_F(ClassificationRun, RefusesWhatDoesNotFitTogether) {
  const auto error = [&](const std::function<void(RunConfig&)>& change, bool vectors = false) {
    RunConfig run = vectors ? waves("run") : letters("run");
    change(run);
    return error_of([&] { trainer(run); });
  };
  expect_contains(error([](RunConfig& run) { run.classifier.classes = 3; }), {"2 classes", "classifier.classes is 3"});
  expect_contains(error([](RunConfig& run) { run.classifier.two_inputs = true; }), {"single sequences", "two_inputs"});
  expect_contains(error([](RunConfig& run) { run.classifier.input = "vectors"; }), {"holds tokens", "vectors"});
  expect_contains(error([](RunConfig& run) { run.classifier.vocab_size = 99; }), {"classifier.vocab_size", "99"});
  expect_contains(error([](RunConfig& run) { run.classifier.input_dim = 3; }, true), {"1 numbers", "input_dim is 3"});
  expect_contains(error([](RunConfig& run) { run.data.train[0] += "*2"; }), {"data.train", "without a weight"});
  expect_contains(error([](RunConfig& run) { run.train.sample_every = 3; }), {"train.sample_every"});
  expect_contains(error([](RunConfig& run) { run.train.checkpointing = true; }), {"train.checkpointing"});
  expect_contains(error([](RunConfig& run) { run.data.packing = "documents"; }), {"data.packing"});
  expect_contains(error([](RunConfig& run) { run.data.seq_len = 512; }), {"data.seq_len", "classifier.max_steps"});
  const auto shorter_table = [](RunConfig& run) { config::read(*run.model, {{"max_positions", 5}}, {}, "test"); };
  expect_contains(error(shorter_table, true), {"6 steps", "ends at 5", "classifier.max_steps"});
  RunConfig cut = waves("cut");
  shorter_table(cut), cut.classifier.max_steps = 5;
  EXPECT_EQ(train(cut), Outcome::kFinished);
  put_tokens("three", 9, 3, {"x", "y", "z"}), put_tokens("other", 9, 3, {"x", "z", "y"});
  expect_contains(error([&](RunConfig& run) {
                    run.data.train = {path("three").string()}, run.data.valid = {path("other").string()};
                    run.classifier.classes = 3;
                  }),
                  {"other", "x, z, y", "x, y, z"});
  put_tokens("pairs", 8, 2, {}, /*pairs=*/true);
  const auto pairs = [&](RunConfig& run) { run.data.train = {path("pairs").string()}, run.data.valid = {}; };
  expect_contains(error(pairs), {"pairs of sequences"});
  RunConfig matching = letters("matching");
  pairs(matching), matching.classifier.two_inputs = true;
  EXPECT_EQ(train(matching), Outcome::kFinished);
  RunConfig changed = letters("changed");
  changed.train.stop_after = 2;
  train(changed);
  changed.classifier.pooling = "first";
  expect_contains(error_of([&] { trainer(changed); }), {"classifier.pooling is \"first\", was \"mean\""});
}

TEST_F(ClassificationRun, ARunFileTellsAllOfIt) {
  put("corpora/run.toml",
      "[model]\narch = \"mega\"\n[classifier]\nclasses = 2\nmax_steps = 7\n[train]\ntask = \"classification\"\n");
  RunConfig run = load_run_config(path("corpora/run.toml"), {{"data.train", path("letters").string()}});
  EXPECT_EQ(run.classifier.max_steps, 7);
  EXPECT_EQ(run.classifier.vocab_size, 256) << "the tokenizer's";
  put("again.toml", to_toml(run));
  EXPECT_EQ(to_toml(load_run_config(path("again.toml"), {})), to_toml(run));
  expect_contains(error_of([&] {
                    load_run_config(path("corpora/run.toml"), {{"train.task", "regression"}});
                  }),
                  {"train.task", "classification", "regression"});
  put("lm.toml", "[classifier]\nclasses = 2\n");
  expect_contains(error_of([&] { load_run_config(path("lm.toml"), {}); }), {"classifier"});
}

TEST_F(ClassificationRun, ADryRunCountsExamples) {
  const std::string text = Trainer(letters("run"), {.dry_run = true, .out = null_}).dry_run();
  expect_contains(text, {"examples per step", "examples/s", "24 examples of 2 classes"});
  EXPECT_FALSE(fs::exists(path("run")));
}

/// Of the runs whose number of parameters Mega's authors tell: of Pathfinder's and Path-X's with one output, where two
/// classes are trained.
TEST(PublishedRuns, HaveThePublishedSizes) {
  struct Published {
    const char* name;
    int64_t parameters, outputs;
  };
  constexpr Published kPublished[] = {{"mega_cifar10", 2839096, 10},
                                      {"mega_pathfinder", 1386618, 1},
                                      {"mega_pathx", 381820, 1},
                                      {"mega_speech_commands", 343134, 10},
                                      {"mega_speech_commands_big", 475890, 10}};
  for (const auto& [name, parameters, outputs] : kPublished) {
    const RunConfig run =
        load_run_config(fs::path(MEGALODON_TESTS_DIR) / ".." / "configs" / (name + std::string(".toml")),
                        {{"classifier.classes", std::to_string(outputs)}});
    const auto model = ClassifierDescription{run.model->clone(), run.classifier, {}}.build();
    EXPECT_EQ(nn::count_parameters(*model), parameters) << name;
  }
}

}  // namespace
}  // namespace megalodon
