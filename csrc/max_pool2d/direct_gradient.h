// The gradient of small windows, a gather: every pixel asks the windows that hold it whether their maximum was its own,
// and adds the gradients of those that say so, in their order. Whole vectors of channels (channels_last) or of the
// pixels of a row (contiguous) are compared and added at a time, and nothing is read that is written: a 3 x 3 window
// costs a pixel nine such steps with a stride of 1, two or three with a stride of 2. Larger windows are scattered
// (routing.h), to the same sums.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

// An output whose window holds a pixel of an axis, and the tap that does.
struct Holder {
  int64_t output, tap;
};

// Of every pixel, in the order of the outputs.
inline std::vector<std::vector<Holder>> holders_of(const Axis& axis) {
  std::vector<std::vector<Holder>> holders(axis.input);
  for (int64_t o = 0; o < axis.output; ++o) {
    for (int64_t tap = axis.first_tap(o); tap < axis.last_tap(o); ++tap)
      holders[axis.start(o) + tap * axis.dilation].push_back({o, tap});
  }
  return holders;
}

// Whether few enough windows hold a pixel: a scatter takes about as long as a dozen of them, whatever their size. The
// windows of a plane must all be alike.
inline bool has_direct_gradient(const Pool2dGeometry& g) {
  constexpr int64_t kMostHolders = 12;
  if (g.taps() > kMaxByteTaps || (!g.channels_last && (g.h.adaptive || g.w.adaptive))) return false;
  const auto holders = [](const Axis& axis) {
    return axis.adaptive ? ceil_div(axis.kernel * axis.output, axis.input) : ceil_div(axis.kernel, axis.stride);
  };
  return holders(g.h) * holders(g.w) <= kMostHolders;
}

template <typename scalar_t>
void direct_grad_input_channels(
    const Pool2dGeometry& g, const scalar_t* grad_output, const uint8_t* offsets, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C;
  const auto row_holders = holders_of(g.h), column_holders = holders_of(g.w);
  parallel_for(g.N * H, g.input_numel(), [&](int64_t begin, int64_t end) {
    struct Window {
      int64_t at;
      Offset tap;
    };
    std::vector<Window> windows;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / H * P * Q * C;
      for (int64_t w = 0; w < W; ++w) {
        windows.clear();
        for (const auto& [p, r] : row_holders[row % H]) {
          for (const auto& [q, s] : column_holders[w])
            windows.push_back({image + (p * Q + q) * C, static_cast<Offset>(r * g.w.kernel + s)});
        }
        scalar_t* to = grad_input + (row * W + w) * C;
        for_each_four_vectors<acc_t>(C, [&](int64_t c, int64_t count, auto vectors) CONVOPS_INLINE_LAMBDA {
          Vector<acc_t> sum[vectors] = {};
          for (const Window& window : windows) {
            for (int v = 0; v < vectors; ++v) {
              const int64_t at = window.at + c + v * kLanes<acc_t>;
              const Vector<acc_t> gradient = load_partial(grad_output + at, count);
              sum[v] += load_offsets<Offset>(offsets + at, count) == window.tap ? gradient : Vector<acc_t>{};
            }
          }
          for (int v = 0; v < vectors; ++v) store_partial(to + c + v * kLanes<acc_t>, sum[v], count);
        });
      }
    }
  });
}

// The windows of some rows of a plane are first widened, with offsets that name no tap on both sides, so that every
// pixel of a row may ask as many windows as one in the middle, and which these are is the same for all planes. Reading
// them from where they lie would mean as many masks; they are short of the pixels by the stride.
template <typename scalar_t>
void direct_grad_input_planes(
    const Pool2dGeometry& g, const scalar_t* grad_output, const uint8_t* offsets, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  constexpr int64_t lanes = kLanes<acc_t>, kBytes = 128 << 10;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, stride = std::min(g.w.stride, W);
  const int64_t left = (g.w.extent() - 1) / g.w.stride;
  const int64_t pitch = left + std::max(Q, (W - 1 + g.w.pad_lower) / g.w.stride + 1) + 2 * lanes;

  // Every stride-th pixel of a row has the same taps. windows[h * stride + first] are those that hold pixel `first` of
  // row h, in their order, and its every stride-th neighbour the next ones.
  struct Window {
    int64_t at;
    Offset tap;
  };
  const auto row_holders = holders_of(g.h);
  std::vector<std::vector<Window>> windows(H * stride);
  for (int64_t h = 0; h < H; ++h) {
    for (const auto& [p, r] : row_holders[h]) {
      for (int64_t first = 0; first < stride; ++first) {
        for (int64_t s = g.w.kernel - 1; s >= 0; --s) {
          const int64_t steps = first + g.w.pad_lower - s * g.w.dilation;
          if (floor_mod(steps, g.w.stride) != 0) continue;
          windows[h * stride + first].push_back(
              {p * pitch + left + floor_div(steps, g.w.stride), static_cast<Offset>(r * g.w.kernel + s)});
        }
      }
    }
  }

  const int64_t row_bytes = pitch * static_cast<int64_t>(sizeof(acc_t) + sizeof(Offset));
  const int64_t wanted = std::max(ceil_div(P * row_bytes, kBytes), ceil_div(4 * thread_count(), g.N * g.C));
  const int64_t parts = std::min(wanted, ceil_div(H, 8));
  const int64_t most_rows = std::min(P, (ceil_div(H, parts) + g.h.extent()) / g.h.stride + 2);
  const int64_t line_pitch = ceil_div(ceil_div(W, stride), lanes) * lanes;
  parallel_for(g.N * g.C * parts, g.input_numel(), [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> gradients(most_rows * pitch), line(stride * line_pitch);
    const Scratch<Offset> taps(most_rows * pitch);
    std::fill_n(gradients.data(), most_rows * pitch, acc_t(0));
    std::fill_n(taps.data(), most_rows * pitch, Offset(-1));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / parts, h0 = task % parts * H / parts, h1 = (task % parts + 1) * H / parts;
      const int64_t p0 = std::clamp<int64_t>(ceil_div(h0 + g.h.pad_lower - g.h.extent() + 1, g.h.stride), 0, P);
      const int64_t p1 = std::clamp<int64_t>((h1 - 1 + g.h.pad_lower) / g.h.stride + 1, p0, P);
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t from = (plane * P + p) * Q, to = (p - p0) * pitch + left;
        for_each_vector<acc_t>(Q, [&](int64_t q, int64_t count) CONVOPS_INLINE_LAMBDA {
          store_partial(gradients.data() + to + q, load_partial(grad_output + from + q, count), count);
          store_partial(taps.data() + to + q, load_offsets<Offset>(offsets + from + q, count), count);
        });
      }
      for (int64_t h = h0; h < h1; ++h) {
        scalar_t* to = grad_input + (plane * H + h) * W;
        for (int64_t first = 0; first < stride; ++first) {
          const int64_t pixels = ceil_div(W - first, stride);
          for (int64_t i = 0; i < pixels; i += lanes) {
            Vector<acc_t> sum{};
            for (const Window& window : windows[h * stride + first]) {
              const int64_t at = window.at - p0 * pitch + i;
              const Vector<acc_t> gradient = load(gradients.data() + at);
              sum += load(taps.data() + at) == window.tap ? gradient : Vector<acc_t>{};
            }
            if (stride == 1) {
              store_partial(to + i, sum, pixels - i);
            } else {
              store(line.data() + first * line_pitch + i, sum);
            }
          }
        }
        if (stride == 2) {
          for (int64_t i = 0; i < line_pitch; i += lanes) {
            const Vector<acc_t> even = load(line.data() + i), odd = load(line.data() + line_pitch + i);
            store_partial(to + 2 * i, zip<false, acc_t>(even, odd), W - 2 * i);
            store_partial(to + 2 * i + lanes, zip<true, acc_t>(even, odd), W - 2 * i - lanes);
          }
        } else if (stride > 2) {
          for (int64_t w = 0; w < W; ++w) to[w] = narrow<scalar_t>(line[w % stride * line_pitch + w / stride]);
        }
      }
    }
  });
}

template <typename scalar_t>
void direct_grad_input(
    const Pool2dGeometry& g, const scalar_t* grad_output, const uint8_t* offsets, scalar_t* grad_input) {
  (g.channels_last ? direct_grad_input_channels<scalar_t> : direct_grad_input_planes<scalar_t>)(g, grad_output, offsets,
                                                                                                grad_input);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
