// What separable pooling kernels share. A pooling window is reduced along its rows first, one input row at a time, and
// the reduced rows are then reduced down its columns, so a window costs R + S steps instead of R * S, and a row that
// several windows overlap is reduced along once.
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

// A row of a plane, padded to every column that a window reads and sorted by column modulo the stride, so that tap s
// of all windows is one contiguous stretch. Where dilation puts the taps far apart each tap is copied out by itself.
template <typename acc_t>
class StridedRow {
 public:
  StridedRow(const Axis& axis, acc_t padding)
      : axis_(axis),
        remainders_(std::min(axis.stride, axis.extent())),
        // Two more than the outputs and what a window spans beyond its stride.
        pitch_(round_up(axis.output + axis.extent() / axis.stride + 2, kLanes<acc_t>) + kLanes<acc_t>),
        far_taps_(axis.extent() > 2 * axis.input + axis.kernel),
        tap_pitch_(round_up(axis.output, kLanes<acc_t>)),
        size_(far_taps_ ? axis.kernel * tap_pitch_ : remainders_ * pitch_),
        columns_(size_) {
    std::fill_n(columns_.data(), size_, padding);
    for (int64_t s = 0; s < axis.kernel; ++s) {
      taps_.push_back(far_taps_ ? columns_.data() + s * tap_pitch_ : column(s * axis.dilation));
    }
  }

  // Fills in the columns inside the image; the padding stays.
  template <typename scalar_t>
  void set(const scalar_t* row) {
    constexpr int lanes = kLanes<acc_t>;
    const int64_t reach = (axis_.output - 1) * axis_.stride + axis_.extent() - axis_.pad_lower;
    const int64_t read = std::min(axis_.input, reach);
    int64_t w = 0;
    if (far_taps_) {
      for (int64_t s = 0; s < axis_.kernel; ++s) {
        for (int64_t q = 0; q < axis_.output; ++q) {
          const int64_t from = axis_.start(q) + s * axis_.dilation;
          if (from >= 0 && from < axis_.input) columns_[s * tap_pitch_ + q] = widen(row[from]);
        }
      }
    } else if (axis_.stride == 1) {
      acc_t* to = columns_.data() + axis_.pad_lower;
      for (; w < read; w += lanes) store_partial(to + w, load_partial(row + w, read - w), read - w);
    } else if (axis_.stride == 2 && remainders_ == 2) {
      acc_t* even = column(axis_.pad_lower);
      acc_t* odd = column(axis_.pad_lower + 1);
      for (; w + 2 * lanes <= read; w += 2 * lanes) {
        const Vector<acc_t> a = load(row + w), b = load(row + w + lanes);
        store(even + w / 2, unzip<false, acc_t>(a, b));
        store(odd + w / 2, unzip<true, acc_t>(a, b));
      }
      for (; w < read; ++w) (w % 2 == 0 ? even : odd)[w / 2] = widen(row[w]);
    } else {
      int64_t remainder = axis_.pad_lower % axis_.stride, index = axis_.pad_lower / axis_.stride;
      for (; w < read; ++w) {
        if (remainder < remainders_) columns_[remainder * pitch_ + index] = widen(row[w]);
        if (++remainder == axis_.stride) {
          remainder = 0;
          ++index;
        }
      }
    }
  }

  // What tap s reads, for outputs 0, 1, ...
  const acc_t* tap(int64_t s) const { return taps_[s]; }

 private:
  acc_t* column(int64_t padded) { return columns_.data() + padded % axis_.stride * pitch_ + padded / axis_.stride; }

  const Axis& axis_;
  int64_t remainders_, pitch_;
  bool far_taps_;
  int64_t tap_pitch_, size_;
  Scratch<acc_t> columns_;
  std::vector<const acc_t*> taps_;
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
