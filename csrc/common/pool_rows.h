// What pooling kernels share: the taps of windows, vectors of rows, and how work is shared out to threads.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu.h"
#include "geometry.h"
#include "simd.h"

namespace convops {
namespace CONVOPS_ISA {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

// Which rows of a sliding window are at hand: a ring with a slot for each row that one window spans.
class RowRing {
 public:
  explicit RowRing(int64_t slots) : row_of_slot_(slots, -1) {}

  void clear() { std::fill(row_of_slot_.begin(), row_of_slot_.end(), -1); }

  // The slot of a row, made if it is not there.
  template <typename Make>
  int64_t slot(int64_t row, const Make& make) {
    const int64_t slot = row % static_cast<int64_t>(row_of_slot_.size());
    if (row_of_slot_[slot] != row) {
      make(row, slot);
      row_of_slot_[slot] = row;
    }
    return slot;
  }

 private:
  std::vector<int64_t> row_of_slot_;
};

// The taps of each output that fall inside the input, worked out once: the rules of Axis divide.
struct Window {
  int64_t start, first, last;
};
inline std::vector<Window> windows_of(const Axis& axis) {
  std::vector<Window> windows(axis.output);
  for (int64_t o = 0; o < axis.output; ++o) windows[o] = {axis.start(o), axis.first_tap(o), axis.last_tap(o)};
  return windows;
}

// body(i, count) for each vector of [0, length): all but the last are full, which inlining turns into plain loads.
template <typename acc_t, typename Body>
CONVOPS_INLINE void for_each_vector(int64_t length, const Body& body) {
  constexpr int64_t lanes = kLanes<acc_t>;
  int64_t i = 0;
  for (; i + lanes <= length; i += lanes) body(i, lanes);
  if (i < length) body(i, length - i);
}

// Cuts the rows of `strips` independent strips, `work` in all, into tasks: body(state, strip, first row, last row),
// where make_state() is called once for all the tasks that run one after another. Whole strips while there are enough
// of them, since neighbouring tasks reduce the rows that both read twice.
template <typename MakeState, typename Body>
inline void parallel_strips(int64_t strips, int64_t rows, int64_t work, const MakeState& make_state, const Body& body) {
  const int64_t parts = std::clamp<int64_t>(ceil_div(4 * thread_count(), strips), 1, ceil_div(rows, 8));
  parallel_for(strips * parts, work, [&](int64_t begin, int64_t end) {
    auto state = make_state();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % parts;
      body(state, task / parts, part * rows / parts, (part + 1) * rows / parts);
    }
  });
}

// body(n, first channel, channels) over the images of a channels_last tensor, in blocks of channels where there are
// more threads than images.
template <typename Body>
inline void for_each_channel_block(const Pool2dGeometry& g, const Body& body) {
  constexpr int64_t kLeast = 64;
  const int64_t blocks = std::clamp<int64_t>(ceil_div(2 * thread_count(), g.N), 1, ceil_div(g.C, kLeast));
  const int64_t width = round_up(ceil_div(g.C, blocks), kLeast), count = ceil_div(g.C, width);
  parallel_for(g.N * count, g.input_numel(), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % count * width;
      body(task / count, first, std::min(width, g.C - first));
    }
  });
}

// How a scatter is shared out so that no two tasks write to the same pixel and channel: contiguous tensors by plane,
// channels_last ones by image and range of channels, of which there are about `wanted` in all.
struct ChannelRanges {
  template <typename Geometry>
  ChannelRanges(const Geometry& g, int64_t wanted) {
    constexpr int64_t kLeast = 16;  // a cache line of floats
    const int64_t even = ceil_div(g.C, ceil_div(wanted, g.N));
    width = g.channels_last ? std::min(g.C, round_up(even, kLeast)) : 1;
    count = ceil_div(g.C, width);
  }

  int64_t width, count;
};

// A tap of a channels_last window: elements from the window's first pixel, and the offset r * S + s.
struct WindowTap {
  int64_t element, offset;
};

// body(first pixel of the window, its taps inside the image, n * P + p, q) for each window of a channels_last image.
// The taps of all windows of a row that touch no left or right border are the same list.
template <typename scalar_t, typename Body>
inline void for_each_window(const Pool2dGeometry& g, const scalar_t* input, const Body& body) {
  const int64_t P = g.h.output, Q = g.w.output, C = g.C;
  const auto row_windows = windows_of(g.h), column_windows = windows_of(g.w);
  parallel_for(g.N * P, g.input_numel(), [&](int64_t begin, int64_t end) {
    std::vector<WindowTap> taps;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / P;
      const Window& rows = row_windows[item % P];
      int64_t first = -1, last = -1;  // the column taps that `taps` holds
      for (int64_t q = 0; q < Q; ++q) {
        const Window& columns = column_windows[q];
        if (q == 0 || columns.first != first || columns.last != last) {
          first = columns.first;
          last = columns.last;
          taps.clear();
          for (int64_t r = rows.first; r < rows.last; ++r) {
            for (int64_t s = first; s < last; ++s) {
              taps.push_back({(r * g.h.dilation * g.w.input + s * g.w.dilation) * C, r * g.w.kernel + s});
            }
          }
        }
        body(input + ((n * g.h.input + rows.start) * g.w.input + columns.start) * C, taps, item, q);
      }
    }
  });
}

// body(i, count, vectors) with 4 vectors of channels at a time where there are that many, then with one.
template <typename acc_t, typename Body>
CONVOPS_INLINE void for_each_four_vectors(int64_t length, const Body& body) {
  constexpr int64_t lanes = kLanes<acc_t>;
  int64_t i = 0;
  for (; i + 4 * lanes <= length; i += 4 * lanes) body(i, lanes, std::integral_constant<int, 4>());
  for (; i < length; i += lanes) body(i, length - i, std::integral_constant<int, 1>());
}

}  // namespace CONVOPS_ISA
}  // namespace convops
