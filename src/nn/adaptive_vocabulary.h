// Vocabularies in bands of falling frequency: adaptive input (Baevski and Auli, 2019) with the adaptive softmax (Grave
// et al., 2017) of the same matrices. Band 0, the most frequent tokens, has embeddings of the model's width D; band i
// has D/factor^i features and a map to D.
//
//   input    x = P_i E_i[token]                                                for a token of band i
//   output   log p(token) = log softmax([E_0; classes] f)[token]               in band 0, without P_0
//            log p(token) = log softmax([E_0; classes] f)[class i] + log softmax(E_i P_i^T f)[token − first of i]
//
// E_0 is the caller's: a language model's embedding, of which its output matrix is another name.
#pragma once

#include <string>
#include <vector>

#include "nn/linear.h"

namespace megalodon::nn {

class AdaptiveVocabulary {
 public:
  /// Bands end before `cutoffs`, rising, and the last before `vocabulary`. Registers with the module "embed.map_0"
  /// [D,D], and for each further band "embed.map_<i>" [D,D_i] and "embed.band_<i>" [V_i,D_i]; and "output.classes"
  /// [bands − 1, D]; all with ".weight".
  AdaptiveVocabulary(torch::nn::Module& module, const std::vector<int64_t>& cutoffs, int64_t vocabulary,
                     int64_t model_dim, int64_t factor);

  /// Features of band `i`.
  static int64_t width(int64_t model_dim, int64_t factor, int64_t band);

  /// Rows [..,D] of tokens. Dropout is on E_i[token]. Throws Error for tokens that are not in [0, vocabulary), on the
  /// CPU.
  Tensor embed(const Tensor& tokens, const Linear& first, Precision precision, double dropout = 0,
               uint64_t dropout_key = 0) const;
  /// f [..,D] to log-probabilities [..,vocabulary], float32 or wider.
  Tensor log_probabilities(const Tensor& f, const Linear& first, Precision precision) const;
  /// [..]: −log p of targets; 0 where one is −100. Each band's softmax is over the steps whose targets lie in it.
  /// Dropout is on P_i^T f.
  Tensor nll(const Tensor& f, const Tensor& targets, const Linear& first, Precision precision, double dropout,
             uint64_t dropout_key) const;
  /// Embeddings and maps as a language model's embedding and linear layers begin.
  void init_weights(uint64_t key);
  std::vector<Linear*> linears();
  /// Numbers of all matrices, E_0 among them.
  int64_t parameters() const;

 private:
  int64_t bands() const { return static_cast<int64_t>(begin_.size()) - 1; }
  Tensor mapped(const Tensor& f, int64_t band, Precision precision) const;
  void check_tokens(const Tensor& tokens, const char* what) const;

  // All are read in two ways, as rows and as matrices, or transposed: a product's copy does not replace them.
  std::vector<int64_t> begin_;  // of each band, and the vocabulary
  std::vector<Linear> map_;     // [D,D_i] of each band
  std::vector<Linear> weight_;  // [V_i,D_i] of each band but the first
  Linear classes_;
};

}  // namespace megalodon::nn
