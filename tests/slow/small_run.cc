#include "small_run.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <sstream>

#include "base/philox.h"
#include "data/tokenizer.h"
#include "train/trainer.h"

namespace megalodon::testing {
namespace {

/// Draws that are the same on every machine.
class Draws {
 public:
  explicit Draws(uint64_t key) : key_(key) {}
  uint64_t below(uint64_t limit) { return derive_key(key_, count_++) % limit; }
  /// Small numbers are frequent, as words are in a language.
  uint64_t skewed(uint64_t limit) { return std::min({below(limit), below(limit), below(limit)}); }

 private:
  uint64_t key_, count_ = 0;
};

/// Statements are short here because the order of draws must not depend on the compiler.
std::vector<std::string> make_words(size_t count, const char* ending, Draws& draws) {
  static constexpr const char* kOnsets[] = {"b", "d", "f", "gr", "h", "l", "m", "pr", "s", "st", "t", "w"};
  static constexpr const char* kRhymes[] = {"a", "an", "el", "er", "i", "ing", "o", "on", "u", "ur"};
  std::vector<std::string> words(count);
  for (std::string& word : words) {
    for (uint64_t syllables = 1 + draws.below(3); syllables > 0; --syllables) {
      word += kOnsets[draws.below(std::size(kOnsets))];
      word += kRhymes[draws.below(std::size(kRhymes))];
    }
    word += ending;
  }
  return words;
}

struct Language {
  explicit Language(Draws draws)
      : nouns(make_words(60, "", draws)),
        verbs(make_words(30, "s", draws)),
        adjectives(make_words(30, "y", draws)),
        adverbs(make_words(10, "ly", draws)) {}
  std::vector<std::string> nouns, verbs, adjectives, adverbs;
};

void add(std::string& text, const std::vector<std::string>& words, Draws& draws) {
  text += words[draws.skewed(words.size())];
  text += ' ';
}

void add_thing(std::string& text, const Language& language, Draws& draws) {
  text += draws.below(2) == 0 ? "the " : "a ";
  if (draws.below(3) == 0) add(text, language.adjectives, draws);
  add(text, language.nouns, draws);
}

void add_sentence(std::string& text, const Language& language, Draws& draws) {
  const size_t begin = text.size();
  add_thing(text, language, draws);
  add(text, language.verbs, draws);
  add_thing(text, language, draws);
  if (draws.below(3) == 0) add(text, language.adverbs, draws);
  if (draws.below(4) == 0) {
    text += "and ";
    add_thing(text, language, draws);
    add(text, language.verbs, draws);
  }
  text[begin] = static_cast<char>(text[begin] - 'a' + 'A');
  text.back() = '.';
}

}  // namespace

std::vector<std::string> pseudo_english(uint64_t seed, int64_t documents) {
  const Language language(Draws(1));  // one for all seeds
  Draws draws(seed);
  std::vector<std::string> texts(static_cast<size_t>(documents));
  for (std::string& text : texts)
    for (uint64_t sentences = 1 + draws.below(20); sentences > 0; --sentences) {
      add_sentence(text, language, draws);
      text += sentences == 1 ? '\n' : ' ';
    }
  return texts;
}

void SmallRunTest::SetUp() {
  data::CorpusTest::SetUp();
  const data::ByteTokenizer bytes;
  const auto write = [&](const char* name, uint64_t seed, int64_t count) {
    std::vector<std::vector<int32_t>> documents;
    for (const std::string& text : pseudo_english(seed, count)) documents.push_back(bytes.encode(text));
    put_documents(name, documents, bytes.vocabulary());
  };
  write("train", 2, 300);
  write("valid", 3, 20);
}

RunConfig SmallRunTest::small_run(const std::string& name) const {
  RunConfig run;
  config::read(*run.model,
               {{"num_layers", 2},
                {"model_dim", 32},
                {"z_dim", 16},
                {"value_dim", 48},
                {"num_heads", 2},
                {"ffn_hidden_dim", 64},
                {"cema_ndim", 4},
                {"chunk_size", 16},
                {"norm_num_groups", 4},
                {"vocab_size", 256},
                {"swiglu", true},
                {"dropout", 0.05},
                {"hidden_dropout", 0.05},
                {"attention_dropout", 0.05}},
               {}, "test");
  run.data.train = {(folder_ / "train").string()};
  run.data.valid = {(folder_ / "valid").string()};
  run.data.seq_len = 64, run.data.batch = 4;
  run.optimizer.lr = 2e-3;
  run.schedule.warmup = 20;
  run.train.steps = 200;
  run.train.out = (folder_ / name).string();
  run.train.threads = 1;  // tiny tensors: more threads would only wait for each other
  return run;
}

std::vector<double> SmallRunTest::losses_of(const RunConfig& run, double* evaluation) const {
  TrainerOptions options;
  options.out = std::fopen("/dev/null", "w");
  EXPECT_EQ(Trainer(run, options).run(), Outcome::kFinished);
  std::fclose(options.out);
  std::vector<double> losses;
  std::istringstream metrics(read_file(fs::path(run.train.out) / "metrics.jsonl"));
  for (std::string line; std::getline(metrics, line);) {
    const auto record = nlohmann::json::parse(line);
    if (record.contains("grad_norm")) losses.push_back(record.at("loss").get<double>());
    if (evaluation != nullptr && record.contains("eval_loss/valid"))
      *evaluation = record.at("eval_loss/valid").get<double>();
  }
  EXPECT_EQ(static_cast<int64_t>(losses.size()), run.train.steps);
  return losses;
}

}  // namespace megalodon::testing
