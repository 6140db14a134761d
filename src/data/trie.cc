#include "data/trie.h"

#include <algorithm>

namespace megalodon::data {

Trie::Trie(std::vector<std::pair<std::string_view, int32_t>> texts) {
  std::sort(texts.begin(), texts.end());
  // Level by level, so that a node's children lie together. A node stands for a range of texts that share `depth`
  // bytes.
  struct Range {
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, texts.size(), 0}};
  nodes_.emplace_back();
  for (size_t node = 0; node < nodes_.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    if (begin < end && texts[begin].first.size() == depth) nodes_[node].value = texts[begin++].second;
    nodes_[node].children = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const char label = texts[begin].first[depth];
      size_t next = begin + 1;
      while (next < end && texts[next].first[depth] == label) ++next;
      nodes_.push_back({.label = static_cast<unsigned char>(label)});
      ranges.push_back({begin, next, depth + 1});
      ++nodes_[node].count;
      begin = next;
    }
  }
}

size_t Trie::child(size_t node, unsigned char label) const {
  const auto first = nodes_.begin() + nodes_[node].children, last = first + nodes_[node].count;
  const auto found =
      std::lower_bound(first, last, label, [](const Node& child, unsigned char key) { return child.label < key; });
  return found == last || found->label != label ? 0 : static_cast<size_t>(found - nodes_.begin());
}

}  // namespace megalodon::data
