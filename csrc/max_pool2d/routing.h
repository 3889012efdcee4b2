// What the saved window offsets are for: grad_input routes each window's gradient to the pixel its maximum came from
// and adds where windows overlap, gather reads that pixel, indices names it. Offsets come from the caller, so each is
// checked before it is followed: one that names no tap, or a tap in the padding, routes nothing and gathers zero.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

// Where a window starts along an axis, and the end of the pixels that its taps may name: of the image, or of an
// adaptive window that is shorter than others.
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

// What offsets of one geometry name. Bytes are looked up, wider offsets divided.
template <typename offset_t>
class Taps {
 public:
  explicit Taps(const Pool2dGeometry& g) : g_(g) {
    if constexpr (sizeof(offset_t) == 1) {
      for (int64_t offset = 0; offset < kMaxByteTaps; ++offset) {
        rows_[offset] = static_cast<int32_t>(std::min(offset / g.w.kernel, g.h.kernel));
        columns_[offset] = offset % g.w.kernel * g.w.dilation;
      }
    }
  }

  // The tap's row r, or R where the offset names no tap.
  CONVOPS_INLINE int64_t row(offset_t offset) const {
    if constexpr (sizeof(offset_t) == 1) return rows_[offset];
    return offset < 0 || offset >= g_.taps() ? g_.h.kernel : offset / g_.w.kernel;
  }
  // Its column, from the window's first.
  CONVOPS_INLINE int64_t column(offset_t offset) const {
    if constexpr (sizeof(offset_t) == 1) return columns_[offset];
    return offset < 0 ? 0 : offset % g_.w.kernel * g_.w.dilation;
  }

 private:
  const Pool2dGeometry& g_;
  int32_t rows_[kMaxByteTaps];
  int64_t columns_[kMaxByteTaps];
};

// A scatter: per window one load of gradient and offset and one add, however large the window. It goes to the few rows
// that a row of windows sees, which stay in the cache; each row is written to memory once, when the windows have
// passed. (A sum in memory that was just allocated would wait for it at every add.)
template <typename scalar_t, typename offset_t>
void max_pool_grad_input(
    const Pool2dGeometry& g, const scalar_t* grad_output, const offset_t* offsets, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C;
  const auto rows = reaches_of(g.h), columns = reaches_of(g.w);
  const int64_t slots = std::min(g.h.extent(), H);
  constexpr int64_t kRingBytes = 512 << 10;
  const int64_t row_bytes = W * C * static_cast<int64_t>(sizeof(acc_t));
  const ChannelRanges ranges(g, std::max(4 * thread_count(), g.N * ceil_div(slots * row_bytes, kRingBytes)));
  parallel_for(g.N * ranges.count, g.input_numel(), [&](int64_t begin, int64_t end) {
    const Taps<offset_t> taps(g);
    const int64_t pitch = W * ranges.width;
    const Scratch<acc_t> ring(slots * pitch);
    std::vector<acc_t*> tap_rows(g.h.kernel + 1, nullptr);  // where each of a window's rows is; none outside the image
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / ranges.count, channel = task % ranges.count * ranges.width;
      const int64_t width = std::min(ranges.width, C - channel);
      const int64_t pixel = g.channels_last ? C : 1;
      const int64_t first_in = g.input_at(n, channel, 0, 0), first_out = g.output_at(n, channel, 0, 0);
      int64_t written = 0, zeroed = 0;
      const auto write_rows = [&](int64_t to) {
        for (; written < to; ++written) {
          scalar_t* row = grad_input + first_in + written * W * pixel;
          const acc_t* sums = ring.data() + written % slots * pitch;
          const bool untouched = written >= zeroed;
          const int64_t segments = width == pixel ? 1 : W, length = width == pixel ? W * width : width;
          for (int64_t segment = 0; segment < segments; ++segment, row += pixel, sums += width) {
            for_each_vector<acc_t>(length, [&](int64_t i, int64_t count) CONVOPS_INLINE_LAMBDA {
              store_partial(row + i, untouched ? Vector<acc_t>{} : load_partial(sums + i, count), count);
            });
          }
        }
      };
      for (int64_t p = 0; p < P; ++p) {
        const int64_t h = rows[p].start;
        write_rows(std::clamp<int64_t>(h, written, H));
        zeroed = std::max(zeroed, written);
        for (const int64_t reach = std::min(H, h + g.h.extent()); zeroed < reach; ++zeroed) {
          std::fill_n(ring.data() + zeroed % slots * pitch, W * width, acc_t(0));
        }
        for (int64_t r = 0; r < g.h.kernel; ++r) {
          const int64_t row = h + r * g.h.dilation;
          tap_rows[r] = row >= 0 && row < rows[p].end ? ring.data() + row % slots * pitch : nullptr;
        }
        for (int64_t q = 0; q < Q; ++q) {
          const int64_t at = first_out + (p * Q + q) * pixel;
          for (int64_t i = 0; i < width; ++i) {
            const offset_t offset = offsets[at + i];
            acc_t* row = tap_rows[taps.row(offset)];
            const int64_t w = columns[q].start + taps.column(offset);
            if (row == nullptr || static_cast<uint64_t>(w) >= static_cast<uint64_t>(columns[q].end)) continue;
            row[w * width + i] += widen(grad_output[at + i]);
          }
        }
      }
      write_rows(H);
    }
  });
}

// With one window there is nothing to add: zeros, and the gradient where its offset says.
template <typename scalar_t, typename offset_t>
void global_max_pool_grad_input(
    const Pool2dGeometry& g, const scalar_t* grad_output, const offset_t* offsets, scalar_t* grad_input) {
  const int64_t pixels = g.taps();
  const auto route = [&](scalar_t* plane, int64_t step, int64_t at) {
    const int64_t offset = offsets[at];
    if (offset >= 0 && offset < pixels) plane[offset * step] = grad_output[at];
  };
  if (!g.channels_last) {
    return parallel_for(g.N * g.C, g.input_numel(), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        std::fill_n(grad_input + plane * pixels, pixels, scalar_t{});
        route(grad_input + plane * pixels, 1, plane);
      }
    });
  }
  for_each_channel_block(g, [&](int64_t n, int64_t first, int64_t channels) {
    scalar_t* image = grad_input + n * pixels * g.C + first;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) std::fill_n(image + pixel * g.C, channels, scalar_t{});
    for (int64_t c = 0; c < channels; ++c) route(image + c, g.C, n * g.C + first + c);
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
  const Taps<offset_t> taps(g);
  const auto rows = reaches_of(g.h), columns = reaches_of(g.w);
  const int64_t pixel = g.channels_last ? g.C : 1;
  for_each_output(g, [&](int64_t at, int64_t image, int64_t p, int64_t q) {
    const int64_t r = taps.row(offsets[at]);
    const int64_t h = r == g.h.kernel ? -1 : rows[p].start + r * g.h.dilation;
    const int64_t w = columns[q].start + taps.column(offsets[at]);
    const bool inside = static_cast<uint64_t>(h) < static_cast<uint64_t>(rows[p].end) &&
                        static_cast<uint64_t>(w) < static_cast<uint64_t>(columns[q].end);
    output[at] = inside ? input[image + (h * g.w.input + w) * pixel] : scalar_t{};
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
