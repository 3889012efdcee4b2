// Average-pooling of channels_last images, window by window: for small windows that hardly overlap.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"
#include "divisors.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void direct_avg_pool(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const Pool2dGeometry& g = problem.geometry;
  const Divisors<acc_t> divisors(problem);
  for_each_window(g, input, [&](const scalar_t* window, const std::vector<WindowTap>& taps, int64_t row, int64_t q) {
    scalar_t* to = output + (row * g.w.output + q) * g.C;
    const int64_t p = row % g.h.output;
    for_each_four_vectors<acc_t>(g.C, [&](int64_t i, int64_t count, auto vectors) {
      Vector<acc_t> sum[vectors] = {};
      for (const WindowTap& tap : taps) {
        for (int v = 0; v < vectors; ++v) sum[v] += load_partial(window + tap.element + i + v * lanes, count);
      }
      for (int v = 0; v < vectors; ++v) store_partial(to + i + v * lanes, divisors.divide_at(p, q, sum[v]), count);
    });
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
