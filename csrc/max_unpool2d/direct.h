// Values to pixels and back. Each task owns a plane, or an image's range of channels, and walks its values in row-major
// order: of several values for one pixel the last stays, in every run.
#pragma once

#include <atomic>

#include "../common/algorithm.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

// visit(its first value, its first pixel, channels) for each task.
template <typename Visit>
void for_each_plane(const MaxUnpool2dGeometry& g, const Visit& visit) {
  const ChannelRanges ranges(g, 4 * thread_count());
  parallel_for(g.N * ranges.count, g.numel() + g.pooled_numel(), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / ranges.count, channel = task % ranges.count * ranges.width;
      const int64_t width = std::min(ranges.width, g.C - channel);
      visit(
          n * g.C * g.pooled + channel * (g.channels_last ? 1 : g.pooled),
          n * g.C * g.pixels + channel * (g.channels_last ? 1 : g.pixels), width);
    }
  });
}

// Indices come from the caller: each is checked before it is followed, and the first bad one is an error.
class FirstBad {
 public:
  CONVOPS_INLINE bool names_pixel(const MaxUnpool2dGeometry& g, int64_t index, int64_t at) {
    if (static_cast<uint64_t>(index) < static_cast<uint64_t>(g.pixels)) return true;
    for (int64_t first = first_; at < first && !first_.compare_exchange_weak(first, at);) {
    }
    return false;
  }
  void check(const MaxUnpool2dGeometry& g, const int64_t* indices) const {
    if (first_ != INT64_MAX) fail_index(g, indices[first_]);
  }

 private:
  std::atomic<int64_t> first_{INT64_MAX};
};

// acc_t is what pixels are summed in, scalar_t itself where the last value stays.
template <typename scalar_t, typename acc_t, bool kAdd>
void unpool_scatter(const MaxUnpool2dGeometry& g, const scalar_t* pooled, const int64_t* indices, scalar_t* image) {
  constexpr bool kInPlace = std::is_same_v<scalar_t, acc_t>;
  FirstBad bad;
  for_each_plane(g, [&](int64_t first_value, int64_t first_pixel, int64_t width) {
    const int64_t step = g.channels_last ? g.C : 1;
    const Scratch<acc_t> plane(kInPlace ? 0 : g.pixels * width);
    const int64_t plane_step = kInPlace ? step : width;
    acc_t* sums = plane.data();
    if constexpr (kInPlace) sums = image + first_pixel;
    for (int64_t i = 0; i < g.pixels; ++i) std::fill_n(sums + i * plane_step, width, acc_t{});
    for (int64_t i = 0; i < g.pooled; ++i) {
      for (int64_t c = 0; c < width; ++c) {
        const int64_t at = first_value + i * step + c, index = indices[at];
        if (!bad.names_pixel(g, index, at)) continue;
        if constexpr (kAdd) {
          sums[index * plane_step + c] += widen(pooled[at]);
        } else {
          sums[index * plane_step + c] = pooled[at];
        }
      }
    }
    if constexpr (!kInPlace) {
      for (int64_t i = 0; i < g.pixels; ++i) {
        for (int64_t c = 0; c < width; ++c) image[first_pixel + i * step + c] = narrow<scalar_t>(sums[i * width + c]);
      }
    }
  });
  bad.check(g, indices);
}

template <typename scalar_t>
void unpool_gather(const MaxUnpool2dGeometry& g, const scalar_t* image, const int64_t* indices, scalar_t* pooled) {
  FirstBad bad;
  for_each_plane(g, [&](int64_t first_value, int64_t first_pixel, int64_t width) {
    const int64_t step = g.channels_last ? g.C : 1;
    for (int64_t i = 0; i < g.pooled; ++i) {
      for (int64_t c = 0; c < width; ++c) {
        const int64_t at = first_value + i * step + c, index = indices[at];
        if (bad.names_pixel(g, index, at)) pooled[at] = image[first_pixel + index * step + c];
      }
    }
  });
  bad.check(g, indices);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
