#include "ops/nplr_recurrence/nplr_recurrence.h"

#include "ops/bench.h"
#include "ops/nplr/nplr_testing.h"

namespace megalodon::ops::bench {
namespace {

/// A stretch of a stream, from state to state.
Operator nplr_recurrence_case(int64_t L, int64_t D, int64_t N, torch::Device device) {
  const NplrStep step = nplr_step(testing::random_nplr(D, N, 1));
  const auto inputs = [&](int64_t steps) -> Tensors {
    const auto narrow = [](const Tensor& t) { return t.to(torch::kComplexFloat); };
    return {normal({1, steps, D}, device),
            narrow(step.q_DN),
            narrow(step.beta_DN),
            narrow(step.f_RDN),
            narrow(step.w_RDN),
            step.phi_RD.to(torch::kFloat32),
            torch::randn({D, N}, torch::kComplexFloat),
            normal({D}, device),
            torch::randn({1, D, N}, torch::kComplexFloat)};
  };
  const auto with = [](auto recurrence) {
    return [recurrence](const Tensors& t) {
      const RecurrenceOut out =
          recurrence(t[0], {t[1], t[2], t[3], t[4], t[5]}, t[6], t[7], RecurrenceOptions{t[8], {}, true});
      return torch::cat({out.y_BLD.flatten(), torch::view_as_real(out.h_BDN).flatten()});
    };
  };
  const auto states = static_cast<double>(D * N), steps = static_cast<double>(L);
  return {.name = "nplr_recurrence",
          .shape = fmt::format("B=1 L={} D={} N={}", L, D, N),
          .inputs = inputs(L),
          .checked = inputs(std::min<int64_t>(L, 40)),
          .kernel = with(&nplr_recurrence),
          .reference = with(&ref::nplr_recurrence),
          .forward = {8 * steps * static_cast<double>(D) + 56 * states, 24 * steps * states}};
}

std::vector<Case> nplr_recurrence_cases(torch::Device device) {
  return cases({nplr_recurrence_case(2048, 512, 32, device), nplr_recurrence_case(1, 512, 32, device)}, device);
}

[[maybe_unused]] const bool nplr_recurrence_added = add_cases("nplr_recurrence", nplr_recurrence_cases);

}  // namespace
}  // namespace megalodon::ops::bench
