// The convolution as tensor operations: autograd differentiates it, any device runs it.
#include "ops/long_convolution/long_convolution.h"

#include <fmt/ranges.h>

#include <bit>
#include <map>

#include "base/check.h"
#include "ops/registration.h"
#include "ops/text_of.h"

namespace megalodon::ops {
namespace {

void check_convolution(const Tensor& x_BLD, const Tensor& kernel_CDK, const Tensor& skip_CD,
                       const ConvolutionOptions& options) {
  check(x_BLD.defined() && x_BLD.dim() == 3 && x_BLD.size(1) > 0 &&
            (x_BLD.scalar_type() == torch::kFloat32 || x_BLD.scalar_type() == torch::kFloat64),
        "[long_convolution] x must be float32 or float64 [B,L,D] with L >= 1, got {}", text_of(x_BLD));
  const auto is_kernel = [&](const Tensor& t) {
    return t.defined() && t.dim() == 3 && t.size(1) == x_BLD.size(2) && t.size(2) > 0 &&
           t.scalar_type() == x_BLD.scalar_type();
  };
  check(is_kernel(kernel_CDK), "[long_convolution] kernel must be of x's type, [C,D,K] with D = {} and K >= 1, got {}",
        x_BLD.size(2), text_of(kernel_CDK));
  check(skip_CD.defined() && skip_CD.sizes() == kernel_CDK.sizes().slice(0, 2),
        "[long_convolution] skip must be [C,D] = [{},{}], got {}", kernel_CDK.size(0), x_BLD.size(2), text_of(skip_CD));
  const Tensor &reverse = options.reverse_CDK, &starts = options.starts_BL;
  check(!reverse.defined() || (is_kernel(reverse) && reverse.size(0) == kernel_CDK.size(0)),
        "[long_convolution] reverse must be of x's type, [C,D,K] with C = {}, got {}", kernel_CDK.size(0),
        text_of(reverse));
  check(!starts.defined() || (starts.scalar_type() == torch::kBool && starts.sizes() == x_BLD.sizes().slice(0, 2)),
        "[long_convolution] starts must be bool [B,L] = [{},{}], got {}", x_BLD.size(0), x_BLD.size(1),
        text_of(starts));
}

/// The smallest length of FFTs at which nothing wraps around: no lag is longer than the sequence.
int64_t fft_length(int64_t steps) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(2 * steps)));
}

/// The spectrum of both kernels, [C,D,F]: k' lies at the end, where lags are negative.
Tensor spectrum(const Tensor& kernel_CDK, const Tensor& reverse_CDK, int64_t steps) {
  const int64_t n = fft_length(steps);
  const auto taps = [&](const Tensor& t, int64_t most) { return t.narrow(2, 0, std::min(t.size(2), most)); };
  const Tensor ahead = torch::fft_rfft(taps(kernel_CDK, steps), n);
  if (!reverse_CDK.defined() || steps == 1) return ahead;
  const Tensor back = taps(reverse_CDK, steps - 1);
  return ahead + torch::fft_rfft(torch::constant_pad_nd(back.flip(2), {n - back.size(2), 0}), n);
}

/// Without the skip: x [B,L,D] to [B,L,C·D].
Tensor convolve(const Tensor& x_BLD, const Tensor& kernel_CDK, const Tensor& reverse_CDK) {
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1), n = fft_length(L);
  const Tensor x_B1DF = torch::fft_rfft(x_BLD.transpose(1, 2).contiguous(), n).unsqueeze(1);
  const Tensor y_BCDL = torch::fft_irfft(x_B1DF * spectrum(kernel_CDK, reverse_CDK, L), n).narrow(3, 0, L);
  return y_BCDL.permute({0, 3, 1, 2}).reshape({B, L, -1});
}

struct Document {
  int64_t first, steps;  // of the steps of all rows, one after another
};

std::vector<Document> documents_of(const Tensor& starts_BL) {
  const Tensor starts = starts_BL.cpu().contiguous();
  const int64_t L = starts.size(1), steps = starts.numel();
  const bool* begins = starts.data_ptr<bool>();
  std::vector<Document> documents;
  for (int64_t i = 0; i < steps; ++i) {
    if (i % L == 0 || begins[i])
      documents.push_back({i, 1});
    else
      ++documents.back().steps;
  }
  return documents;
}

/// Every document a row of its own. Rows are as long as the next power of two, whoever the neighbours are: a document's
/// numbers have the same bits in any company, and no document costs much more than its length.
Tensor convolve_documents(const Tensor& x_BLD, const Tensor& kernel_CDK, const Tensor& reverse_CDK,
                          const Tensor& starts_BL) {
  const int64_t steps = x_BLD.size(0) * x_BLD.size(1), D = x_BLD.size(2);
  std::map<int64_t, std::vector<Document>> by_length;
  for (const Document& document : documents_of(starts_BL))
    by_length[static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(document.steps)))].push_back(document);

  const Tensor padded_SD = torch::cat({x_BLD.reshape({steps, D}), torch::zeros({1, D}, x_BLD.options())});
  std::vector<Tensor> results;
  std::vector<int64_t> place(static_cast<size_t>(steps));  // of every step among the results
  int64_t row = 0;
  for (const auto& [length, documents] : by_length) {
    std::vector<int64_t> source(documents.size() * static_cast<size_t>(length), steps);  // the step of zeros
    for (size_t i = 0; i < documents.size(); ++i) {
      for (int64_t t = 0; t < documents[i].steps; ++t) {
        source[i * static_cast<size_t>(length) + static_cast<size_t>(t)] = documents[i].first + t;
        place[static_cast<size_t>(documents[i].first + t)] = row + t;
      }
      row += length;
    }
    const Tensor rows_BLD = padded_SD.index_select(0, torch::tensor(source).to(x_BLD.device()))
                                .view({static_cast<int64_t>(documents.size()), length, D});
    results.push_back(convolve(rows_BLD, kernel_CDK, reverse_CDK).flatten(0, 1));
  }
  return torch::cat(results)
      .index_select(0, torch::tensor(place).to(x_BLD.device()))
      .view({x_BLD.size(0), x_BLD.size(1), -1});
}

}  // namespace

Tensor long_convolution(const Tensor& x_BLD, const Tensor& kernel_CDK, const Tensor& skip_CD,
                        const ConvolutionOptions& options) {
  check_convolution(x_BLD, kernel_CDK, skip_CD, options);
  if (use_reference()) return ref::long_convolution(x_BLD, kernel_CDK, skip_CD, options);
  const Tensor y_BLE = options.starts_BL.defined()
                           ? convolve_documents(x_BLD, kernel_CDK, options.reverse_CDK, options.starts_BL)
                           : convolve(x_BLD, kernel_CDK, options.reverse_CDK);
  return y_BLE + (x_BLD.unsqueeze(2) * skip_CD).flatten(2);
}

}  // namespace megalodon::ops

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  using namespace megalodon;
  m.def("long_convolution(Tensor x, Tensor kernel, Tensor skip, Tensor? reverse=None, Tensor? starts=None) -> Tensor",
        [](const Tensor& x, const Tensor& kernel, const Tensor& skip, const OptionalTensor& reverse,
           const OptionalTensor& starts) {
          return ops::long_convolution(x, kernel, skip, {or_undefined(reverse), or_undefined(starts)});
        });
}
