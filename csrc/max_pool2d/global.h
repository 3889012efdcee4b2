// Max-pooling with a window as large as the plane: one pass over memory, one comparison a pixel.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

// Every lane keeps the maximum of its own pixels; the lanes are then compared by the same rule: of equal maxima the
// first pixel, of NaNs the last.
template <typename scalar_t, bool kOffsets>
CONVOPS_INLINE std::pair<Compute<scalar_t>, int64_t> plane_maximum(const scalar_t* plane, int64_t pixels) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  Maximum<acc_t, kOffsets> maximum;
  maximum.start(broadcast<acc_t>(kLowest<scalar_t>), Vector<Offset>{});
  Vector<Offset> at;
  for (int lane = 0; lane < lanes; ++lane) at[lane] = lane;
  int64_t i = 0;
  for (; i + lanes <= pixels; i += lanes, at += lanes) maximum.take(load(plane + i), at);
  acc_t best = kLowest<scalar_t>;
  int64_t offset = 0;
  const auto take = [&](acc_t value, int64_t pixel) {
    const bool is_nan = value != value, best_is_nan = best != best;
    const bool better = is_nan || best_is_nan ? is_nan && (!best_is_nan || pixel > offset)
                                              : value > best || (value == best && pixel < offset);
    if (better) {
      best = value;
      offset = pixel;
    }
  };
  if (i > 0) {
    best = maximum.value[0];
    if constexpr (kOffsets) offset = maximum.offset[0];
    for (int lane = 1; lane < lanes; ++lane) take(maximum.value[lane], kOffsets ? maximum.offset[lane] : 0);
  }
  for (; i < pixels; ++i) take(widen(plane[i]), i);
  return {best, offset};
}

template <typename scalar_t, typename offset_t, bool kOffsets>
void global_max_pool(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, offset_t* offsets) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  const int64_t pixels = g.h.input * g.w.input, C = g.C;
  if (!g.channels_last) {
    parallel_for(g.N * C, g.input_numel(), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const auto [value, offset] = plane_maximum<scalar_t, kOffsets>(input + plane * pixels, pixels);
        output[plane] = narrow<scalar_t>(value);
        if constexpr (kOffsets) offsets[plane] = static_cast<offset_t>(offset);
      }
    });
    return;
  }
  // Pixel by pixel, so that memory is read in order.
  for_each_channel_block(g, [&](int64_t n, int64_t first, int64_t channels) {
    const int64_t padded = round_up(channels, kLanes<acc_t>);
    const Scratch<acc_t> values(padded);
    const Scratch<Offset> at(padded);
    std::fill_n(values.data(), padded, kLowest<scalar_t>);
    std::fill_n(at.data(), padded, Offset(0));
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const scalar_t* from = input + (n * pixels + pixel) * C + first;
      for_each_vector<acc_t>(channels, [&](int64_t i, int64_t count) {
        Maximum<acc_t, kOffsets> maximum;
        maximum.start(load(values.data() + i), load(at.data() + i));
        maximum.take(load_partial(from + i, count), broadcast<Offset>(pixel));
        store(values.data() + i, maximum.value);
        if constexpr (kOffsets) store(at.data() + i, maximum.offset);
      });
    }
    for_each_vector<acc_t>(channels, [&](int64_t i, int64_t count) {
      store_partial(output + n * C + first + i, load(values.data() + i), count);
      if constexpr (kOffsets) {
        store_offsets<offset_t, Offset>(offsets + n * C + first + i, load(at.data() + i), count);
      }
    });
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
