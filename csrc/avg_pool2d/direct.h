// Average-pooling window by window: for small windows that hardly overlap.
#pragma once

#include "../common/algorithm.h"
#include "../common/plane_windows.h"
#include "divisors.h"
#include "sum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void direct_avg_pool_planes(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  using Rule = SumRule<Compute<scalar_t>>;
  const Pool2dGeometry& g = problem.geometry;
  const Divisors<typename Rule::acc_t> divisors(problem);
  reduce_plane_windows<Rule>(
      g, input, [](int64_t, int64_t) { return Rule::identity(); },
      [&](int64_t plane, int64_t p, int64_t q, int64_t count, const typename Rule::Item& item) CONVOPS_INLINE_LAMBDA {
        store_partial(
            output + (plane * g.h.output + p) * g.w.output + q, divisors.divide_along(p, q, item.value), count);
      });
}

template <typename scalar_t>
void direct_avg_pool_channels(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const Pool2dGeometry& g = problem.geometry;
  const Divisors<acc_t> divisors(problem);
  for_each_window(g, input, [&](const scalar_t* window, const std::vector<WindowTap>& taps, int64_t row, int64_t q) {
    scalar_t* to = output + (row * g.w.output + q) * g.C;
    const int64_t p = row % g.h.output;
    for_each_four_vectors<acc_t>(g.C, [&](int64_t i, int64_t count, auto vectors) CONVOPS_INLINE_LAMBDA {
      Vector<acc_t> sum[vectors] = {};
      for (const WindowTap& tap : taps) {
        for (int v = 0; v < vectors; ++v) {
          prefetch_ahead(window + tap.element + i + v * lanes);
          sum[v] += load_partial(window + tap.element + i + v * lanes, count);
        }
      }
      for (int v = 0; v < vectors; ++v) store_partial(to + i + v * lanes, divisors.divide_at(p, q, sum[v]), count);
    });
  });
}

template <typename scalar_t>
void direct_avg_pool(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  if (problem.geometry.channels_last) return direct_avg_pool_channels(problem, input, output);
  direct_avg_pool_planes(problem, input, output);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
