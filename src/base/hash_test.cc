#include "base/hash.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/file.h"

namespace megalodon {
namespace {

// The vectors of FIPS 180-4's examples.
constexpr const char* kOfAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr const char* kOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

TEST(Hash, Sha256OfKnownTexts) {
  EXPECT_EQ(sha256_hex("abc"), kOfAbc);
  EXPECT_EQ(sha256_hex(""), kOfNothing);
}

TEST(Hash, Md5OfKnownTexts) {
  // RFC 1321, A.5
  Md5 nothing;
  EXPECT_EQ(nothing.hex(), "d41d8cd98f00b204e9800998ecf8427e");
  Md5 hash;
  hash.update("message ");
  hash.update("digest");
  EXPECT_EQ(hash.hex(), "f96b697d7cb7938d525a2f31aaf161d0");
}

TEST(Hash, UnknownAlgorithm) {
  EXPECT_THROW(Digest("no such algorithm"), Error);
}

TEST(Hash, Sha256InPieces) {
  Sha256 hash;
  hash.update("a");
  hash.update("");
  hash.update("bc");
  EXPECT_EQ(hash.hex(), kOfAbc);
}

TEST(Hash, Sha256OfAFile) {
  const fs::path path = fs::path(testing::TempDir()) / "hash_test_abc";
  write_file_atomically(path, "abc");
  EXPECT_EQ(sha256_file(path), kOfAbc);
  EXPECT_EQ(md5_file(path), "900150983cd24fb0d6963f7d28e17f72");
  fs::remove(path);
  EXPECT_THROW(sha256_file(path), Error);
}

TEST(Hash, Xxh3OfKnownTexts) {
  EXPECT_EQ(hex64(xxh3_64(std::string_view())), "2d06800538d394c2");
  EXPECT_NE(xxh3_64("megalodon"), xxh3_64("megalodom"));
}

}  // namespace
}  // namespace megalodon
