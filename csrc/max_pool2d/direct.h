// Max-pooling window by window: for small windows the taps are few enough that nothing is gained by sharing maxima
// between windows, and have offsets of one byte. Each input is read once from memory, as often as windows overlap from
// the cache.
#pragma once

#include "../common/algorithm.h"
#include "../common/plane_windows.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t, bool kOffsets>
void direct_max_pool_planes(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, void* offsets) {
  using Rule = MaximumRule<scalar_t, kOffsets>;
  using Offset = LaneInt<typename Rule::acc_t>;
  const FirstTaps<Offset> first(g);
  reduce_plane_windows<Rule>(
      g, input, [&](int64_t p, int64_t q) { return typename Rule::Item(Rule::identity().value, first.along(p, q)); },
      [&](int64_t plane, int64_t p, int64_t q, int64_t count, const typename Rule::Item& item) CONVOPS_INLINE_LAMBDA {
        const int64_t at = (plane * g.h.output + p) * g.w.output + q;
        store_partial(output + at, item.value, count);
        if constexpr (kOffsets) store_offsets<uint8_t, Offset>(static_cast<uint8_t*>(offsets) + at, item.tag, count);
      });
}

template <typename scalar_t, bool kOffsets>
void direct_max_pool_channels(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, void* offsets) {
  using Rule = MaximumRule<scalar_t, kOffsets>;
  using acc_t = typename Rule::acc_t;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  const FirstTaps<Offset> first(g);
  for_each_window(g, input, [&](const scalar_t* window, const std::vector<WindowTap>& taps, int64_t row, int64_t q) {
    const int64_t to = (row * g.w.output + q) * g.C;
    const typename Rule::Item start(Rule::identity().value, first.at(row % g.h.output, q));
    for_each_four_vectors<acc_t>(g.C, [&](int64_t i, int64_t count, auto vectors) CONVOPS_INLINE_LAMBDA {
      typename Rule::Item best[vectors];
      for (int v = 0; v < vectors; ++v) best[v] = start;
      for (const WindowTap& tap : taps) {
        for (int v = 0; v < vectors; ++v) {
          prefetch_ahead(window + tap.element + i + v * lanes);
          Rule::take(
              best[v], {load_partial(window + tap.element + i + v * lanes, count), broadcast<Offset>(tap.offset)});
        }
      }
      for (int v = 0; v < vectors; ++v) {
        store_partial(output + to + i + v * lanes, best[v].value, count);
        if constexpr (kOffsets) {
          store_offsets<uint8_t, Offset>(static_cast<uint8_t*>(offsets) + to + i + v * lanes, best[v].tag, count);
        }
      }
    });
  });
}

template <typename scalar_t, bool kOffsets>
void direct_max_pool(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, void* offsets) {
  if (g.channels_last) return direct_max_pool_channels<scalar_t, kOffsets>(g, input, output, offsets);
  direct_max_pool_planes<scalar_t, kOffsets>(g, input, output, offsets);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
