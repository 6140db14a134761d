#include "infer/snapshot.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/temporary_folder.h"
#include "base/testing.h"
#include "infer/prefix_cache.h"
#include "models/testing.h"
#include "models/weights.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::noisy_model;
using testing::tiny_config;
using Tokens = std::vector<int64_t>;

Tokens text(int64_t length, int64_t seed = 3) {
  const Tensor tokens = testing::random_tokens(tiny_config(), 1, length, seed);
  return {tokens.data_ptr<int64_t>(), tokens.data_ptr<int64_t>() + length};
}

class SnapshotTest : public ::testing::Test {
 protected:
  fs::path path() const { return folder_.path() / "state.safetensors"; }

  void save(int64_t length) const {
    Stream stream;
    engine_.read(stream, text(length));
    save_snapshot(path(), engine_, {stream, {{"note", "x"}}});
  }

  /// Saves a snapshot of so many tokens, whose tensors and metadata `change` has changed.
  template <class Change>
  void save_changed(int64_t length, const Change& change) const {
    save(length);
    std::map<std::string, std::string> metadata;
    NamedTensors tensors;
    {
      const io::TensorFile file = io::read_safetensors(path());
      metadata = file.metadata();
      for (const io::TensorView& view : file.tensors()) tensors.emplace_back(view.name, to_tensor(view));
    }
    std::map<std::string, Tensor*> by_name;
    for (auto& [name, tensor] : tensors) by_name[name] = &tensor;
    change(metadata, by_name);
    std::vector<io::TensorView> views;
    for (const auto& [name, tensor] : tensors)
      if (tensor.defined()) views.push_back(to_view(name, tensor));
    io::write_safetensors(path(), views, metadata);
  }

  /// The error of loading a snapshot of 21 tokens that `change` has changed.
  template <class Change>
  std::string error_after(const Change& change) const {
    save_changed(21, change);
    try {
      load_snapshot(path(), engine_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  /// A stream that says of itself that it is of `tokens` tokens, in truth those of text(14).
  Stream pretended(int64_t tokens) const {
    save_changed(14, [&](auto& metadata, auto& tensors) {
      metadata["tokens"] = std::to_string(tokens);
      for (auto& [name, tensor] : tensors)
        if (name.starts_with("state.") && name.ends_with(".0")) tensor->fill_(tokens);
    });
    return load_snapshot(path(), engine_).stream;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Model> model_ = noisy_model(tiny_config());
  Engine engine_{*model_};
};

/// Counters go on beyond 2^31 and 2^53, and past numbers of that size the statistics hardly move.
TEST_F(SnapshotTest, StreamsGoOnWhereCountersOfFewerBitsOverflow) {
  Stream reference = pretended((int64_t{1} << 50) - 2);
  engine_.read(reference, text(30, 4));
  for (const int bits : {31, 53}) {
    const int64_t tokens = (int64_t{1} << bits) - 2;
    Stream stream = pretended(tokens);
    engine_.read(stream, text(30, 4));
    EXPECT_EQ(stream.tokens(), tokens + 30);
    for (const auto& [name, tensor] : engine_.tensors(stream)) {
      if (!name.starts_with("state.") || !name.ends_with(".0")) continue;
      EXPECT_EQ(tensor.item<int64_t>(), tokens + 30) << name;
    }
    EXPECT_TRUE(testing::close(stream.logits(), reference.logits(), 1e-5)) << bits;
  }
}

/// Bit for bit, from any position: nothing is computed again.
TEST_F(SnapshotTest, AStreamGoesOnFromItAsIfItHadNeverStopped) {
  const Tokens more = text(30, 4);
  for (const int64_t length : {1, 7, 8, 21, 24}) {
    Stream stream;
    engine_.read(stream, text(length));
    save(length);
    Snapshot loaded = load_snapshot(path(), engine_);
    EXPECT_EQ(loaded.stream.tokens(), length);
    EXPECT_EQ(loaded.more["note"], "x");
    EXPECT_TRUE(torch::equal(loaded.stream.logits(), stream.logits()));
    engine_.read(stream, more);
    engine_.read(loaded.stream, more);
    EXPECT_TRUE(torch::equal(loaded.stream.logits(), stream.logits())) << length;
  }
}

TEST_F(SnapshotTest, AtTheEndOfAChunkItHoldsNoKeysAndValues) {
  save(23);
  EXPECT_NE(io::read_safetensors(path()).find("keys.1"), nullptr);
  save(24);
  EXPECT_EQ(io::read_safetensors(path()).find("keys.1"), nullptr);
}

TEST_F(SnapshotTest, OneOfAnotherModelIsRefused) {
  save(9);
  const auto other = noisy_model(tiny_config(), 2);
  const Engine engine(*other);
  expect_contains(error_of([&] { load_snapshot(path(), engine); }),
                  {"of another model", engine_.fingerprint(), engine.fingerprint()});
}

TEST_F(SnapshotTest, WhatNoStreamCanHaveIsRefused) {
  using Metadata = std::map<std::string, std::string>;
  using Named = std::map<std::string, Tensor*>;
  const auto of = [&](const char* key, const char* value) {
    return error_after([&](Metadata& metadata, Named&) { metadata[key] = value; });
  };
  EXPECT_EQ(error_after([](Metadata&, Named&) {}), "");
  expect_contains(of("content_version", "2"), {"another version", "'1'", "'2'"});
  expect_contains(of("tokens", "-1"), {"tokens", "-1"});
  expect_contains(of("tokens", "9223372036854775807"), {"tokens", "at most"});
  expect_contains(of("tokens", "22"), {"damaged"});
  expect_contains(of("tokens", "29"), {"damaged", "of 21 tokens", "of 29"});
  expect_contains(of("more", "{"), {"damaged"});
  expect_contains(error_after([](Metadata&, Named& t) { t["state.0.3"]->view(-1)[0] = NAN; }),
                  {"state.0.3", "not finite"});
  expect_contains(error_after([](Metadata&, Named& t) { t["values.1"]->view(-1)[5] = INFINITY; }),
                  {"values.1", "not finite"});
  expect_contains(error_after([](Metadata&, Named& t) { t["state.2.2"]->view(-1)[1] = -1e-3; }),
                  {"variance", "negative"});
  for (const float number : {NAN, INFINITY, -INFINITY})
    expect_contains(error_after([&](Metadata&, Named& t) { t["logits"]->view(-1)[3] = number; }),
                    {"logits", "not finite"});
  expect_contains(error_after([](Metadata&, Named& t) { t["logits"]->fill_(-INFINITY); }), {"logits", "not finite"});
  expect_contains(error_after([](Metadata&, Named& t) { *t["logits"] = Tensor(); }), {"logits", "found nothing"});
  expect_contains(error_after([](Metadata&, Named& t) { *t["keys.0"] = t["keys.0"]->narrow(0, 0, 4).contiguous(); }),
                  {"keys.0", "[5, 2, 4]", "[4, 2, 4]"});
}

/// As older versions wrote them.
TEST_F(SnapshotTest, GroupedHeadsThatAreRepeatedAreRefused) {
  const auto model = noisy_model(*make_preset("llama2-tiny"));
  const Engine engine(*model);
  Stream stream;
  engine.read(stream, text(9));
  NamedTensors tensors = engine.tensors(stream);
  std::vector<io::TensorView> views;
  for (auto& [name, tensor] : tensors) {
    if (name.starts_with("keys")) tensor = tensor.repeat_interleave(2, 1);
    views.push_back(to_view(name, tensor));
  }
  expect_contains(error_of([&] { engine.restore({views, {}, {}}, 9); }), {"keys.0", "[9, 2, 8]", "[9, 4, 8]"});
}

TEST_F(SnapshotTest, ANumberThatIsNotFiniteIsRefusedWhereverItIs) {
  save(21);
  const io::TensorFile file = io::read_safetensors(path());
  std::set<std::string> names;
  for (const io::TensorView& view : file.tensors()) names.insert(view.name);
  EXPECT_TRUE(names.contains("state.1.3") && names.contains("keys.1"));
  for (const std::string& name : names) {
    const std::string error = error_after([&](std::map<std::string, std::string>&, std::map<std::string, Tensor*>& t) {
      if (t[name]->is_floating_point() || t[name]->is_complex()) t[name]->view(-1)[t[name]->numel() - 1] = NAN;
    });
    if (!error.empty()) expect_contains(error, {name, "not finite"});
    EXPECT_EQ(error.empty(), name.ends_with(".0") && name.starts_with("state."))
        << name << ": counts are whole numbers";
  }
}

TEST_F(SnapshotTest, ATruncatedFileIsRefusedAtEveryLength) {
  save(21);
  const std::string whole = read_file(path());
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 50) {
    write_file_atomically(path(), whole.substr(0, size));
    EXPECT_THROW(load_snapshot(path(), engine_), Error) << size;
  }
}

TEST_F(SnapshotTest, NothingReadIsNothingToSave) {
  EXPECT_THROW(save_snapshot(path(), engine_, {}), Error);
  EXPECT_FALSE(fs::exists(path()));
}

// ---- prefix cache ---------------------------------------------------------------------------------------------------

class PrefixCacheTest : public SnapshotTest {
 protected:
  /// As if there were no cache.
  void expect_like_reading(const Stream& stream, const Tokens& prompt) const {
    Stream plain;
    engine_.read(plain, prompt);
    EXPECT_EQ(stream.tokens(), plain.tokens());
    EXPECT_TRUE(testing::close(stream.logits(), plain.logits(), 1e-5));
  }
};

TEST_F(PrefixCacheTest, WholeChunksOfWhatIsKnownAreNotReadAgain) {
  PrefixCache cache(engine_);
  Tokens prompt = text(29);
  expect_like_reading(cache.read(prompt), prompt);
  EXPECT_EQ(cache.saved_tokens(), 0);
  prompt[26] ^= 1;  // in the fourth chunk, which was not complete anyway
  expect_like_reading(cache.read(prompt), prompt);
  EXPECT_EQ(cache.saved_tokens(), 24);
  prompt[9] ^= 1;  // in the second chunk
  expect_like_reading(cache.read(prompt), prompt);
  EXPECT_EQ(cache.saved_tokens(), 24 + 8);
  prompt.resize(16);
  expect_like_reading(cache.read(prompt), prompt);
  EXPECT_EQ(cache.saved_tokens(), 24 + 8 + 16) << "a prompt that ends where a chunk does is known whole";
  prompt.resize(5);
  expect_like_reading(cache.read(prompt), prompt);
}

TEST_F(PrefixCacheTest, KeepsToItsBytesAndForgetsTheLeastRecentlyUsed) {
  PrefixCache all(engine_);
  all.read(text(8));
  const int64_t one = all.bytes();
  PrefixCache cache(engine_, {.bytes = 2 * one});
  const Tokens a = text(8, 1), b = text(8, 2), c = text(8, 3);
  cache.read(a);
  cache.read(b);
  cache.read(a);
  cache.read(c);  // b goes
  EXPECT_EQ(cache.bytes(), 2 * one);
  const int64_t before = cache.saved_tokens();
  cache.read(a);
  EXPECT_EQ(cache.saved_tokens(), before + 8);
  cache.read(b);
  EXPECT_EQ(cache.saved_tokens(), before + 8);
}

TEST_F(PrefixCacheTest, AFolderServesTheNextProcessAndKeepsToItsBytes) {
  const PrefixCacheOptions options{.folder = folder_.path() / "prefixes"};
  const Tokens prompt = text(29);
  PrefixCache all_in_memory(engine_, options);
  all_in_memory.read(prompt);
  PrefixCache next(engine_, options);
  expect_like_reading(next.read(prompt), prompt);
  EXPECT_EQ(next.saved_tokens(), 24);

  const std::string one = read_file(fs::directory_iterator(options.folder)->path());
  for (const auto& entry : fs::directory_iterator(options.folder)) write_file_atomically(entry.path(), one);
  PrefixCache mixed(engine_, options);
  expect_like_reading(mixed.read(prompt), prompt);
  EXPECT_EQ(mixed.saved_tokens() % 8, 0);
  EXPECT_LE(mixed.bytes(), all_in_memory.bytes()) << "nor do those that are loaded hold room for keys and values";

  const auto count = [&] { return std::distance(fs::directory_iterator(options.folder), fs::directory_iterator()); };
  EXPECT_EQ(count(), 3);
  for (const auto& entry : fs::directory_iterator(options.folder)) write_file_atomically(entry.path(), "damaged");
  PrefixCache after_damage(engine_, options);
  expect_like_reading(after_damage.read(prompt), prompt);
  EXPECT_EQ(after_damage.saved_tokens(), 0);

  PrefixCacheOptions small = options;
  small.folder_bytes = 1;
  PrefixCache(engine_, small).read(text(8, 9));
  EXPECT_EQ(count(), 0);
}

}  // namespace
}  // namespace megalodon
