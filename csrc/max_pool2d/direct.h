// Max-pooling of channels_last images, window by window: for small windows the taps are few enough that nothing is
// gained by sharing row maxima between windows. Each input is read once from memory, as often as windows overlap from
// the cache; 4 instructions a tap.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t, typename offset_t, bool kOffsets>
void direct_max_pool(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, offset_t* offsets) {
  using Rule = MaximumRule<scalar_t, kOffsets>;
  using acc_t = typename Rule::acc_t;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  for_each_window(g, input, [&](const scalar_t* window, const std::vector<WindowTap>& taps, int64_t row, int64_t q) {
    const int64_t to = (row * g.w.output + q) * g.C;
    // Where dilation steps over the whole image, the offset names the first tap that is not above or left of it.
    const int64_t first = !taps.empty() ? taps.front().offset
                                        : g.h.first_tap(row % g.h.output) * g.w.kernel + g.w.first_tap(q);
    for_each_four_vectors<acc_t>(g.C, [&](int64_t i, int64_t count, auto vectors) {
      typename Rule::Item best[vectors];
      for (int v = 0; v < vectors; ++v) best[v] = Rule::identity().shifted(first);
      for (const WindowTap& tap : taps) {
        for (int v = 0; v < vectors; ++v) {
          Rule::take(
              best[v],
              {load_partial(window + tap.element + i + v * lanes, count), broadcast<Offset>(tap.offset)});
        }
      }
      for (int v = 0; v < vectors; ++v) {
        store_partial(output + to + i + v * lanes, best[v].value, count);
        if constexpr (kOffsets) {
          store_offsets<offset_t, Offset>(offsets + to + i + v * lanes, best[v].tag, count);
        }
      }
    });
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
