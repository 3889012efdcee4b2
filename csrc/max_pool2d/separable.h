// Max-pooling: along rows first, then down columns, carrying the window offset of the maximum.
//
// Taking the first of equal maxima along each row, then the first of equal rows, is the first in row-major order; a
// NaN replaces whatever stands before it, so that the last one wins, as in torch. Bytes: input once, output once and
// one byte an output; 2 (R + S) vector operations an output, so small windows are bound by memory.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

// A running maximum and where it was found.
template <typename acc_t, bool kOffsets>
struct Maximum {
  using Offset = LaneInt<acc_t>;

  CONVOPS_INLINE void start(Vector<acc_t> v, Vector<Offset> at) {
    value = v;
    if constexpr (kOffsets) offset = at;
  }
  CONVOPS_INLINE void take(Vector<acc_t> v, Vector<Offset> at) {
    auto better = v > value;
    if constexpr (!std::is_integral_v<acc_t>) better |= v != v;
    value = better ? v : value;
    if constexpr (kOffsets) offset = better ? at : offset;
  }

  Vector<acc_t> value;
  Vector<Offset> offset;
};

// Offsets are uint8_t or int32_t in memory.
template <typename offset_t, typename Lane>
CONVOPS_INLINE void store_offsets(offset_t* to, Vector<Lane> offsets, int64_t count) {
  typedef offset_t Narrow __attribute__((vector_size(kLanes<Lane> * sizeof(offset_t))));
  const Narrow narrow = __builtin_convertvector(offsets, Narrow);
  if (count >= kLanes<Lane>) {
    std::memcpy(to, &narrow, sizeof(narrow));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = narrow[i];
  }
}

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

template <typename acc_t>
constexpr acc_t kLowest =
    std::is_integral_v<acc_t> ? std::numeric_limits<acc_t>::lowest() : -std::numeric_limits<acc_t>::infinity();

// Writes one row of outputs: the maximum over the slots of the window's rows, tap by tap.
template <typename scalar_t, typename offset_t, bool kOffsets>
void write_maxima(
    const MaximumRows<Compute<scalar_t>, kOffsets>& rows, const std::vector<int64_t>& slots, int64_t first_tap,
    int64_t S, int64_t length, scalar_t* values, offset_t* offsets) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  const auto offset_at = [&](size_t tap, int64_t i) {
    if constexpr (!kOffsets) return Vector<Offset>{};
    return load(rows.offsets.data() + slots[tap] * rows.pitch + i) + broadcast<Offset>((first_tap + tap) * S);
  };
  for (int64_t i = 0; i < length; i += lanes) {
    Maximum<acc_t, kOffsets> maximum;
    maximum.start(load(rows.values.data() + slots[0] * rows.pitch + i), offset_at(0, i));
    for (size_t tap = 1; tap < slots.size(); ++tap) {
      maximum.take(load(rows.values.data() + slots[tap] * rows.pitch + i), offset_at(tap, i));
    }
    store_partial(values + i, maximum.value, length - i);
    if constexpr (kOffsets) store_offsets<offset_t, Offset>(offsets + i, maximum.offset, length - i);
  }
}

// Walks down the output rows [p0, p1) of one strip: reduces each input row that is needed with make(row, slot), then
// the rows of each window. values and offsets point at the strip's part of output row 0, whose rows lie `step` apart.
template <typename scalar_t, typename offset_t, bool kOffsets, typename Make>
void pool_strip(
    const Axis& axis, int64_t S, int64_t p0, int64_t p1, int64_t length, MaximumRows<Compute<scalar_t>, kOffsets>& rows,
    RowRing& ring, const Make& make, scalar_t* values, offset_t* offsets, int64_t step) {
  std::vector<int64_t> slots;
  ring.clear();
  for (int64_t p = p0; p < p1; ++p) {
    const int64_t first = axis.first_tap(p), last = axis.last_tap(p);
    slots.clear();
    for (int64_t r = first; r < last; ++r) slots.push_back(ring.slot(axis.start(p) + r * axis.dilation, make));
    if (slots.empty()) {
      // Dilation can step over the whole image.
      std::fill_n(values + p * step, length, narrow<scalar_t>(kLowest<Compute<scalar_t>>));
      if constexpr (kOffsets) std::fill_n(offsets + p * step, length, static_cast<offset_t>(first * S));
      continue;
    }
    write_maxima<scalar_t, offset_t, kOffsets>(
        rows, slots, first, S, length, values + p * step, kOffsets ? offsets + p * step : nullptr);
  }
}

template <typename scalar_t, typename offset_t, bool kOffsets>
void max_pool_forward(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, offset_t* offsets) {
  using acc_t = Compute<scalar_t>;
  using Offset = LaneInt<acc_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C, S = g.w.kernel;
  const int64_t ring_slots = std::min(g.h.extent(), H);

  if (!g.channels_last) {
    // A strip is a plane.
    parallel_strips(g.N * C, P, [&](int64_t plane, int64_t p0, int64_t p1) {
      StridedRow<acc_t> row(g.w, kLowest<acc_t>);
      MaximumRows<acc_t, kOffsets> rows(ring_slots, Q);
      RowRing ring(ring_slots);
      // Columns of padding never win, so a window of lowest values keeps its first tap inside the image.
      const Scratch<Offset> first_taps(round_up(Q, lanes));
      for (int64_t q = 0; q < Q; ++q) first_taps[q] = static_cast<Offset>(g.w.first_tap(q));
      const auto make = [&](int64_t h, int64_t slot) {
        row.set(input + (plane * H + h) * W);
        for (int64_t q = 0; q < Q; q += lanes) {
          Maximum<acc_t, kOffsets> maximum;
          maximum.start(broadcast<acc_t>(kLowest<acc_t>), load(first_taps.data() + q));
          for (int64_t s = 0; s < S; ++s) maximum.take(load(row.tap(s) + q), broadcast<Offset>(s));
          rows.put(slot * rows.pitch + q, maximum);
        }
      };
      pool_strip<scalar_t, offset_t, kOffsets>(
          g.h, S, p0, p1, Q, rows, ring, make, output + plane * P * Q, kOffsets ? offsets + plane * P * Q : nullptr, Q);
    });
    return;
  }

  // A strip is a range of output columns whose ring of rows stays in the L1 cache.
  constexpr int64_t kRingBytes = 24 << 10;
  const int64_t chunk =
      std::clamp<int64_t>(kRingBytes / (ring_slots * C * 2 * static_cast<int64_t>(sizeof(acc_t))), 1, Q);
  const int64_t chunks = ceil_div(Q, chunk);
  parallel_strips(g.N * chunks, P, [&](int64_t strip, int64_t p0, int64_t p1) {
    const int64_t n = strip / chunks, q0 = strip % chunks * chunk, q1 = std::min(q0 + chunk, Q);
    MaximumRows<acc_t, kOffsets> rows(ring_slots, chunk * C);
    RowRing ring(ring_slots);
    const auto make = [&](int64_t h, int64_t slot) {
      for (int64_t q = q0; q < q1; ++q) {
        const int64_t first = g.w.first_tap(q), last = g.w.last_tap(q), at = slot * rows.pitch + (q - q0) * C;
        const scalar_t* pixel = input + ((n * H + h) * W + g.w.start(q)) * C;
        for (int64_t channel = 0; channel < C; channel += lanes) {
          Maximum<acc_t, kOffsets> maximum;
          maximum.start(broadcast<acc_t>(kLowest<acc_t>), broadcast<Offset>(first));
          for (int64_t s = first; s < last; ++s) {
            maximum.take(load_partial(pixel + s * g.w.dilation * C + channel, C - channel), broadcast<Offset>(s));
          }
          rows.put(at + channel, maximum);
        }
      }
    };
    const int64_t base = (n * P * Q + q0) * C;
    pool_strip<scalar_t, offset_t, kOffsets>(
        g.h, S, p0, p1, (q1 - q0) * C, rows, ring, make, output + base, kOffsets ? offsets + base : nullptr, Q * C);
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
