#include "data/example_sources.h"

#include "data/archive_testing.h"
#include "data/png_testing.h"
#include "data/tokenizer.h"
#include "data/wav_testing.h"

namespace megalodon::data {
namespace {

using Texts = std::vector<std::string>;

class ExampleSources : public FolderTest {
 protected:
  ExampleSetOptions set_of(const std::vector<fs::path>& inputs) const {
    ExampleSetOptions set;
    set.output = folder_ / "out";
    set.train = inputs;
    return set;
  }
  ExampleFile made(const char* part) const { return ExampleFile(folder_ / "out" / part); }
};

/// "label: text", or of pairs "label: text | text".
Texts texts_of(const ExampleFile& file) {
  Texts texts;
  for (int64_t example = 0; example < file.size(); ++example) {
    std::string& text = texts.emplace_back(std::to_string(file.label(example)) + ": ");
    for (int64_t sequence = 0; sequence < file.sequences(); ++sequence) {
      const std::vector<int64_t> tokens = tokens_of(file, example, sequence);
      if (sequence > 0) text += " | ";
      text.append(tokens.begin(), tokens.end());
    }
  }
  return texts;
}

TEST_F(ExampleSources, TextByNameOfItsColumn) {
  const fs::path table = put("a.tsv", "Source\tTarget\r\n( [MAX 1 2 ] )\t2\r\n[MIN 1 2 ]\t1\r\n\t0\r\n");
  const auto result = make_examples(set_of({table}), TextExamples{.label = "Target", .text = {"Source"}, .drop = "()"});
  EXPECT_EQ(result.empty, 1);
  EXPECT_EQ(result.classes.count, 3) << "numbers are classes themselves";
  EXPECT_TRUE(result.classes.names.empty());
  ASSERT_EQ(result.parts.size(), 1U);
  EXPECT_EQ(result.parts[0].name, "");
  EXPECT_EQ(result.parts[0].examples, 2);
  EXPECT_EQ(result.parts[0].steps, 22);
  const ExampleFile file(folder_ / "out");
  EXPECT_EQ(texts_of(file), (Texts{"2:  [MAX 1 2 ] ", "1: [MIN 1 2 ]"}));
  EXPECT_EQ(file.tokenizer(), ByteTokenizer().describe());
}

TEST_F(ExampleSources, WordsOfTheTrainingTexts) {
  ExampleSetOptions set = set_of({put("train.tsv", "0\tb a b\n1\tc a b\n")});
  set.valid = {put("valid.tsv", "1\tc d\n")};
  make_examples(set, TextExamples{.label = "1", .text = {"2"}, .tokenizer = "words"});
  EXPECT_EQ(read_file(folder_ / "out/tokenizer.words"), "<unk>\nb\na\nc\n");
  EXPECT_EQ(tokens_of(made("train"), 0), (std::vector<int64_t>{1, 2, 1}));
  EXPECT_EQ(tokens_of(made("valid"), 0), (std::vector<int64_t>{3, 0}));
  EXPECT_EQ(made("train").tokenizer(), make_tokenizer((folder_ / "out").string())->describe());
}

TEST_F(ExampleSources, WordsOfOneFileAreListedBesideIt) {
  const fs::path table = put("a.tsv", "0\tb a b\n");
  make_examples(set_of({table}), TextExamples{.label = "1", .text = {"2"}, .tokenizer = "words"});
  EXPECT_EQ(names(), (std::set<std::string>{"a.tsv", "out.safetensors", "out.words"}));
  const auto tokenizer = make_tokenizer((folder_ / "out.words").string());
  EXPECT_EQ(ExampleFile(folder_ / "out").tokenizer(), tokenizer->describe());
  EXPECT_EQ(tokenizer->vocabulary(), 3);
}

TEST_F(ExampleSources, WordsOfWhatIsHeldOutAreNotListed) {
  std::string table;
  for (int i = 0; i < 100; ++i) table += fmt::format("{}\tw{}\n{}", i % 2, i, i % 5 == 0 ? "0\t \n2\tother\n" : "");
  ExampleSetOptions set = set_of({put("a.tsv", table)});
  set.valid_fraction = 0.4;
  set.classes = {"0", "1"};
  make_examples(set, TextExamples{.label = "1", .text = {"2"}, .tokenizer = "words"});
  const auto tokenizer = make_tokenizer((folder_ / "out").string());
  EXPECT_EQ(tokenizer->vocabulary(), 1 + made("train").size());
  EXPECT_EQ(made("train").largest_token(), made("train").size());
  EXPECT_EQ(made("valid").largest_token(), 0) << "<unk> alone";
}

TEST_F(ExampleSources, AnErrorLeavesTheWordsOfTheOlderSet) {
  const TextExamples columns{.label = "1", .text = {"2"}, .tokenizer = "words"};
  ExampleSetOptions set = set_of({put("a.tsv", "0\told\n1\told\n")});
  set.valid = {put("b.tsv", "0\told\n")};
  make_examples(set, columns);
  put("a.tsv", "0\tnew\n1\tnew\n");
  put("b.tsv", "0\t\n");
  expect_contains(error_of([&] { make_examples(set, columns); }), {"valid has none"});
  EXPECT_EQ(read_file(folder_ / "out/tokenizer.words"), "<unk>\nold\n");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "out"), fs::directory_iterator()), 3);
}

TEST_F(ExampleSources, CountingWordsTellsHowFarItIs) {
  const fs::path table = put("a.tsv", "0\tb\n1\ta\n");
  const TextExamples columns{.label = "1", .text = {"2"}, .tokenizer = "words"};
  std::vector<int64_t> examples;
  make_examples(set_of({table}), columns, [&](uint64_t, uint64_t, int64_t so_far) { examples.push_back(so_far); });
  EXPECT_EQ(examples, (std::vector<int64_t>{0, 0, 0, 1, 2, 2}));
  expect_contains(error_of([&] {
                    make_examples(set_of({table}), columns, [](uint64_t, uint64_t, int64_t so_far) {
                      check(so_far > 0, "stopped while words are counted");
                    });
                  }),
                  {"stopped while words are counted"});
}

TEST_F(ExampleSources, PairsByNumberOfTheirColumns) {
  const fs::path table = put("a.tsv", "1.0\t7\tleft\tright\n0.0\t8\ta\tb\n");
  make_examples(set_of({table}), TextExamples{.label = "1", .text = {"3", "4"}});
  EXPECT_EQ(texts_of(ExampleFile(folder_ / "out")), (Texts{"1: left | right", "0: a | b"}));
  make_examples(set_of({table}), TextExamples{.label = "1", .text = {"3"}, .header = true});
  EXPECT_EQ(texts_of(ExampleFile(folder_ / "out")), (Texts{"0: a"}));
}

TEST_F(ExampleSources, NamedClassesOfAllParts) {
  ExampleSetOptions set = set_of({put("train.csv", "label,text\nspam,1\nham,2\nother,3\n")});
  set.valid = {put("valid.csv", "text,label\n4,ham\n")};
  const TextExamples columns{.label = "label", .text = {"text"}};
  const auto all = make_examples(set, columns);
  EXPECT_EQ(all.classes.names, (Texts{"ham", "other", "spam"}));
  EXPECT_EQ(texts_of(made("train")), (Texts{"2: 1", "0: 2", "1: 3"}));
  EXPECT_EQ(texts_of(made("valid")), (Texts{"0: 4"}));
  EXPECT_EQ(made("valid").class_names(), all.classes.names);
  set.classes = {"spam", "ham"};
  const auto some = make_examples(set, columns);
  EXPECT_EQ(some.others, 1);
  EXPECT_EQ(texts_of(made("train")), (Texts{"0: 1", "1: 2"}));
  EXPECT_EQ(texts_of(made("valid")), (Texts{"1: 4"}));
  EXPECT_EQ(made("train").class_names(), set.classes);
}

TEST_F(ExampleSources, NumbersAreClasses) {
  const auto make = [&](const std::string& table, const Texts& classes = {}) {
    ExampleSetOptions set = set_of({put("a.tsv", table)});
    set.classes = classes;
    return make_examples(set, TextExamples{.label = "1", .text = {"2"}});
  };
  const auto stars = make("3.0\tx\n1\ty\n03\tz\n");
  EXPECT_EQ(stars.classes.count, 4);
  EXPECT_EQ(stars.unused, (Texts{"0", "2"}));
  EXPECT_EQ(texts_of(ExampleFile(folder_ / "out")), (Texts{"3: x", "1: y", "3: z"}));
  EXPECT_EQ(make("9999\tx\n").classes.count, 10000);
  expect_contains(error_of([&] { make("1\tx\n10000.0\ty\n"); }), {"at most 9999, got 10000.0"});
  expect_contains(error_of([&] { make("18446744073709551617\tx\n"); }), {"at most 9999", "18446744073709551617"});
  EXPECT_EQ(make("10000\tx\nmany\ty\n").classes.names, (Texts{"10000", "many"})) << "not all are numbers";
  const auto asked = make("0.0\tx\n1\ty\n2\tz\n", {"1.0", "0", "5"});
  EXPECT_EQ(texts_of(ExampleFile(folder_ / "out")), (Texts{"1: x", "0: y"}));
  EXPECT_EQ(asked.others, 1);
  EXPECT_EQ(asked.unused, Texts{"5"});
  expect_contains(error_of([&] { make("1\tx\n", {"1", "1.0"}); }), {"\"1.0\" is named twice"});
}

TEST_F(ExampleSources, FractionsAreDrawnByNumberAndSeed) {
  std::string table;
  for (int i = 0; i < 100; ++i) table += fmt::format("{}\t{}\n", i % 3, i);
  ExampleSetOptions set = set_of({put("a.tsv", table)});
  set.valid_fraction = 0.2, set.test_fraction = 0.3;
  const TextExamples columns{.label = "1", .text = {"2"}};
  const auto parts_of = [&](uint64_t seed) {
    set.seed = seed;
    make_examples(set, columns);
    std::vector<Texts> parts;
    for (const char* part : kParts) parts.push_back(texts_of(made(part)));
    return parts;
  };
  const auto parts = parts_of(1);
  EXPECT_EQ(parts[0].size() + parts[1].size() + parts[2].size(), 100U);
  EXPECT_NEAR(static_cast<double>(parts[1].size()), 20, 12);
  EXPECT_NEAR(static_cast<double>(parts[2].size()), 30, 14);
  EXPECT_EQ(parts_of(1), parts);
  const auto others = parts_of(2);
  EXPECT_NE(others, parts);
  set.valid_fraction = 1e-9;
  expect_contains(error_of([&] { parts_of(1); }), {"valid has none of 100 examples"});
  EXPECT_EQ(texts_of(made("train")), others[0]) << "what was there stays";
}

TEST_F(ExampleSources, TextRefusals) {
  const fs::path table = put("a.tsv", "label\ttext\n1\tx\n\ty\n");
  const auto refusal = [&](const TextExamples& options) {
    return error_of([&] { make_examples(set_of({table}), options); });
  };
  expect_contains(refusal({.label = "Label", .text = {"text"}}), {"a.tsv', line 1", "a column Label", "label, text"});
  expect_contains(refusal({.label = "1", .text = {"3"}}), {"a column 3", "2 columns"});
  expect_contains(refusal({.label = "0", .text = {"1"}}), {"count from 1"});
  expect_contains(refusal({.label = "label", .text = {"text"}}), {"a.tsv', line 3", "label is empty"});
  expect_contains(refusal({.label = "1", .text = {"2", "2", "2"}}), {"two of pairs, got 3"});
  expect_contains(refusal({.label = "1", .text = {"2"}, .drop = "(é"}), {"must be ASCII", "(é"});
  expect_contains(error_of([&] {
                    make_examples(set_of({table, table}), TextExamples{.label = "1", .text = {"2"}});
                  }),
                  {"a.tsv", "twice"});
  expect_contains(error_of([&] { make_examples(set_of({"absent.tsv"}), TextExamples{.label = "1", .text = {"2"}}); }),
                  {"absent.tsv", "does not exist"});
  EXPECT_EQ(names(), std::set<std::string>{"a.tsv"});
}

TEST_F(ExampleSources, TextsOfFoldersAndArchives) {
  put("reviews/pos/b.txt", "fine\n");
  put("reviews/pos/a.txt", "good");
  put("reviews/neg/a.txt", "bad");
  put("reviews/neg/empty.txt", "");
  put("reviews/neg/a.json", "no text");
  put("reviews/_notes/a.txt", "no review");
  put("reviews/urls.txt", "in no folder of the input");
  const auto result = make_examples(set_of({folder_ / "reviews"}), FolderExamples{});
  EXPECT_EQ(result.classes.names, (Texts{"neg", "pos"}));
  EXPECT_EQ(result.empty, 1);
  const ExampleFile file(folder_ / "out");
  EXPECT_EQ(texts_of(file), (Texts{"0: bad", "1: good", "1: fine\n"}));
  EXPECT_EQ(file.tokenizer(), ByteTokenizer().describe());

  const std::string large(size_t{100} << 10, 'x');  // more than is read at a time
  const fs::path tar =
      put_tar(folder_ / "a.tar.xz",
              {{"all/pos/1.txt", large}, {"all/unsup/1.txt", "?"}, {"all/neg/1.txt", "bad"}, {"./1.txt", "?"}});
  EXPECT_EQ(make_examples(set_of({tar}), FolderExamples{}).classes.names, (Texts{"neg", "pos", "unsup"}));
  ExampleSetOptions set = set_of({tar});
  set.test = {folder_ / "reviews"};
  set.classes = {"pos", "neg"};
  make_examples(set, FolderExamples{});
  EXPECT_EQ(texts_of(made("train")), (Texts{"0: " + large, "1: bad"}));
  EXPECT_EQ(texts_of(made("test")), (Texts{"1: bad", "0: good", "0: fine\n"}));
  EXPECT_EQ(made("test").class_names(), set.classes);
}

TEST_F(ExampleSources, WordsOfTheTrainingFolders) {
  put("train/pos/a.txt", "b a\n");
  put("train/neg/a.txt", "b");
  put("train/other/a.txt", "not asked for");
  put("test/pos/a.txt", "b new a");
  ExampleSetOptions set = set_of({folder_ / "train"});
  set.test = {folder_ / "test"};
  set.classes = {"neg", "pos"};
  make_examples(set, FolderExamples{.tokenizer = "words"});
  EXPECT_EQ(read_file(folder_ / "out/tokenizer.words"), "<unk>\nb\na\n");
  EXPECT_EQ(tokens_of(made("train"), 1), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(tokens_of(made("test"), 0), (std::vector<int64_t>{1, 0, 2}));
  EXPECT_EQ(made("train").tokenizer(), make_tokenizer((folder_ / "out").string())->describe());
}

TEST_F(ExampleSources, FolderRefusals) {
  ExampleSetOptions set = set_of({put("texts/yes/a.txt", "x").parent_path().parent_path()});
  set.classes = {"no"};
  expect_contains(error_of([&] { make_examples(set, FolderExamples{}); }),
                  {"texts'", "holds no CLASS/NAME.txt of the classes asked for"});
  set = set_of({folder_ / "texts"});
  set.test = {put("texts-too/yes/a.txt", "y").parent_path().parent_path()};
  make_examples(set, FolderExamples{});
  EXPECT_EQ(made("test").size(), 1) << "a name that begins alike is another folder";
  set.test.push_back(folder_ / "texts/yes");
  expect_contains(error_of([&] { make_examples(set, FolderExamples{}); }), {"texts/yes' lies in the input", "texts'"});
  const fs::path huge = folder_ / "texts/yes/a.txt";
  fs::resize_file(huge, (uint64_t{64} << 20) + 1);
  expect_contains(error_of([&] { make_examples(set_of({folder_ / "texts"}), FolderExamples{}); }),
                  {"yes/a.txt", "more than 67108864 bytes"});
  expect_contains(error_of([&] { make_examples(set_of({huge}), FolderExamples{}); }), {"neither a folder nor a .tar"});
}

TEST_F(ExampleSources, Records) {
  const fs::path gray = put_packed(folder_ / "gray.bin.xz", std::string("\2\0\377\0\63\63", 6));
  RecordExamples options{.pixels = 2};
  make_examples(set_of({gray}), options);
  const ExampleFile file(folder_ / "out");
  EXPECT_EQ(file.classes(), 3);
  EXPECT_EQ(file.label(0), 2);
  EXPECT_EQ(vectors_of(file, 0), (std::vector<float>{0, 1}));
  EXPECT_EQ(vectors_of(file, 1), (std::vector<float>{0.2F, 0.2F}));

  const fs::path colours = put("rgb.bin", std::string("\1\377\0\0\63\0\377", 7));  // red 255 0, green 0 51, blue 0 255
  options.colours = RecordExamples::Colours::kRgb;
  ExampleSetOptions set = set_of({colours});
  set.classes = {"no", "yes"};
  make_examples(set, options);
  const ExampleFile wide(folder_ / "out");
  EXPECT_EQ(wide.width(), 3);
  EXPECT_EQ(wide.class_names(), set.classes);
  EXPECT_EQ(vectors_of(wide, 0), (std::vector<float>{1, 0, 0, 0, 0.2F, 1}));
  options.colours = RecordExamples::Colours::kRgbToGray;
  make_examples(set, options);
  EXPECT_EQ(vectors_of(ExampleFile(folder_ / "out"), 0), (std::vector<float>{76 / 255.0F, 59 / 255.0F}));

  set.classes = {"no"};
  expect_contains(error_of([&] { make_examples(set, options); }), {"rgb.bin', record 1", "[0, 1), got 1"});
  options.pixels = 1;
  expect_contains(error_of([&] { make_examples(set_of({colours}), options); }), {"after 3 of 4 bytes of record 2"});
  options.pixels = 0;
  expect_contains(error_of([&] { make_examples(set_of({colours}), options); }), {"got 0"});
}

TEST_F(ExampleSources, GrayIsTensorFlows) {
  EXPECT_EQ(gray_of(0, 0, 0), 0);
  EXPECT_EQ(gray_of(255, 255, 255), 255);
  EXPECT_EQ(gray_of(130, 151, 110), 140);
  EXPECT_EQ(gray_of(142, 138, 99), 134) << "135 if products were rounded before they are added";
  EXPECT_EQ(gray_of(139, 139, 163), 141) << "142";
}

TEST_F(ExampleSources, SoundsOfFoldersAndArchives) {
  put("sounds/yes/b.wav", wav_of({16384}));
  put("sounds/yes/a.wav", wav_of({-32768, 0, 8192}));
  put("sounds/no/a.wav", wav_of({1}));
  put("sounds/_background_noise_/a.wav", wav_of({1}));
  put("sounds/README.md", "no sound");
  const auto result = make_examples(set_of({folder_ / "sounds"}), AudioExamples{.steps = 2});
  EXPECT_EQ(result.classes.names, (Texts{"no", "yes"}));
  const ExampleFile file(folder_ / "out");
  ASSERT_EQ(file.size(), 3);
  EXPECT_EQ(file.label(0), 0);
  EXPECT_EQ(vectors_of(file, 1), (std::vector<float>{-1, 0})) << "cut";
  EXPECT_EQ(vectors_of(file, 2), (std::vector<float>{0.5F, 0})) << "filled";

  const fs::path tar = put_tar(
      folder_ / "a.tar.xz",
      {{"all/yes/1.wav", wav_of({16384, 0, 0})}, {"all/no/1.wav", wav_of({0})}, {"all/maybe/1.wav", wav_of({0})}});
  ExampleSetOptions set = set_of({tar});
  set.classes = {"yes", "no"};
  make_examples(set, AudioExamples{});
  const ExampleFile packed(folder_ / "out");
  ASSERT_EQ(packed.size(), 2);
  EXPECT_EQ(packed.label(1), 1);
  EXPECT_EQ(packed.length(0, 0), 3);
}

TEST_F(ExampleSources, PublishedSplitOfSounds) {
  for (const char* name : {"a", "b", "c", "d"}) put(fmt::format("sounds/yes/{}.wav", name), wav_of({1}));
  put("sounds/no/c.wav", wav_of({1, 1}));
  put("sounds/validation_list.txt", "yes/a.wav\r\n");
  put("sounds/testing_list.txt", "no/c.wav\nyes/b.wav");
  make_examples(set_of({folder_ / "sounds"}), AudioExamples{});
  EXPECT_EQ(made("train").size(), 2);
  EXPECT_EQ(made("valid").size(), 1);
  EXPECT_EQ(made("test").size(), 2);
  EXPECT_EQ(made("test").longest(), 2);
  EXPECT_EQ(made("train").class_names(), (Texts{"no", "yes"}));
  fs::remove(folder_ / "sounds/testing_list.txt");
  expect_contains(error_of([&] { make_examples(set_of({folder_ / "sounds"}), AudioExamples{}); }),
                  {"validation_list.txt names recordings", "testing_list.txt is missing"});
  ExampleSetOptions set = set_of({folder_ / "sounds"});
  set.output = folder_ / "drawn";
  set.valid_fraction = 0.4;
  make_examples(set, AudioExamples{});
  EXPECT_FALSE(fs::exists(folder_ / "drawn/test.safetensors"));
  EXPECT_EQ(ExampleFile(folder_ / "drawn/train").size() + ExampleFile(folder_ / "drawn/valid").size(), 5);
}

TEST_F(ExampleSources, AudioRefusals) {
  put("sounds/yes/a.wav", wav_of({1}));
  put("sounds/yes/b.wav", wav_of({1}, 8000));
  const auto refusal = [&](const fs::path& input) {
    return error_of([&] { make_examples(set_of({input}), AudioExamples{}); });
  };
  expect_contains(refusal(folder_ / "sounds"), {"yes/b.wav", "8000 samples a second", "16000"});
  put("sounds/yes/b.wav", "text");
  expect_contains(refusal(folder_ / "sounds"), {"yes/b.wav", "[wav]"});
  expect_contains(refusal(put("empty/readme.txt", "x").parent_path()), {"empty", "holds no CLASS/NAME.wav"});
  expect_contains(refusal(folder_ / "empty/readme.txt"), {"neither a folder nor a .tar"});
  expect_contains(error_of([&] { make_examples(set_of({folder_ / "sounds"}), AudioExamples{.steps = -1}); }),
                  {"got -1"});
}

TEST_F(ExampleSources, Pathfinder) {
  put("hard/imgs/0/sample_0.png", png_of(2, 1, "\1\2"));
  put("hard/imgs/0/sample_1.png", "");
  put("hard/imgs/10/sample_0.png", png_of(2, 1, "\3\4"));
  put("hard/imgs/9/sample_0.png", png_of(2, 1, std::string("\377\0", 2)));
  put("hard/metadata/0.npy", "imgs/0 sample_0.png 0 1 1.8 6 2\nimgs/0 sample_1.png 1 0 1.8 6 2\n");
  put("hard/metadata/10.npy", "imgs/10 sample_0.png 0 0 1.8\n");
  put("hard/metadata/9.npy", "imgs/9 sample_0.png 0 1");
  const auto result = make_examples(set_of({folder_ / "hard"}), PathfinderExamples());
  EXPECT_EQ(result.empty, 1) << "an image whose file is empty";
  const ExampleFile file(folder_ / "out");
  ASSERT_EQ(file.size(), 3);
  EXPECT_EQ(file.classes(), 2);
  EXPECT_EQ(file.label(0), 1);
  EXPECT_EQ(vectors_of(file, 0), (std::vector<float>{1 / 255.0F, 2 / 255.0F}));
  EXPECT_EQ(vectors_of(file, 1), (std::vector<float>{1, 0})) << "metadata in the order of their numbers";
  EXPECT_EQ(file.label(2), 0);

  const auto refusal = [&](const std::string& line) {
    put("hard/metadata/10.npy", line);
    return error_of([&] { make_examples(set_of({folder_ / "hard"}), PathfinderExamples()); });
  };
  expect_contains(refusal("imgs/0 sample_0.png 0 2"), {"10.npy', line 1", "label 0 or 1", "sample_0.png 0 2"});
  expect_contains(refusal("\x93NUMPY"), {"10.npy', line 1", "label 0 or 1"});
  expect_contains(refusal("imgs/../.. x.png 0 1"), {"leaves the folder"});
  expect_contains(refusal("imgs/0 sample_7.png 0 1"), {"sample_7.png"});
  put("hard/imgs/0/sample_2.png", png_of(1, 2, "\1\2"));
  expect_contains(refusal("imgs/0 sample_2.png 0 1"), {"sample_2.png' has 1 x 2 pixels, those before 2 x 1"});
  put("hard/imgs/0/sample_2.png", png_of(2, 1, "\1\2\3\1\2\3", PNG_FORMAT_RGB));
  expect_contains(refusal("imgs/0 sample_2.png 0 1"), {"[png]", "sample_2.png", "expected gray"});
  const std::string image = png_of(2, 1, "\1\2");
  put("hard/imgs/0/sample_2.png", image.substr(0, image.size() - 20));
  expect_contains(refusal("imgs/0 sample_2.png 0 1"), {"[png]", "sample_2.png"});
  expect_contains(error_of([&] { make_examples(set_of({folder_ / "hard/imgs"}), PathfinderExamples()); }),
                  {"metadata/N.npy"});
}

}  // namespace
}  // namespace megalodon::data
