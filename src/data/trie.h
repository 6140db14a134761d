// Which of many texts begin at a place of another.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace megalodon::data {

class Trie {
 public:
  Trie() : nodes_(1) {}
  /// Texts that are not empty, each once, with values of zero or more.
  explicit Trie(std::vector<std::pair<std::string_view, int32_t>> texts);
  bool empty() const { return nodes_.size() == 1; }

  /// Calls found(length, value) for every text that `text` begins with, from short to long.
  template <class Found>
  void prefixes(std::string_view text, const Found& found) const {
    size_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<unsigned char>(text[i]));
      if (node == 0) return;
      if (nodes_[node].value >= 0) found(i + 1, nodes_[node].value);
    }
  }

  struct Match {
    size_t length = 0;
    int32_t value = -1;
  };
  /// The longest of them; length 0 where there is none.
  Match longest(std::string_view text) const {
    Match match;
    prefixes(text, [&](size_t length, int32_t value) { match = {length, value}; });
    return match;
  }

 private:
  struct Node {
    uint32_t children = 0;  // the first; they lie together, in order of their labels
    uint16_t count = 0;
    unsigned char label = 0;
    int32_t value = -1;
  };

  /// 0, which is no node's child, where there is none.
  size_t child(size_t node, unsigned char label) const;

  std::vector<Node> nodes_;  // the root first
};

}  // namespace megalodon::data
