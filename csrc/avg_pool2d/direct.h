// Average-pooling of channels_last images, window by window: for small windows that hardly overlap.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void direct_avg_pool(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const Pool2dGeometry& g = problem.geometry;
  for_each_window(g, input, [&](const scalar_t* window, const std::vector<WindowTap>& taps, int64_t row, int64_t q) {
    scalar_t* to = output + (row * g.w.output + q) * g.C;
    const int64_t divisor = problem.divisor.at(g, row % g.h.output, q);
    // Multiplying by the reciprocal of a power of two is exact, and faster than dividing.
    const bool exact = divisor > 0 && (divisor & (divisor - 1)) == 0;
    const Vector<acc_t> by = broadcast(exact ? acc_t(1) / acc_t(divisor) : acc_t(divisor));
    for_each_four_vectors<acc_t>(g.C, [&](int64_t i, int64_t count, auto vectors) {
      Vector<acc_t> sum[vectors] = {};
      for (const WindowTap& tap : taps) {
        for (int v = 0; v < vectors; ++v) sum[v] += load_partial(window + tap.element + i + v * lanes, count);
      }
      for (int v = 0; v < vectors; ++v) store_partial(to + i + v * lanes, exact ? sum[v] * by : sum[v] / by, count);
    });
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
