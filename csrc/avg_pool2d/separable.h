// Average-pooling and its transpose, along one axis at a time.
//
// forward: row sums, then sums of those down the columns, then one division. grad_input: the gradient divided, then
// each input row sums the output rows whose windows hold it, then each pixel the columns. Bytes: input and output once
// each; R + S additions a pixel, so small windows are bound by memory.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

// The outputs whose windows hold input i: [first, last).
struct Cover {
  Cover(const Axis& axis, int64_t i)
      : first(std::max<int64_t>(0, ceil_div(i + axis.pad_lower - axis.kernel + 1, axis.stride))),
        last(std::min(axis.output, (i + axis.pad_lower) / axis.stride + 1)) {}
  int64_t first, last;
};

inline std::vector<Cover> covers_of(const Axis& axis) {
  std::vector<Cover> covers;
  covers.reserve(axis.input);
  for (int64_t i = 0; i < axis.input; ++i) covers.emplace_back(axis, i);
  return covers;
}

// to[i] = sum over rows of rows[...][i]; `finish` turns a vector of sums at i into what is stored.
template <typename scalar_t, typename Finish>
CONVOPS_INLINE void sum_rows(
    const std::vector<const Compute<scalar_t>*>& rows, int64_t length, scalar_t* to, const Finish& finish) {
  using acc_t = Compute<scalar_t>;
  for_each_vector<acc_t>(length, [&](int64_t i, int64_t count) {
    Vector<acc_t> sum{};
    for (const acc_t* row : rows) sum += load(row + i);
    store_partial(to + i, finish(sum, i), count);
  });
}

template <typename scalar_t>
void avg_pool_forward(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const Pool2dGeometry& g = problem.geometry;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C;
  const Axis used = g.w.used();
  const int64_t ring_slots = std::min(g.h.extent(), H);
  const auto row_windows = windows_of(g.h), column_windows = windows_of(g.w);
  // A strip is a plane, or a range of output columns whose ring of rows stays in the L2 cache.
  constexpr int64_t kRingBytes = 128 << 10;
  const int64_t pixel = g.channels_last ? C : 1, planes = g.channels_last ? 1 : C;
  const int64_t column_bytes = ring_slots * C * static_cast<int64_t>(sizeof(acc_t));
  const int64_t chunk = g.channels_last ? std::clamp<int64_t>(kRingBytes / column_bytes, 1, Q) : Q;
  const int64_t chunks = ceil_div(Q, chunk), pitch = round_up(chunk * pixel, lanes) + lanes;

  struct State {
    Scratch<acc_t> sums, divisors;
    StridedRow<acc_t> row;
    RowRing ring;
    std::vector<const acc_t*> slots;
  };
  const auto make_state = [&] {
    return State{Scratch<acc_t>(ring_slots * pitch), Scratch<acc_t>(pitch), {used, acc_t(0)}, RowRing(ring_slots), {}};
  };
  parallel_strips(
      g.N * planes * chunks, P, g.input_numel(), make_state, [&](State& state, int64_t strip, int64_t p0, int64_t p1) {
        const int64_t plane = strip / chunks, q0 = strip % chunks * chunk, q1 = std::min(q0 + chunk, Q);
        const scalar_t* image = input + plane * H * W * pixel;
        const auto make = [&](int64_t h, int64_t slot) {
          acc_t* to = state.sums.data() + slot * pitch;
          if (!g.channels_last) {
            state.row.set(image + h * W);
            for (int64_t q = 0; q < Q; q += lanes) {
              Vector<acc_t> sum{};
              for (int64_t s = 0; s < used.kernel; ++s) sum += load(state.row.tap(s) + q);
              store(to + q, sum);
            }
            return;
          }
          for (int64_t q = q0; q < q1; ++q, to += C) {
            const Window& window = column_windows[q];
            const scalar_t* from = image + (h * W + window.start) * C;
            for_each_vector<acc_t>(C, [&](int64_t channel, int64_t count) {
              Vector<acc_t> sum{};
              for (int64_t s = window.first; s < window.last; ++s) sum += load_partial(from + s * C + channel, count);
              store(to + channel, sum);
            });
          }
        };
        state.ring.clear();
        int64_t counted_rows = -1;
        for (int64_t p = p0; p < p1; ++p) {
          const Window& window = row_windows[p];
          state.slots.clear();
          for (int64_t r = window.first; r < window.last; ++r) {
            state.slots.push_back(state.sums.data() + state.ring.slot(window.start + r, make) * pitch);
          }
          if (const int64_t count = problem.divisor.counted(g.h, p); count != counted_rows) {
            counted_rows = count;
            for (int64_t q = q0; q < q1; ++q) {
              std::fill_n(state.divisors.data() + (q - q0) * pixel, pixel, acc_t(problem.divisor.at(g, p, q)));
            }
          }
          sum_rows(
              state.slots, (q1 - q0) * pixel, output + ((plane * P + p) * Q + q0) * pixel,
              [&](Vector<acc_t> sum, int64_t i) { return sum / load(state.divisors.data() + i); });
        }
      });
}

// Spreads a row of column sums over the pixels of an input row: pixel w adds the outputs that hold it. Contiguous rows
// are done by remainder of the padded column modulo the stride, where a step in the pixel is a step in the output.
template <typename scalar_t>
class SpreadRow {
  using acc_t = Compute<scalar_t>;

 public:
  explicit SpreadRow(const Axis& axis)
      : axis_(axis),
        margin_(round_up(ceil_div(axis.kernel, axis.stride), kLanes<acc_t>)),
        positions_(ceil_div(axis.input + axis.pad_lower, axis.stride)),
        sums_(2 * margin_ + round_up(std::max(axis.output, positions_), kLanes<acc_t>) + kLanes<acc_t>),
        spread_(round_up(positions_, kLanes<acc_t>) * 2 + 2 * kLanes<acc_t>) {
    std::fill_n(
        sums_.data(), 2 * margin_ + round_up(std::max(axis.output, positions_), kLanes<acc_t>) + kLanes<acc_t>,
        acc_t(0));
  }

  // Where the column sums of outputs 0, 1, ... go; zeros surround them.
  acc_t* sums() { return sums_.data() + margin_; }

  void write(scalar_t* to) {
    constexpr int lanes = kLanes<acc_t>;
    const int64_t W = axis_.input, pad = axis_.pad_lower, stride = axis_.stride;
    if (stride == 1) {
      for (int64_t w = 0; w < W; w += lanes) store_partial(to + w, at(w + pad, 0), W - w);
    } else if (stride == 2) {
      // Pixel w is position (w + pad) / 2 of remainder (w + pad) % 2.
      acc_t* both = spread_.data();
      for (int64_t i = 0; i < positions_; i += lanes) {
        const Vector<acc_t> even = at(i, 0), odd = at(i, 1);
        store(both + 2 * i, zip<false, acc_t>(even, odd));
        store(both + 2 * i + lanes, zip<true, acc_t>(even, odd));
      }
      for (int64_t w = 0; w < W; w += lanes) store_partial(to + w, load(both + w + pad), W - w);
    } else {
      for (int64_t w = 0; w < W; ++w) {
        acc_t sum = 0;
        for (int64_t q = Cover(axis_, w).first; q < Cover(axis_, w).last; ++q) sum += sums()[q];
        to[w] = narrow<scalar_t>(sum);
      }
    }
  }

 private:
  // Sums for the positions i, i + 1, ... of a remainder: outputs i - (kernel - 1 - remainder) / stride to i.
  CONVOPS_INLINE Vector<acc_t> at(int64_t i, int64_t remainder) {
    Vector<acc_t> sum{};
    if (remainder >= axis_.kernel) return sum;
    for (int64_t back = (axis_.kernel - 1 - remainder) / axis_.stride; back >= 0; --back)
      sum += load(sums() + i - back);
    return sum;
  }

  const Axis& axis_;
  int64_t margin_, positions_;
  Scratch<acc_t> sums_, spread_;
};

template <typename scalar_t>
void avg_pool_grad_input(const AvgPool2dProblem& problem, const scalar_t* grad_output, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const Pool2dGeometry& g = problem.geometry;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, C = g.C;
  const int64_t ring_slots = std::min(ceil_div(g.h.kernel, g.h.stride), P);
  const int64_t pixel = g.channels_last ? C : 1, planes = g.channels_last ? g.N : g.N * C;
  const int64_t length = Q * pixel, pitch = round_up(length, lanes) + lanes;
  const Axis used = g.w.used();
  const auto row_covers = covers_of(g.h), column_covers = covers_of(g.w);

  struct State {
    Scratch<acc_t> divided, divisors, column_sums;
    SpreadRow<scalar_t> spread;
    RowRing ring;
    std::vector<const acc_t*> slots;
    int64_t counted_rows;
  };
  const auto make_state = [&] {
    return State{
        Scratch<acc_t>(ring_slots * pitch),
        Scratch<acc_t>(pitch),
        Scratch<acc_t>(pitch),
        SpreadRow<scalar_t>(used),
        RowRing(ring_slots),
        {},
        -1};
  };
  parallel_strips(planes, H, g.input_numel(), make_state, [&](State& state, int64_t plane, int64_t h0, int64_t h1) {
    const scalar_t* from = grad_output + plane * P * length;
    const auto make = [&](int64_t p, int64_t slot) {
      if (const int64_t count = problem.divisor.counted(g.h, p); count != state.counted_rows) {
        state.counted_rows = count;
        for (int64_t q = 0; q < Q; ++q) {
          std::fill_n(state.divisors.data() + q * pixel, pixel, acc_t(problem.divisor.at(g, p, q)));
        }
      }
      acc_t* to = state.divided.data() + slot * pitch;
      for_each_vector<acc_t>(length, [&](int64_t i, int64_t count) {
        store(to + i, load_partial(from + p * length + i, count) / load(state.divisors.data() + i));
      });
    };
    state.ring.clear();
    for (int64_t h = h0; h < h1; ++h) {
      const Cover& rows = row_covers[h];
      state.slots.clear();
      for (int64_t p = rows.first; p < rows.last; ++p) {
        state.slots.push_back(state.divided.data() + state.ring.slot(p, make) * pitch);
      }
      scalar_t* to = grad_input + (plane * H + h) * W * pixel;
      const auto plain = [](Vector<acc_t> sum, int64_t) { return sum; };
      if (!g.channels_last) {
        sum_rows(state.slots, length, state.spread.sums(), plain);
        state.spread.write(to);
        continue;
      }
      const acc_t* sums = state.slots.size() == 1 ? state.slots[0] : state.column_sums.data();
      if (state.slots.size() != 1) sum_rows(state.slots, length, state.column_sums.data(), plain);
      for (int64_t w = 0; w < W; ++w, to += C) {
        const Cover& columns = column_covers[w];
        for_each_vector<acc_t>(C, [&](int64_t channel, int64_t count) {
          Vector<acc_t> sum{};
          for (int64_t q = columns.first; q < columns.last; ++q) sum += load(sums + q * C + channel);
          store_partial(to + channel, sum, count);
        });
      }
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
