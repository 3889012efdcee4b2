// What the saved window offsets are for: grad_input routes each window's gradient to the pixel its maximum came from
// and adds where windows overlap, gather reads that pixel, indices names it. Offsets come from the caller, so each is
// checked before it is followed: one that names no tap, or a tap in the padding, routes nothing and gathers zero.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

// Where a window starts along an axis, and the end of the pixels that its taps may name: of the image, or of an adaptive
// window that is shorter than others.
struct Reach {
  int64_t start, end;
};
inline std::vector<Reach> reaches_of(const Axis& axis) {
  std::vector<Reach> reaches(axis.output);
  for (int64_t o = 0; o < axis.output; ++o) {
    reaches[o] = {axis.start(o), axis.adaptive ? axis.start(o) + axis.last_tap(o) : axis.input};
  }
  return reaches;
}

// Follows offsets of one geometry. Bytes are looked up, wider offsets divided.
template <typename offset_t>
class Route {
 public:
  explicit Route(const Pool2dGeometry& g) : g_(g) {
    if constexpr (sizeof(offset_t) == 1) {
      for (int64_t offset = 0; offset < kMaxByteTaps; ++offset) {
        const bool named = offset < g.taps();
        rows_[offset] = named ? offset / g.w.kernel * g.h.dilation : kNowhere;
        columns_[offset] = named ? offset % g.w.kernel * g.w.dilation : kNowhere;
      }
    }
  }

  // The tap's row and column relative to the window's start; kNowhere where the offset names no tap.
  CONVOPS_INLINE int64_t row(offset_t offset) const {
    if constexpr (sizeof(offset_t) == 1) return rows_[offset];
    return offset < 0 || offset >= g_.taps() ? kNowhere : offset / g_.w.kernel * g_.h.dilation;
  }
  CONVOPS_INLINE int64_t column(offset_t offset) const {
    if constexpr (sizeof(offset_t) == 1) return columns_[offset];
    return offset < 0 || offset >= g_.taps() ? kNowhere : offset % g_.w.kernel * g_.w.dilation;
  }

  // The pixel h * W + w that a window's offset routes to, or -1.
  CONVOPS_INLINE int64_t pixel(const Reach& rows, const Reach& columns, offset_t offset) const {
    const int64_t h = rows.start + row(offset), w = columns.start + column(offset);
    const bool inside = static_cast<uint64_t>(h) < static_cast<uint64_t>(rows.end) &&
                        static_cast<uint64_t>(w) < static_cast<uint64_t>(columns.end);
    return inside ? h * g_.w.input + w : -1;
  }

 private:
  static constexpr int64_t kNowhere = int64_t(1) << 62;

  const Pool2dGeometry& g_;
  int64_t rows_[kMaxByteTaps], columns_[kMaxByteTaps];
};

// A scatter: per window one load of gradient and offset and one add, however large the window. Rows of the gradient are
// zeroed just before the first window that reaches them, while they are about to be in the cache anyway.
template <typename scalar_t, typename offset_t>
void max_pool_grad_input(
    const Pool2dGeometry& g, const scalar_t* grad_output, const offset_t* offsets, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  constexpr bool kDirect = std::is_same_v<scalar_t, acc_t>;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C;
  const auto rows = reaches_of(g.h), columns = reaches_of(g.w);
  const ChannelRanges ranges(g, kDirect ? 4 * thread_count() : g.N * ceil_div(C, 16));
  parallel_for(g.N * ranges.count, g.input_numel(), [&](int64_t begin, int64_t end) {
    const Route<offset_t> route(g);
    // Half types add in float and round once.
    const Scratch<acc_t> plane(kDirect ? 0 : H * W * ranges.width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / ranges.count, channel = task % ranges.count * ranges.width;
      const int64_t width = std::min(ranges.width, C - channel);
      // Elements between neighbouring pixels of the output, and of the sums.
      const int64_t pixel = g.channels_last ? C : 1, sum_pixel = kDirect ? pixel : width;
      const int64_t first_in = g.channels_last ? n * H * W * C + channel : (n * C + channel) * H * W;
      const int64_t first_out = g.channels_last ? n * P * Q * C + channel : (n * C + channel) * P * Q;
      acc_t* sums;
      if constexpr (kDirect) {
        sums = grad_input + first_in;
      } else {
        sums = plane.data();
      }
      const auto zero_rows = [&](int64_t from, int64_t to) {
        if (sum_pixel == width) {
          std::fill(sums + from * W * width, sums + to * W * width, acc_t(0));
        } else {
          for (int64_t i = from * W; i < to * W; ++i) std::fill_n(sums + i * sum_pixel, width, acc_t(0));
        }
      };
      int64_t zeroed = 0;
      for (int64_t p = 0; p < P; ++p) {
        const int64_t reach = std::clamp<int64_t>(rows[p].start + g.h.extent(), zeroed, H);
        zero_rows(zeroed, reach);
        zeroed = reach;
        for (int64_t q = 0; q < Q; ++q) {
          const int64_t at = first_out + (p * Q + q) * pixel;
          for (int64_t i = 0; i < width; ++i) {
            const int64_t to = route.pixel(rows[p], columns[q], offsets[at + i]);
            if (to >= 0) sums[to * sum_pixel + i] += widen(grad_output[at + i]);
          }
        }
      }
      zero_rows(zeroed, H);
      if constexpr (!kDirect) {
        for (int64_t i = 0; i < H * W; ++i) {
          for (int64_t j = 0; j < width; ++j)
            grad_input[first_in + i * pixel + j] = narrow<scalar_t>(sums[i * width + j]);
        }
      }
    }
  });
}

// visit(index of the output, index of the image's first value of that channel, p, q) for every output.
template <typename Visit>
void for_each_output(const Pool2dGeometry& g, const Visit& visit) {
  const int64_t P = g.h.output, Q = g.w.output, C = g.C, plane = g.h.input * g.w.input;
  parallel_for(g.N * (g.channels_last ? P : C), g.output_numel(), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      if (g.channels_last) {
        const int64_t n = task / P, p = task % P;
        for (int64_t q = 0; q < Q; ++q) {
          for (int64_t channel = 0; channel < C; ++channel)
            visit((task * Q + q) * C + channel, n * plane * C + channel, p, q);
        }
      } else {
        for (int64_t i = 0; i < P * Q; ++i) visit(task * P * Q + i, task * plane, i / Q, i % Q);
      }
    }
  });
}

template <typename scalar_t, typename offset_t>
void max_pool_gather(const Pool2dGeometry& g, const scalar_t* input, const offset_t* offsets, scalar_t* output) {
  const Route<offset_t> route(g);
  const auto rows = reaches_of(g.h), columns = reaches_of(g.w);
  const int64_t pixel = g.channels_last ? g.C : 1;
  for_each_output(g, [&](int64_t at, int64_t image, int64_t p, int64_t q) {
    const int64_t from = route.pixel(rows[p], columns[q], offsets[at]);
    output[at] = from >= 0 ? input[image + from * pixel] : scalar_t{};
  });
}

template <typename offset_t>
void max_pool_indices(const Pool2dGeometry& g, const offset_t* offsets, int64_t* indices) {
  const auto rows = reaches_of(g.h), columns = reaches_of(g.w);
  const auto S = static_cast<int32_t>(g.w.kernel);
  for_each_output(g, [&](int64_t at, int64_t, int64_t p, int64_t q) {
    // An offset that names no tap is as good as any number here: it is no address.
    const int64_t r = offsets[at] / S, s = offsets[at] % S;
    indices[at] = (rows[p].start + r * g.h.dilation) * g.w.input + columns[q].start + s * g.w.dilation;
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
