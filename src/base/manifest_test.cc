#include "base/manifest.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/hash.h"
#include "base/testing.h"

namespace megalodon {
namespace {

class Manifest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    fs::create_directories(folder_ / "deep");
    for (const auto& [name, text] : files_) {
      write_file_atomically(folder_ / name, text);
      sums_.push_back({name, text.size(), xxh3_64(text)});
    }
    write_manifest(folder_, sums_);
  }

  /// Without the syncing of write_file_atomically(), which many small files would wait for.
  void put(const fs::path& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string error() const {
    try {
      verify_manifest(folder_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  static bool mentions(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }

  const std::vector<std::pair<std::string, std::string>> files_ = {
      {"config.json", "{}"}, {"deep/model.safetensors", std::string(1000, 'm')}, {"empty", ""}};
  std::vector<FileSum> sums_;
};

TEST_F(Manifest, WholeFoldersPass) {
  EXPECT_EQ(error(), "");
  put("notes.txt", "not listed, no matter");
  EXPECT_EQ(error(), "");
}

TEST_F(Manifest, EveryFlippedBitIsNoticed) {
  for (const std::string name : {"config.json", "deep/model.safetensors", kManifestName}) {
    const std::string text = read_file(folder_ / name);
    for (size_t i = 0; i < text.size(); ++i) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
      put(name, damaged);
      EXPECT_TRUE(mentions(error(), (folder_ / name).string() + "' is damaged")) << name << " byte " << i << error();
    }
    put(name, text);
  }
  EXPECT_EQ(error(), "");
}

TEST_F(Manifest, TruncatedLongerAndMissingFilesAreListedTogether) {
  put("config.json", "{} ");
  put("empty", "x");
  fs::remove(folder_ / "deep/model.safetensors");
  const std::string message = error();
  for (const char* part :
       {"config.json' is damaged: expected 2 bytes, got 3", "empty' is damaged", "model.safetensors' is missing"})
    EXPECT_TRUE(mentions(message, part)) << message;
  EXPECT_NO_THROW(verify_manifest(folder_, [](const std::string&) { return false; }));
  fs::remove(folder_ / kManifestName);
  EXPECT_TRUE(mentions(error(), "has no manifest.json")) << error();
}

TEST_F(Manifest, LeadsNowhereElse) {
  for (const std::string name : {"../manifest_test", "/etc/passwd", "deep/../../x", "", "deep//", "."}) {
    write_manifest(folder_, std::vector<FileSum>{{name, 0, 0}});
    EXPECT_NE(error(), "") << name;
  }
  fs::create_symlink(folder_ / "config.json", folder_ / "link");
  write_manifest(folder_, std::vector<FileSum>{{"link", 2, xxh3_64("{}")}});
  EXPECT_TRUE(mentions(error(), "missing")) << error();
}

TEST_F(Manifest, OtherContentIsRefused) {
  for (const char* text : {"", "[]", "{}", "null", R"({"files": []})", R"({"files": {"a": 1}})",
                           R"({"files": {"a": {"bytes": -1, "xxh3_64": "0"}}})"}) {
    put(kManifestName, text);
    EXPECT_TRUE(mentions(error(), "manifest.json' is damaged")) << text << error();
  }
  put(kManifestName, std::string(100'000, '['));
  EXPECT_TRUE(mentions(error(), "manifest.json' is damaged"));
}

}  // namespace
}  // namespace megalodon
