// Max-pooling: along rows first, then down columns, carrying the window offset of the maximum.
//
// Taking the first of equal maxima along each row, then the first of equal rows, is the first in row-major order; a
// NaN replaces whatever stands before it, so that the last one wins, as in torch. Bytes: input once, output once and
// one byte an output; 2 (R + S) vector operations an output, so small windows are bound by memory.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

// Rows of horizontal maxima, [slot][length], and their offsets along the row.
template <typename acc_t, bool kOffsets>
struct MaximumRows {
  using Offset = LaneInt<acc_t>;

  MaximumRows(int64_t slots, int64_t length)
      : pitch(round_up(length, kLanes<acc_t>) + kLanes<acc_t>),
        values(slots * pitch),
        offsets(kOffsets ? slots * pitch : 0) {}

  CONVOPS_INLINE void put(int64_t at, const Maximum<acc_t, kOffsets>& maximum) {
    store(values.data() + at, maximum.value);
    if constexpr (kOffsets) store(offsets.data() + at, maximum.offset);
  }

  int64_t pitch;
  Scratch<acc_t> values;
  Scratch<Offset> offsets;
};

// Walks down the output rows of one strip after another.
template <typename scalar_t, typename offset_t, bool kOffsets>
class MaximumStrip {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;

 public:
  MaximumStrip(const Axis& axis, const std::vector<Window>& windows, int64_t S, int64_t length)
      : rows(std::min(axis.extent(), axis.input), length),
        axis_(axis),
        windows_(windows),
        S_(S),
        ring_(std::min(axis.extent(), axis.input)) {}

  // Outputs [p0, p1): reduces each input row that is needed with make(row, slot), then the rows of each window. values
  // and offsets point at the strip's part of output row 0, whose rows lie `step` apart.
  template <typename Make>
  void pool(
      int64_t p0, int64_t p1, int64_t length, const Make& make, scalar_t* values, offset_t* offsets, int64_t step) {
    ring_.clear();
    for (int64_t p = p0; p < p1; ++p) {
      const Window& window = windows_[p];
      slots_.clear();
      for (int64_t r = window.first; r < window.last; ++r) {
        slots_.push_back(ring_.slot(window.start + r * axis_.dilation, make));
      }
      scalar_t* to = values + p * step;
      offset_t* to_offsets = kOffsets ? offsets + p * step : nullptr;
      if (slots_.empty()) {
        // Dilation can step over the whole image.
        std::fill_n(to, length, narrow<scalar_t>(kLowest<scalar_t>));
        if constexpr (kOffsets) std::fill_n(to_offsets, length, static_cast<offset_t>(window.first * S_));
      } else {
        for_each_vector<acc_t>(length, [&](int64_t i, int64_t count) {
          Maximum<acc_t, kOffsets> maximum;
          maximum.start(value_at(0, i), offset_at(0, window.first, i));
          for (size_t tap = 1; tap < slots_.size(); ++tap) {
            maximum.take(value_at(tap, i), offset_at(tap, window.first, i));
          }
          store_partial(to + i, maximum.value, count);
          if constexpr (kOffsets) store_offsets<offset_t, Offset>(to_offsets + i, maximum.offset, count);
        });
      }
    }
  }

  MaximumRows<acc_t, kOffsets> rows;

 private:
  CONVOPS_INLINE Vector<acc_t> value_at(size_t tap, int64_t i) const {
    return load(rows.values.data() + slots_[tap] * rows.pitch + i);
  }
  CONVOPS_INLINE Vector<Offset> offset_at(size_t tap, int64_t first_tap, int64_t i) const {
    if constexpr (!kOffsets) return Vector<Offset>{};
    return load(rows.offsets.data() + slots_[tap] * rows.pitch + i) +
           broadcast<Offset>((first_tap + static_cast<int64_t>(tap)) * S_);
  }

  const Axis& axis_;
  const std::vector<Window>& windows_;
  int64_t S_;
  RowRing ring_;
  std::vector<int64_t> slots_;
};

template <typename scalar_t, typename offset_t, bool kOffsets>
void max_pool_planes(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, offset_t* offsets) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, S = g.w.kernel;
  const auto row_windows = windows_of(g.h);
  // Columns of padding never win, so a window of lowest values keeps its first tap inside the image.
  const Scratch<Offset> first_taps(round_up(Q, lanes));
  std::fill_n(first_taps.data(), round_up(Q, lanes), Offset(0));
  for (int64_t q = 0; q < Q; ++q) first_taps[q] = static_cast<Offset>(g.w.first_tap(q));

  const Axis used = g.w.used();
  const int64_t first_used = g.w.first_used_tap();
  struct State {
    StridedRow<acc_t> row;
    MaximumStrip<scalar_t, offset_t, kOffsets> strip;
  };
  const auto make_state = [&] { return State{{used, kLowest<scalar_t>}, {g.h, row_windows, S, Q}}; };
  parallel_strips(g.N * g.C, P, g.input_numel(), make_state, [&](State& state, int64_t plane, int64_t p0, int64_t p1) {
    auto& rows = state.strip.rows;
    const auto make = [&](int64_t h, int64_t slot) {
      state.row.set(input + (plane * H + h) * W);
      for (int64_t q = 0; q < Q; q += lanes) {
        Maximum<acc_t, kOffsets> maximum;
        maximum.start(broadcast<acc_t>(kLowest<scalar_t>), load(first_taps.data() + q));
        for (int64_t s = 0; s < used.kernel; ++s) {
          maximum.take(load(state.row.tap(s) + q), broadcast<Offset>(first_used + s));
        }
        rows.put(slot * rows.pitch + q, maximum);
      }
    };
    state.strip.pool(p0, p1, Q, make, output + plane * P * Q, kOffsets ? offsets + plane * P * Q : nullptr, Q);
  });
}

template <typename scalar_t, typename offset_t, bool kOffsets>
void max_pool_channels(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, offset_t* offsets) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C;
  const auto row_windows = windows_of(g.h), column_windows = windows_of(g.w);
  // A strip is a range of output columns whose ring of rows stays in the L2 cache.
  constexpr int64_t kRingBytes = 128 << 10;
  const int64_t column_bytes = std::min(g.h.extent(), H) * C * 2 * static_cast<int64_t>(sizeof(acc_t));
  const int64_t chunk = std::clamp<int64_t>(kRingBytes / column_bytes, 1, Q), chunks = ceil_div(Q, chunk);
  using Strip = MaximumStrip<scalar_t, offset_t, kOffsets>;
  const auto make_state = [&] { return Strip(g.h, row_windows, g.w.kernel, chunk * C); };
  parallel_strips(
      g.N * chunks, P, g.input_numel(), make_state, [&](Strip& state, int64_t strip, int64_t p0, int64_t p1) {
        const int64_t n = strip / chunks, q0 = strip % chunks * chunk, q1 = std::min(q0 + chunk, Q);
        const auto make = [&](int64_t h, int64_t slot) {
          for (int64_t q = q0; q < q1; ++q) {
            const Window& window = column_windows[q];
            const int64_t at = slot * state.rows.pitch + (q - q0) * C, step = g.w.dilation * C;
            const scalar_t* pixel = input + ((n * H + h) * W + window.start) * C;
            for_each_vector<acc_t>(C, [&](int64_t channel, int64_t count) {
              Maximum<acc_t, kOffsets> maximum;
              maximum.start(broadcast<acc_t>(kLowest<scalar_t>), broadcast<Offset>(window.first));
              for (int64_t s = window.first; s < window.last; ++s) {
                maximum.take(load_partial(pixel + s * step + channel, count), broadcast<Offset>(s));
              }
              state.rows.put(at + channel, maximum);
            });
          }
        };
        const int64_t base = (n * P * Q + q0) * C;
        state.pool(p0, p1, (q1 - q0) * C, make, output + base, kOffsets ? offsets + base : nullptr, Q * C);
      });
}

template <typename scalar_t, typename offset_t, bool kOffsets>
void max_pool_forward(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, offset_t* offsets) {
  if (g.channels_last) return max_pool_channels<scalar_t, offset_t, kOffsets>(g, input, output, offsets);
  return max_pool_planes<scalar_t, offset_t, kOffsets>(g, input, output, offsets);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
