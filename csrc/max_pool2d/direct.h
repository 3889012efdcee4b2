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
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  for_each_window(g, input, [&](const scalar_t* window, const std::vector<WindowTap>& taps, int64_t row, int64_t q) {
    const int64_t to = (row * g.w.output + q) * g.C, p = row % g.h.output;
    // Where dilation steps over the whole image, the offset names the first tap that is not above or left of it.
    const int64_t first = taps.empty() ? g.h.first_tap(p) * g.w.kernel + g.w.first_tap(q) : taps.front().offset;
    for_each_four_vectors<acc_t>(g.C, [&](int64_t i, int64_t count, auto vectors) {
      Maximum<acc_t, kOffsets> maximum[vectors];
      for (int v = 0; v < vectors; ++v) maximum[v].start(broadcast<acc_t>(kLowest<scalar_t>), broadcast<Offset>(first));
      for (const WindowTap& tap : taps) {
        const Vector<Offset> offset = broadcast<Offset>(tap.offset);
        for (int v = 0; v < vectors; ++v) {
          maximum[v].take(load_partial(window + tap.element + i + v * lanes, count), offset);
        }
      }
      for (int v = 0; v < vectors; ++v) {
        store_partial(output + to + i + v * lanes, maximum[v].value, count);
        if constexpr (kOffsets) {
          store_offsets<offset_t, Offset>(offsets + to + i + v * lanes, maximum[v].offset, count);
        }
      }
    });
  });
}

// grad_input as a gather: each pixel adds, in order, the gradients of the windows whose offset names it.
template <typename scalar_t, typename offset_t>
void direct_max_pool_grad_input(
    const Pool2dGeometry& g, const scalar_t* grad_output, const offset_t* offsets, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C;
  // The windows that hold a row or column, and through which tap.
  struct Holder {
    int64_t window, tap;
  };
  const auto holders_of = [](const Axis& axis) {
    std::vector<std::vector<Holder>> holders(axis.input);
    for (int64_t o = 0; o < axis.output; ++o) {
      for (int64_t tap = axis.first_tap(o); tap < axis.last_tap(o); ++tap) {
        holders[axis.start(o) + tap * axis.dilation].push_back({o, tap});
      }
    }
    return holders;
  };
  const auto rows = holders_of(g.h), columns = holders_of(g.w);
  parallel_for(g.N * H, g.input_numel(), [&](int64_t begin, int64_t end) {
    std::vector<WindowTap> taps;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / H;
      for (int64_t w = 0; w < W; ++w) {
        taps.clear();
        for (const Holder& row : rows[item % H]) {
          for (const Holder& column : columns[w]) {
            taps.push_back({((n * P + row.window) * Q + column.window) * C, row.tap * g.w.kernel + column.tap});
          }
        }
        for_each_four_vectors<acc_t>(C, [&](int64_t i, int64_t count, auto vectors) {
          Vector<acc_t> sum[vectors] = {};
          for (const WindowTap& tap : taps) {
            const Vector<Offset> offset = broadcast<Offset>(tap.offset);
            for (int v = 0; v < vectors; ++v) {
              const int64_t at = tap.element + i + v * lanes;
              const auto named = load_offsets<offset_t, Offset>(offsets + at, count) == offset;
              sum[v] = named ? sum[v] + load_partial(grad_output + at, count) : sum[v];
            }
          }
          for (int v = 0; v < vectors; ++v)
            store_partial(grad_input + (item * W + w) * C + i + v * lanes, sum[v], count);
        });
      }
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
