// GPT-2's words: how text is cut before byte-level BPE.
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// with \s spelled out as Unicode's White_Space, which PCRE2's own \s exceeds (U+180E). Letters and numbers are those of
// the PCRE2 that is installed (10.42: Unicode 14).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

namespace megalodon::data {

class WordSplitter {
 public:
  WordSplitter();
  /// What a search works with; one thread at a time.
  class Scratch {
   public:
    Scratch();
    void* match_data() const { return match_data_.get(); }

   private:
    std::shared_ptr<void> match_data_;
  };

  /// Calls found(word) for words that together are the text. Bytes that are no UTF-8 are kept, each stretch of them as
  /// a word. Throws Error where PCRE2 gives up within its limits of time and memory.
  void split(std::string_view text, Scratch& scratch, const std::function<void(std::string_view)>& found) const;

 private:
  void split_valid(std::string_view text, Scratch& scratch, const std::function<void(std::string_view)>& found) const;

  std::shared_ptr<void> code_, limits_;
};

}  // namespace megalodon::data
