#include "data/corpus.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "data/archive_testing.h"

namespace megalodon::data::corpus_test {
namespace {

using Texts = std::vector<std::string>;

class Prepare : public FolderTest {
 protected:
  PrepareResult run(PrepareOptions options) const {
    options.output = folder_ / "out" / "corpus";
    return prepare(options, ByteTokenizer());
  }
  std::string lines(int count) const {
    std::string text;
    for (int i = 0; i < count; ++i) text += fmt::format("document {}\n", i);
    return text;
  }
  Texts part(const char* name) const { return documents_of(folder_ / "out" / "corpus" / name); }
};

TEST_F(Prepare, OneDocumentPerFileInOrderOfName) {
  put("in/b.txt", "bee");
  put("in/a/z.txt", std::string_view("\xFF\0bytes", 7));
  put("in/empty.txt", "");
  put("in/c.md", "not text");
  const PrepareResult result = run({{put("first", "1st\n"), folder_ / "in"}, {}, "", 0, 0, 0});
  ASSERT_EQ(result.parts.size(), 1U);
  EXPECT_EQ(result.parts[0].name, "");
  EXPECT_EQ(result.parts[0].documents, 3);
  const Texts documents = documents_of(folder_ / "out" / "corpus");
  EXPECT_EQ(documents, (Texts{"1st\n", std::string("\xFF\0bytes", 7), "bee"}));
  EXPECT_EQ(result.parts[0].tokens, 14);
}

TEST_F(Prepare, SeparatorDividesAndEmptyDocumentsAreDropped) {
  const fs::path a = put("a", "<|>one<|><|>two<|<|>three<|>"), b = put("b", "four"), c = put("c", "<|><|>");
  std::vector<uint64_t> reports;
  PrepareOptions options{{a, b, c}, folder_ / "out", "<|>", 0, 0, 0};
  const PrepareResult result = prepare(options, ByteTokenizer(), [&](const PrepareStatus& status) {
    EXPECT_EQ(status.total, 28U + 4 + 6);
    reports.push_back(status.done);
  });
  EXPECT_EQ(documents_of(folder_ / "out"), (Texts{"one", "two<|", "three", "four"}));
  EXPECT_EQ(result.parts[0].documents, 4);
  EXPECT_EQ(result.parts[0].tokens, 17);
  ASSERT_FALSE(reports.empty());
  EXPECT_EQ(reports.back(), 38U);
}

TEST_F(Prepare, SplitHoldsEveryDocumentExactlyOnce) {
  const PrepareOptions options{{put("a", lines(2000))}, {}, "\n", 0.1, 0.05, 7};
  const PrepareResult result = run(options);
  ASSERT_EQ(result.parts.size(), 3U);
  std::map<std::string, std::string> owner;
  for (const auto& part : result.parts) {
    const Texts documents = this->part(part.name.c_str());
    EXPECT_EQ(static_cast<int64_t>(documents.size()), part.documents);
    int64_t tokens = 0;
    for (const std::string& document : documents) {
      EXPECT_TRUE(owner.emplace(document, part.name).second) << document;
      tokens += static_cast<int64_t>(document.size());
    }
    EXPECT_EQ(tokens, part.tokens);
  }
  EXPECT_EQ(owner.size(), 2000U);
  EXPECT_NEAR(static_cast<double>(result.parts[1].documents), 200, 60);  // over four standard deviations
  EXPECT_NEAR(static_cast<double>(result.parts[2].documents), 100, 45);

  // More text at the end moves nothing; another seed does.
  const Texts valid = part("valid");
  put("a", lines(3000));
  run(options);
  const Texts more = part("valid");
  EXPECT_TRUE(std::equal(valid.begin(), valid.end(), more.begin()));
  PrepareOptions reseeded = options;
  reseeded.seed = 8;
  run(reseeded);
  EXPECT_NE(part("valid"), more);
}

TEST_F(Prepare, EveryPartGetsADocument) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    for (const double fraction : {0.001, 0.499}) {
      const PrepareResult result = run({{put("a", "a b c")}, {}, " ", fraction, fraction, seed});
      for (const auto& part : result.parts) EXPECT_EQ(part.documents, 1) << part.name;
    }
  }
  EXPECT_EQ(run({{put("a", lines(40))}, {}, "\n", 0.001, 0.001, 0}).parts[0].documents, 38);
  const PrepareResult two = run({{put("a", "a b")}, {}, " ", 0.1, 0, 0});
  ASSERT_EQ(two.parts.size(), 2U);
  EXPECT_EQ(two.parts[1].name, "valid");
  EXPECT_EQ(two.parts[1].documents, 1);
}

TEST_F(Prepare, Errors) {
  const fs::path text = put("a", "x y"), empty = put("empty", ""), blank = put("blank", "   ");
  fs::create_directory(folder_ / "bare");
  const auto error = [&](PrepareOptions options) { return error_of([&] { run(std::move(options)); }); };
  expect_contains(error({{}, {}, "", 0, 0, 0}), {"at least one input"});
  expect_contains(error({{folder_ / "none"}, {}, "", 0, 0, 0}), {"none", "does not exist"});
  expect_contains(error({{text, empty}, {}, "", 0, 0, 0}), {"empty' is empty"});
  expect_contains(error({{folder_ / "bare"}, {}, "", 0, 0, 0}), {"bare", ".txt"});
  expect_contains(error({{blank}, {}, " ", 0, 0, 0}), {"no text"});
  for (const fs::path& output : {fs::path(), folder_ / "slash" / ""}) {
    PrepareOptions options;
    options.inputs = {text};
    options.output = output;
    expect_contains(error_of([&] { prepare(options, ByteTokenizer(), {}); }), {"prefix", output.string()});
  }
  expect_contains(error({{text}, {}, " ", 0.1, 0.1, 0}), {"3 parts", "got 2", "separator"});
  expect_contains(error({{text}, {}, " ", 0.6, 0.4, 0}), {"fractions", "0.6", "0.4"});
  expect_contains(error({{text}, {}, " ", -0.1, 0, 0}), {"fractions"});
  expect_contains(error({{text}, {}, " ", std::nan(""), 0, 0}), {"fractions"});
  EXPECT_FALSE(fs::exists(folder_ / "out" / "corpus"));
}

/// Every file of the output by name.
std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) files[entry.path().filename()] = read_file(entry.path());
  return files;
}

std::string json_lines(int count, int seed) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += fmt::format("{{\"id\":{},\"text\":\"document {} of {} é\\n{}\"}}\n", i, i, seed, std::string(i % 97, 'x'));
  return text;
}

TEST_F(Prepare, TheNumberOfThreadsChangesNothing) {
  const std::vector<fs::path> inputs = {
      put("a.jsonl", json_lines(20000, 1)), put_packed(folder_ / "b.jsonl.zst", json_lines(20000, 2)),
      put("c.txt", lines(50000)),
      put_tar(folder_ / "d.tgz", {{"x.txt", lines(20000)}, {"y.jsonl", json_lines(9000, 1)}})};
  for (const bool shuffle : {false, true}) {
    PrepareOptions options{inputs, {}, "\n", 0.1, 0.05, 3};
    options.dedupe = true;
    options.shuffle = shuffle;
    const PrepareResult one = run(options);
    EXPECT_EQ(one.duplicates, 20000 + 9000);
    const auto expected = files_in(folder_ / "out" / "corpus");
    EXPECT_EQ(expected.size(), 9U);
    for (const int threads : {2, 5}) {
      options.threads = threads;
      const PrepareResult result = run(options);
      EXPECT_EQ(result.duplicates, one.duplicates);
      EXPECT_EQ(files_in(folder_ / "out" / "corpus"), expected) << threads << " threads";
    }
  }
}

TEST_F(Prepare, JsonLinesFromAnyPacking) {
  const std::string text = "{\"body\":\"one\"}\r\n{\"body\":\"\"}\n{\"x\":1,\"body\":\"two\"}";
  for (const char* name : {"a.jsonl", "a.ndjson.gz", "a.json.zst", "a.jsonl.xz"}) {
    PrepareOptions options{{put_packed(folder_ / name, text)}, {}, "", 0, 0, 0};
    options.field = "body";
    const PrepareResult result = run(options);
    EXPECT_EQ(result.empty, 1);
    EXPECT_EQ(documents_of(folder_ / "out" / "corpus"), (Texts{"one", "two"})) << name;
  }
}

TEST_F(Prepare, BadLinesStopOrAreCountedWithFileAndLine) {
  put("a.jsonl", "{\"text\":\"one\"}\n\nnot json\n{\"text\":\"two\"}\n");
  put("b.jsonl",
      "{\"text\":7}\n{\"text\":\"" + std::string(3000, 'x') + "\"}\n{\"text\":\"three\"}\n{\"id\":1}\n{\"text\":NaN}");
  PrepareOptions options{{folder_ / "a.jsonl", folder_ / "b.jsonl"}, {}, "", 0, 0, 0};
  options.longest = 2000;
  for (const int threads : {1, 4}) {
    options.threads = threads;
    options.bad_lines = BadLines::kStop;
    expect_contains(error_of([&] { run(options); }), {"a.jsonl:2: the line is empty", "--bad-lines skip"});
    EXPECT_FALSE(fs::exists(folder_ / "out" / "corpus.idx"));
    options.bad_lines = BadLines::kSkip;
    const PrepareResult result = run(options);
    EXPECT_EQ(documents_of(folder_ / "out" / "corpus"), (Texts{"one", "two", "three"}));
    EXPECT_EQ(result.bad, 6);
    ASSERT_EQ(result.bad_examples.size(), 5U);
    expect_contains(result.bad_examples[1], {"a.jsonl:3: not JSON at byte"});
    expect_contains(result.bad_examples[2], {"b.jsonl:1: expected a string"});
    expect_contains(result.bad_examples[3], {"b.jsonl:2: longer than 2000 bytes"});
    expect_contains(result.bad_examples[4], {"b.jsonl:4: the field \"text\" is missing"});
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(Prepare, DropsCopiesOfAnySize) {
  // The large ones lie at different places of the files and are cut into pieces on the way.
  const std::string large(size_t{5} << 19, 'L'), other = large + "!";
  const fs::path a = put("a.txt", "same|" + large + "|own"),
                 b = put("b.txt", "x|yy|same|" + large + "|" + other + "|x|X");
  PrepareOptions options{{a, b}, {}, "|", 0, 0, 0};
  options.dedupe = true;
  const PrepareResult result = run(options);
  EXPECT_EQ(documents_of(folder_ / "out" / "corpus"), (Texts{"same", large, "own", "x", "yy", other, "X"}));
  EXPECT_EQ(result.duplicates, 3);
}

TEST_F(Prepare, CopiesAreToldWhateverTheFormat) {
  constexpr size_t kMiB = size_t{1} << 20;
  for (const size_t size : {size_t{1000}, kMiB - 1, kMiB, kMiB + 1, 3 * kMiB, 3 * kMiB + 77}) {
    const std::string document(size, 'L');
    const fs::path line = put("a.jsonl", fmt::format("{{\"text\":\"{}\"}}\n", document));
    PrepareOptions options{{line, put("b.txt", document), put("c.txt", document + "!")}, {}, "", 0, 0, 0};
    options.dedupe = true;
    EXPECT_EQ(run(options).duplicates, 1) << size;
    EXPECT_EQ(documents_of(folder_ / "out" / "corpus"), (Texts{document, document + "!"})) << size;
  }
}

TEST_F(Prepare, ASplitReplacesTheWholeOfAnOlderOne) {
  run({{put("a", lines(100))}, {}, "\n", 0.2, 0.1, 0});
  EXPECT_TRUE(fs::exists(folder_ / "out" / "corpus" / "test.idx"));
  run({{folder_ / "a"}, {}, "\n", 0.2, 0, 5});
  const auto files = files_in(folder_ / "out" / "corpus");
  EXPECT_EQ(files.size(), 6U);
  EXPECT_EQ(files.count("test.idx") + files.count("test.bin") + files.count("test.json"), 0U);
}

TEST_F(Prepare, WhatAKilledRunLeftIsClearedByTheNextOneToThatOutput) {
  const pid_t child = ::fork();
  if (child == 0) _exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const auto leave = [&](const fs::path& folder, const std::vector<std::string>& targets) {
    for (const std::string& target : targets) put(folder / fmt::format(".{}.tmp-{}", target, child), "1234567");
  };
  const auto left_in = [](const fs::path& folder) {
    int64_t count = 0;
    for (const auto& entry : fs::directory_iterator(folder)) count += entry.path().filename().string().starts_with('.');
    return count;
  };
  leave("out", {"corpus.bin", "corpus.idx", "corpus.json", "corpus.documents-12"});
  leave("out", {"corpus2.bin", "train.bin", "documents-0", "corpus.documents-1.bin"});  // of other outputs
  leave("out/corpus", {"train.bin", "test.idx", "valid.json", "documents-3"});
  leave("out/corpus", {"corpus.bin", "train2.bin"});
  const PrepareOptions one{{put("a", lines(100))}, {}, "\n", 0, 0, 0};
  PrepareOptions split = one;
  split.valid = 0.2;
  Removed removed = run(one).abandoned;
  EXPECT_EQ(removed.files, 4);
  EXPECT_EQ(removed.bytes, 4U * 7);
  EXPECT_EQ(left_in(folder_ / "out"), 4);
  EXPECT_EQ(left_in(folder_ / "out" / "corpus"), 6);
  removed = run(split).abandoned;
  EXPECT_EQ(removed.files, 4);
  EXPECT_EQ(left_in(folder_ / "out"), 4);
  EXPECT_EQ(left_in(folder_ / "out" / "corpus"), 2);
  EXPECT_EQ(run(split).abandoned.files, 0);
}

TEST_F(Prepare, ShufflingMovesDocumentsWithinTheirPart) {
  PrepareOptions options{{put("a", lines(1000))}, {}, "\n", 0.1, 0, 7};
  run(options);
  const Texts train = part("train"), valid = part("valid");
  options.shuffle = true;
  run(options);
  const Texts shuffled = part("train");
  EXPECT_NE(shuffled, train);
  const auto sorted = [](Texts texts) {
    std::sort(texts.begin(), texts.end());
    return texts;
  };
  EXPECT_EQ(sorted(shuffled), sorted(train));
  EXPECT_EQ(sorted(part("valid")), sorted(valid));
  int stayed = 0;
  for (size_t i = 0; i < train.size(); ++i) stayed += shuffled[i] == train[i] ? 1 : 0;
  EXPECT_LT(stayed, 10);
  options.seed = 8;
  run(options);
  EXPECT_NE(part("train"), shuffled);
}

/// Bytes, but like a tokenizer of words it needs the whole text, and it marks beginning and end. Refuses '!', and has
/// no tokens for a text that is "~".
class MarkingTokenizer final : public Tokenizer {
 public:
  int64_t vocabulary() const override { return 258; }
  std::vector<int32_t> encode(std::string_view text) const override {
    check(text.find('!') == std::string_view::npos, "no '!' please");
    if (text == "~") return {};
    return bytes_.encode(text);
  }
  std::string decode(int32_t token) const override { return bytes_.decode(token); }
  std::string decode_text(std::span<const int32_t> tokens) const override { return bytes_.decode_text(tokens); }
  SpecialTokens special_tokens() const override { return {256, 257, {}, {}}; }
  nlohmann::ordered_json describe() const override { return bytes_.describe(); }
  std::string fingerprint() const override { return "marking"; }

 private:
  ByteTokenizer bytes_;
};

TEST_F(Prepare, MarksBeginningsAndEnds) {
  PrepareOptions options{{put("a.txt", "ab||c")}, folder_ / "out" / "corpus", "|", 0, 0, 0};
  options.prepend_bos = options.append_eos = true;
  prepare(options, MarkingTokenizer());
  const TokenFile file(options.output);
  EXPECT_EQ(all_tokens(file), (std::vector<int64_t>{256, 'a', 'b', 257, 256, 'c', 257}));
  EXPECT_EQ(file.documents(), 2);
  EXPECT_EQ(file.marks(), (DocumentMarks{true, true}));
  expect_contains(error_of([&] { run(options); }), {"bytes", "no token that begins a document"});
  options.prepend_bos = false;
  expect_contains(error_of([&] { run(options); }), {"no token that ends a document"});
}

TEST_F(Prepare, DocumentsWithoutTokensCountAsEmpty) {
  PrepareOptions options{{put("a.txt", "ab|~||c|~")}, folder_ / "out" / "corpus", "|", 0, 0, 0};
  const PrepareResult result = prepare(options, MarkingTokenizer());
  EXPECT_EQ(result.empty, 3);
  EXPECT_EQ(documents_of(options.output), (Texts{"ab", "c"}));
}

TEST_F(Prepare, DocumentsThatAreTooLongForTheTokenizer) {
  PrepareOptions options{
      {put("a.txt", "one|" + std::string(700, 'x') + "|two")}, folder_ / "out" / "corpus", "|", 0, 0, 0};
  options.longest = 500;
  expect_contains(error_of([&] { prepare(options, MarkingTokenizer()); }),
                  {"a.txt:document 2: longer than 500 bytes", "separator"});
  options.bad_lines = BadLines::kSkip;
  EXPECT_EQ(prepare(options, MarkingTokenizer()).bad, 1);
  EXPECT_EQ(documents_of(options.output), (Texts{"one", "two"}));
  EXPECT_EQ(run(options).bad, 0) << "bytes need no whole documents";
}

TEST_F(Prepare, AnErrorInAnyStagePublishesNothing) {
  const fs::path good = put("good.txt", lines(200000));
  const std::string packed = read_file(put_packed(folder_ / "whole.txt.gz", lines(300000)));
  const fs::path cut = put("cut.txt.gz", std::string_view(packed).substr(0, packed.size() / 2));
  const fs::path refused = put("refused.txt", lines(100000) + "!\n" + lines(100000));
  for (const int threads : {1, 3}) {
    const auto error = [&](const std::vector<fs::path>& inputs) {
      PrepareOptions options{inputs, folder_ / "out" / "corpus", "\n", 0.1, 0.1, 0};
      options.threads = threads;
      std::string message = error_of([&] { prepare(options, MarkingTokenizer()); });
      EXPECT_FALSE(fs::exists(folder_ / "out"));
      return message;
    };
    expect_contains(error({good, cut}), {"cannot decompress", "cut.txt.gz"});
    expect_contains(error({good, refused, cut}), {"no '!' please"});
    expect_contains(error({cut, refused}), {"cut.txt.gz"});
  }
}

TEST_F(Prepare, AFullDiskPublishesNothing) {
  const fs::path input = put("a.txt", std::string(size_t{3} << 20, 'x'));
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{size_t{1} << 20, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  for (const int threads : {1, 3}) {
    PrepareOptions options{{input}, {}, "", 0, 0, 0};
    options.threads = threads;
    expect_contains(error_of([&] { run(options); }), {"cannot write", "corpus.bin"});
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
}

TEST_F(Prepare, MemoryDoesNotGrowWithTheInput) {
  // Files that take no space on the disk: 200 MB as one document, 1 GiB as one line that is far too long.
  const auto peak = [&](const fs::path& input, size_t bytes, int threads) {
    fs::resize_file(input, bytes);
    PrepareOptions options{{input}, folder_ / "out" / "corpus", "", 0, 0, 0};
    options.threads = threads;
    options.bad_lines = BadLines::kSkip;
    const int64_t before = resident_bytes();
    int64_t most = 0;
    const PrepareResult result =
        prepare(options, ByteTokenizer(), [&](const PrepareStatus&) { most = std::max(most, resident_bytes()); });
    EXPECT_EQ(result.bad, input.extension() == ".jsonl" ? 1 : 0);
    return most - before;
  };
  const int64_t of_text = peak(put("a.txt", "x"), size_t{200} << 20, 1);
  put("b.jsonl", "{\"text\":\"x\"}\n");
  const int64_t of_lines = peak(folder_ / "b.jsonl", size_t{1} << 30, 2);
  if (!kMeasuresMemory) return;
  EXPECT_LT(of_text, int64_t{64} << 20);
  EXPECT_LT(of_lines, int64_t{160} << 20);
}

}  // namespace
}  // namespace megalodon::data::corpus_test
