#include "base/config.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon::config {
namespace {

struct Optim {
  double lr = 1e-3;
  int64_t steps = 100;
  bool decay_all = false;
  void visit(Visitor& v) {
    v.field("lr", lr, "peak learning rate");
    v.field("steps", steps, "updates");
    v.field("decay_all", decay_all, "decay every parameter");
  }
};

struct Data {
  std::string path = "data/train";
  std::vector<std::string> mix = {"a", "b"};
  Optim inner;
  void visit(Visitor& v) {
    v.field("path", path, "where the tokens are");
    v.field("mix", mix, "names of corpora");
    v.section("inner", inner, "a nested section");
  }
};

struct RunConfig {
  int64_t seed = 1;
  Optim optim;
  Data data;
  void visit(Visitor& v) {
    v.field("seed", seed, "of everything random");
    v.section("optim", optim, "the optimizer");
    v.section("data", data, "the corpus");
  }
};

RunConfig read_run(std::string_view toml, const Overrides& overrides = {}) {
  RunConfig run;
  read(run, parse_toml(toml, "run.toml"), overrides, "run.toml");
  return run;
}

template <class Function>
std::string usage_error(Function&& function) {
  try {
    function();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

std::string config_error(std::string_view toml, const Overrides& overrides = {}) {
  return usage_error([&] { read_run(toml, overrides); });
}

TEST(Config, ReadsEveryKindOfField) {
  const RunConfig run = read_run(
      "seed = 7\n[optim]\nlr = 3e-4\nsteps = 20\ndecay_all = true\n"
      "[data]\npath = \"x y\"\nmix = ['c']\n[data.inner]\nsteps = 5\n");
  EXPECT_EQ(run.seed, 7);
  EXPECT_EQ(run.optim.lr, 3e-4);
  EXPECT_EQ(run.optim.steps, 20);
  EXPECT_TRUE(run.optim.decay_all);
  EXPECT_EQ(run.data.path, "x y");
  EXPECT_EQ(run.data.mix, std::vector<std::string>{"c"});
  EXPECT_EQ(read_run("[data]\nmix = 'c'\n").data.mix, std::vector<std::string>{"c"});
  EXPECT_TRUE(read_run("[data]\nmix = ''\n").data.mix.empty());
  EXPECT_EQ(run.data.inner.steps, 5);
  EXPECT_EQ(run.data.inner.lr, 1e-3);  // not in the file: keeps its default
}

TEST(Config, NullKeepsTheDefault) {
  RunConfig run;
  read(run, Tree::parse(R"({"seed": null, "optim": null, "data": {"path": null}})"), {}, "config.json");
  EXPECT_EQ(write(run), write(RunConfig()));
  read(run, Tree(), {}, "nothing");
  EXPECT_EQ(write(run), write(RunConfig()));
}

TEST(Config, NumbersConvertOnlyWhereNothingIsLost) {
  EXPECT_EQ(read_run("seed = 1e6").seed, 1000000);
  EXPECT_EQ(read_run("[optim]\nlr = 2").optim.lr, 2.0);
  EXPECT_EQ(read_run("seed = 9223372036854775807").seed, INT64_MAX);
  EXPECT_EQ(read_run("seed = -0").seed, 0);
  EXPECT_EQ(read_run("seed = -0.0").seed, 0);
  EXPECT_EQ(read_run("[optim]\nlr = -0.0").optim.lr, 0.0);
  EXPECT_EQ(config_error("seed = 9223372036854775807.0"),
            "seed in run.toml must be an integer, got 9.223372036854776e+18")
      << "rounded";
  EXPECT_EQ(config_error("seed = 1.5"), "seed in run.toml must be an integer, got 1.5");
  EXPECT_EQ(config_error("seed = 1e17"), "seed in run.toml must be an integer, got 1e+17");
  EXPECT_EQ(config_error("[optim]\nlr = inf"), "optim.lr in run.toml must be a finite number, got inf");
  EXPECT_EQ(config_error("[optim]\nlr = nan"), "optim.lr in run.toml must be a finite number, got nan");
  RunConfig run;
  const auto huge = Tree::parse(R"({"seed": 9223372036854775808})");
  EXPECT_EQ(usage_error([&] { read(run, huge, {}, "config.json"); }),
            "seed in config.json must be an integer below 2^63, got 9223372036854775808");
}

TEST(Config, WrongTypesNameKeyAndSource) {
  EXPECT_EQ(config_error("seed = true"), "seed in run.toml must be an integer, got true");
  EXPECT_EQ(config_error("seed = '1'"), "seed in run.toml must be an integer, got \"1\"");
  EXPECT_EQ(config_error("[optim]\nlr = 'fast'"), "optim.lr in run.toml must be a finite number, got \"fast\"");
  EXPECT_EQ(config_error("[optim]\ndecay_all = 1"), "optim.decay_all in run.toml must be true or false, got 1");
  EXPECT_EQ(config_error("[data]\npath = 3"), "data.path in run.toml must be a string, got 3");
  EXPECT_EQ(config_error("[data]\nmix = 1"), "data.mix in run.toml must be a list of strings, got 1");
  EXPECT_EQ(config_error("[data]\nmix = ['a', 1]"), "data.mix in run.toml must be a list of strings, got [\"a\",1]");
  EXPECT_EQ(config_error("optim = 3"), "optim in run.toml must be a section, got 3");
  EXPECT_EQ(config_error("[seed]\nx = 1"), "seed in run.toml must be an integer, got {\"x\":1}");
  RunConfig run;
  EXPECT_EQ(usage_error([&] { read(run, Tree::parse("[1]"), {}, "config.json"); }),
            "config.json must be a table of keys and values, got [1]");
}

TEST(Config, UnknownKeysNameTheNearest) {
  EXPECT_EQ(config_error("[optim]\nlrr = 1"), "unknown key 'optim.lrr' in run.toml; did you mean 'optim.lr'?");
  EXPECT_EQ(config_error("sed = 1"), "unknown key 'sed' in run.toml; did you mean 'seed'?");
  EXPECT_EQ(config_error("[optin]\nlr = 1"), "unknown key 'optin' in run.toml; did you mean 'optim'?");
  EXPECT_EQ(config_error("[data.inner]\nstep = 1"),
            "unknown key 'data.inner.step' in run.toml; did you mean 'data.inner.steps'?");
  EXPECT_EQ(config_error("lr = 1"), "unknown key 'lr' in run.toml; did you mean 'optim.lr'?");
  EXPECT_EQ(config_error("[wholly_other]"), "unknown key 'wholly_other' in run.toml");
  EXPECT_EQ(config_error("'optim.lr' = 1"), "unknown key '\"optim.lr\"' in run.toml; did you mean 'optim.lr'?");
  EXPECT_EQ(config_error("", {{"optim.step", "1"}}),
            "unknown key 'optim.step' on the command line; did you mean 'optim.steps'?");
  EXPECT_EQ(config_error("", {{"optim", "1"}}), "unknown key 'optim' on the command line; did you mean 'optim'?");
}

TEST(Config, OverridesWinAndAreReadByType) {
  const RunConfig run = read_run("seed = 2\n[optim]\nlr = 1", {{"seed", "3"},
                                                               {"optim.lr", "5e-4"},
                                                               {"optim.steps", "1e3"},
                                                               {"optim.decay_all", "true"},
                                                               {"data.path", "3"},
                                                               {"data.mix", "x,y z,"},
                                                               {"data.inner.lr", "-2"}});
  EXPECT_EQ(run.seed, 3);
  EXPECT_EQ(run.optim.lr, 5e-4);
  EXPECT_EQ(run.optim.steps, 1000);
  EXPECT_TRUE(run.optim.decay_all);
  EXPECT_EQ(run.data.path, "3");
  EXPECT_EQ(run.data.mix, (std::vector<std::string>{"x", "y z"}));
  EXPECT_EQ(run.data.inner.lr, -2.0);
  EXPECT_EQ(read_run("", {{"data.mix", "['a,b', \"c\"]"}}).data.mix, (std::vector<std::string>{"a,b", "c"}));
  EXPECT_TRUE(read_run("", {{"data.mix", ""}}).data.mix.empty());
}

TEST(Config, OverridesOfTheWrongKind) {
  const std::string integer = "seed on the command line must be an integer, got ";
  for (const char* text : {"", "1.5", "ten", "0x10", "1 ", "9223372036854775808", "1e400"}) {
    EXPECT_TRUE(config_error("", {{"seed", text}}).starts_with(integer)) << config_error("", {{"seed", text}});
  }
  for (const char* text : {"", "1e400", "inf", "nan", "1,5", "true"}) {
    EXPECT_TRUE(
        config_error("", {{"optim.lr", text}}).starts_with("optim.lr on the command line must be a finite number"))
        << config_error("", {{"optim.lr", text}});
  }
  EXPECT_EQ(config_error("", {{"optim.decay_all", "yes"}}),
            "optim.decay_all on the command line must be true or false, got \"yes\"");
  for (const char* key : {"data.path", "data.mix", "seed"}) {
    EXPECT_EQ(config_error("", {{key, "a\xff"}}),
              fmt::format("{} on the command line must be valid UTF-8, got \"a\\ufffd\"", key));
  }
  EXPECT_EQ(config_error("", {{"data.mix", "[1]"}}), "data.mix on the command line must be a list of strings, got [1]");
  EXPECT_TRUE(config_error("", {{"data.mix", "['a'"}}).starts_with("command line:1:"))
      << config_error("", {{"data.mix", "['a'"}});
}

TEST(Config, WhatIsWrittenReadsBack) {
  RunConfig run = read_run("seed = 7\n[optim]\nlr = 0.1\ndecay_all = true\n[data]\nmix = []\n");
  const Tree tree = write(run);
  EXPECT_EQ(write(read_run(to_toml(tree))), tree);
  RunConfig from_json;
  read(from_json, Tree::parse(tree.dump()), {}, "config.json");
  EXPECT_EQ(write(from_json), tree);
}

TEST(Config, HelpShowsEveryKeyAligned) {
  RunConfig run;
  const std::string text = help([&](Visitor& v) { run.visit(v); });
  EXPECT_EQ(text,
            "  seed                  1             of everything random\n"
            "\n"
            "optim: the optimizer\n"
            "  optim.lr              0.001         peak learning rate\n"
            "  optim.steps           100           updates\n"
            "  optim.decay_all       false         decay every parameter\n"
            "\n"
            "data: the corpus\n"
            "  data.path             \"data/train\"  where the tokens are\n"
            "  data.mix              [\"a\", \"b\"]    names of corpora\n"
            "\n"
            "data.inner: a nested section\n"
            "  data.inner.lr         0.001         peak learning rate\n"
            "  data.inner.steps      100           updates\n"
            "  data.inner.decay_all  false         decay every parameter\n");
}

TEST(Config, ANamelessSectionAddsNoLevel) {
  struct Flat {
    Optim optim;
    int64_t seed = 1;
    void visit(Visitor& v) {
      v.section("", optim, "options of the optimizer");
      v.field("seed", seed, "");
    }
  } flat;
  read(flat, Tree::parse(R"({"lr": 2, "seed": 3})"), {{"steps", "4"}}, "x");
  EXPECT_EQ(write(flat).dump(), R"({"lr":2.0,"steps":4,"decay_all":false,"seed":3})");
  EXPECT_NE(help([&](Visitor& v) { flat.visit(v); }).find("options of the optimizer\n  lr "), std::string::npos);
  EXPECT_EQ(usage_error([&] { read(flat, Tree{{"lrs", 1}}, {}, "x"); }), "unknown key 'lrs' in x; did you mean 'lr'?");
}

TEST(Config, ParsesOverrides) {
  const Overrides overrides = parse_overrides({"--a.b=c=d", "--e", "-1", "--empty=", "--e=2"});
  EXPECT_EQ(overrides, (Overrides{{"a.b", "c=d"}, {"empty", ""}, {"e", "2"}}));
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {"a=1"}, {"-a=1"}, {"--=1"}, {"--"}, {"--a"}, {"--a", "--b=1"}, {"--a=1", "stray"}, {""}}) {
    EXPECT_THROW(parse_overrides(wrong), UsageError) << wrong[0];
  }
}

TEST(Config, Nearest) {
  const std::vector<std::string> known = {"mega", "megalodon", "transformer"};
  EXPECT_EQ(nearest("megalodno", known), "megalodon");
  EXPECT_EQ(nearest("maga", known), "mega");
  EXPECT_EQ(nearest("mgea", known), "mega") << "two neighbours swapped are one slip";
  EXPECT_EQ(nearest("transfomer", known), "transformer");
  EXPECT_EQ(nearest("rnn", known), "");
  EXPECT_EQ(nearest("model.dim", {"model.z_dim", "model.model_dim"}), "model.model_dim");
  EXPECT_EQ(nearest("data.model.dim", {"data.model.z_dim", "data.model.model_dim"}), "data.model.model_dim");
  EXPECT_EQ(nearest("", {}), "");
  EXPECT_EQ(nearest(std::string(100000, 'm'), known), "");
}

}  // namespace
}  // namespace megalodon::config
