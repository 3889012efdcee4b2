// Max-pooling with a window as large as the plane: one pass over memory, one comparison a pixel.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

// Every lane keeps the maximum of its own pixels; then the lanes are compared with each other.
template <typename scalar_t, bool kOffsets>
CONVOPS_INLINE typename MaximumRule<scalar_t, kOffsets>::Item plane_maximum(const scalar_t* plane, int64_t pixels) {
  using Rule = MaximumRule<scalar_t, kOffsets>;
  using acc_t = typename Rule::acc_t;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<Offset> first;
  for (int lane = 0; lane < lanes; ++lane) first[lane] = lane;
  scalar_t small[lanes];
  if (pixels < lanes) {
    std::fill(std::copy_n(plane, pixels, small), small + lanes, narrow<scalar_t>(kLowest<scalar_t>));
    plane = small;
    pixels = lanes;
  }
  // Several vectors at a time, as one comparison waits for the one before.
  constexpr int kChains = 4;
  typename Rule::Item best[kChains];
  for (auto& item : best) item = Rule::identity();
  const auto at = [&](int64_t i) { return typename Rule::Item(load(plane + i), first + broadcast<Offset>(i)); };
  int64_t i = 0;
  for (; i + kChains * lanes <= pixels; i += kChains * lanes) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) Rule::take(best[chain], at(i + chain * lanes));
  }
  for (; i + lanes <= pixels; i += lanes) Rule::take(best[0], at(i));
  // The rest as the last whole vector: seeing a pixel twice changes nothing.
  if (i < pixels) Rule::take_unordered(best[0], at(pixels - lanes));
  for (int chain = 1; chain < kChains; ++chain) Rule::take_unordered(best[0], best[chain]);
  fold_lanes<lanes>([&](auto by) {
    typename Rule::Item rotated(rotate<by, acc_t>(best[0].value));
    if constexpr (kOffsets) rotated.tag = rotate<by, Offset>(best[0].tag);
    Rule::take_unordered(best[0], rotated);
  });
  return best[0];
}

template <typename scalar_t, bool kOffsets>
void global_max_pool(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, void* data) {
  using Rule = MaximumRule<scalar_t, kOffsets>;
  using acc_t = typename Rule::acc_t;
  using Offset = LaneInt<acc_t>;
  const Offsets offsets(g, data);
  const int64_t pixels = g.h.input * g.w.input, C = g.C;
  if (!g.channels_last) {
    parallel_for(g.N * C, g.input_numel(), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const auto maximum = plane_maximum<scalar_t, kOffsets>(input + plane * pixels, pixels);
        output[plane] = narrow<scalar_t>(maximum.value[0]);
        if constexpr (kOffsets) offsets.store<Offset>(plane, maximum.tag, 1);
      }
    });
    return;
  }
  for_each_channel_block(g, [&](int64_t n, int64_t first, int64_t channels) {
    for_each_four_vectors<acc_t>(channels, [&](int64_t i, int64_t count, auto vectors) {
      const int64_t to = n * C + first + i;
      const scalar_t* from = input + n * pixels * C + first + i;
      typename Rule::Item best[vectors];
      for (auto& item : best) item = Rule::identity();
      for (int64_t pixel = 0; pixel < pixels; ++pixel, from += C) {
        const auto at = broadcast(static_cast<Offset>(pixel));
        for (int v = 0; v < vectors; ++v) {
          __builtin_prefetch(from + 8 * C + v * kLanes<acc_t>);  // the same channels, 8 pixels on
          Rule::take(best[v], {load_partial(from + v * kLanes<acc_t>, count), at});
        }
      }
      for (int v = 0; v < vectors; ++v) {
        store_partial(output + to + v * kLanes<acc_t>, best[v].value, count);
        if constexpr (kOffsets) offsets.store<Offset>(to + v * kLanes<acc_t>, best[v].tag, count);
      }
    });
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
