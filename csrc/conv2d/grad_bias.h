// grad_bias[k] = sum over n, p, q of grad_output[n, k, p, q]: one pass over memory, summed in an order that the
// geometry fixes.
#pragma once

#include <algorithm>

#include "../common/cpu.h"
#include "../common/plane_sum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void grad_bias(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  using acc_t = Compute<scalar_t>;
  const Conv2dGeometry& g = problem.geometry;
  const auto from = static_cast<const scalar_t*>(arguments.output);
  const auto to = static_cast<scalar_t*>(arguments.bias);
  const int64_t K = g.K, plane = g.h.output * g.w.output;
  if (!g.channels_last) {
    parallel_for(K, g.output_numel(), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        acc_t sum = 0;
        // A sum a plane, then a sum of those, keeps the rounding error of long sums down.
        for (int64_t n = 0; n < g.N; ++n) sum += plane_sum(from + (n * K + k) * plane, plane);
        to[k] = narrow<scalar_t>(sum);
      }
    });
    return;
  }
  const int64_t pixels = g.N * plane, slices = std::clamp<int64_t>(pixels / 64, 1, 64);
  const Scratch<acc_t> sums(slices * K);
  parallel_for(slices, g.output_numel(), [&](int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice) {
      acc_t* sum = sums.data() + slice * K;
      std::fill_n(sum, K, acc_t(0));
      for (int64_t i = slice * pixels / slices; i < (slice + 1) * pixels / slices; ++i) {
        add_row(from + i * K, K, sum);
      }
    }
  });
  for (int64_t k = 0; k < K; ++k) {
    acc_t sum = 0;
    for (int64_t slice = 0; slice < slices; ++slice) sum += sums[slice * K + k];
    to[k] = narrow<scalar_t>(sum);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
