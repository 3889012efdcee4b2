// Average-pooling and its transpose, along one axis at a time.
//
// forward: sums down the columns, then along the row, then one division. grad_input: the gradient divided, then each
// input row sums the output rows whose windows hold it, then each pixel the columns. Bytes: input and output once each;
// small windows are bound by memory.
#pragma once

#include "../common/algorithm.h"
#include "../common/separable.h"
#include "divisors.h"
#include "sum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void separable_avg_pool(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  using acc_t = Compute<scalar_t>;
  using Item = Tagged<acc_t, false>;
  const Pool2dGeometry& g = problem.geometry;
  const Divisors<acc_t> divisors(problem);
  reduce_windows<SumRule<acc_t>>(
      g, [&](int64_t, int64_t) { return ImageRows<scalar_t>{g, input}; },
      [&](int64_t n, int64_t channel, int64_t p, int64_t q, int64_t count, const Item& item) CONVOPS_INLINE_LAMBDA {
        const auto mean =
            g.channels_last ? divisors.divide_at(p, q, item.value) : divisors.divide_along(p, q, item.value);
        store_partial(output + g.output_at(n, channel, p, q), mean, count);
      });
}

// The outputs whose windows hold an input: every step-th of [first, last).
struct Cover {
  bool operator==(const Cover&) const = default;

  int64_t first = 0, last = 0, step = 1;
};

inline std::vector<Cover> covers_of(const Axis& axis) {
  std::vector<Cover> covers(axis.input);
  if (axis.dilation == 1) {
    for (int64_t i = 0; i < axis.input; ++i) {
      if (axis.adaptive) {
        covers[i] = {adaptive_first(i, axis.output, axis.input), adaptive_last(i, axis.output, axis.input)};
      } else {
        covers[i].first = std::max<int64_t>(0, ceil_div(i + axis.pad_lower - axis.kernel + 1, axis.stride));
        covers[i].last = std::min(axis.output, (i + axis.pad_lower) / axis.stride + 1);
      }
    }
    return covers;
  }
  // The outputs that hold a pixel are evenly spaced.
  for (int64_t o = 0; o < axis.output; ++o) {
    const int64_t start = axis.start(o), last = axis.last_tap(o);
    for (int64_t tap = axis.first_tap(o); tap < last; ++tap) {
      Cover& cover = covers[start + tap * axis.dilation];
      if (cover.last == 0)
        cover.first = o;
      else
        cover.step = o + 1 - cover.last;
      cover.last = o + 1;
    }
  }
  return covers;
}

// Rows of a gradient, each divided once for all the windows that read it.
template <typename scalar_t>
class DividedRows {
  using acc_t = Compute<scalar_t>;

 public:
  // Up to `span` neighbouring rows of up to `channels` channels are at hand at a time.
  DividedRows(
      const Pool2dGeometry& g, const Divisors<acc_t>& divisors, const scalar_t* grad_output, int64_t span,
      int64_t channels)
      : g_(g),
        divisors_(divisors),
        grad_output_(grad_output),
        slots_(std::min(span, g.h.output)),
        size_(round_up(g.w.output * channels, kLanes<acc_t>) + kLanes<acc_t>),
        ring_(slots_),
        divided_(slots_ * size_) {}

  void enter(int64_t n, int64_t channel, int64_t channels) {
    from_ = grad_output_ + g_.output_at(n, channel, 0, 0);
    channels_ = channels;
    ring_.clear();
  }
  int64_t pitch(int64_t channels) const { return channels; }

  CONVOPS_INLINE const acc_t* operator()(int64_t p) {
    const int64_t slot = ring_.slot(p, [&](int64_t row, int64_t to) { divide(row, divided_.data() + to * size_); });
    return divided_.data() + slot * size_;
  }

 private:
  void divide(int64_t p, acc_t* to) const {
    const int64_t Q = g_.w.output;
    if (!g_.channels_last) {
      for_each_vector<acc_t>(Q, [&](int64_t q, int64_t count) CONVOPS_INLINE_LAMBDA {
        store(to + q, divisors_.divide_along(p, q, load_partial(from_ + p * Q + q, count)));
      });
      return;
    }
    for (int64_t q = 0; q < Q; ++q) {
      for_each_vector<acc_t>(channels_, [&](int64_t c, int64_t count) CONVOPS_INLINE_LAMBDA {
        const auto gradient = load_partial(from_ + (p * Q + q) * g_.C + c, count);
        store_partial(to + q * channels_ + c, divisors_.divide_at(p, q, gradient), count);
      });
    }
  }

  const Pool2dGeometry& g_;
  const Divisors<acc_t>& divisors_;
  const scalar_t* grad_output_;
  int64_t slots_, size_;
  RowRing ring_;
  Scratch<acc_t> divided_;
  const scalar_t* from_ = nullptr;
  int64_t channels_ = 0;
};

// With a stride of 1 the transpose is a sum over windows, too: over those of the outputs that hold a pixel.
template <typename scalar_t>
void avg_pool_grad_input_of_stride_1(
    const AvgPool2dProblem& problem, const scalar_t* grad_output, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  using Item = Tagged<acc_t, false>;
  const Pool2dGeometry& g = problem.geometry;
  const Divisors<acc_t> divisors(problem);
  reduce_windows<SumRule<acc_t>>(
      g.transposed(),
      [&](int64_t span, int64_t channels) { return DividedRows<scalar_t>(g, divisors, grad_output, span, channels); },
      [&](int64_t n, int64_t channel, int64_t h, int64_t w, int64_t count, const Item& item)
          CONVOPS_INLINE_LAMBDA { store_partial(grad_input + g.input_at(n, channel, h, w), item.value, count); });
}

// Spreads a row of column sums over the pixels of an input row: pixel w adds the outputs that hold it. With a stride of
// 2 it is done by remainder of the padded column, where a step in the pixel is a step in the output; else each pixel's
// outputs are listed.
template <typename scalar_t>
class SpreadRow {
  using acc_t = Compute<scalar_t>;
  static constexpr int64_t lanes = kLanes<acc_t>;

 public:
  explicit SpreadRow(const Axis& axis)
      : axis_(axis),
        in_pairs_(!axis.adaptive && axis.dilation == 1 && axis.stride == 2),
        margin_(round_up(ceil_div(axis.kernel, axis.stride), lanes)),
        positions_(in_pairs_ ? ceil_div(axis.input + axis.pad_lower, axis.stride) : 0),
        size_(2 * margin_ + round_up(std::max(axis.output, positions_), lanes) + lanes),
        sums_(size_),
        spread_(round_up(in_pairs_ ? 2 * positions_ : axis.input, lanes) + 2 * lanes) {
    std::fill_n(sums_.data(), size_, acc_t(0));
    if (!in_pairs_) list_outputs();
  }

  // Where the column sums of outputs 0, 1, ... go; zeros surround them.
  acc_t* sums() { return sums_.data() + margin_; }

  void write(scalar_t* to) {
    const int64_t W = axis_.input, pad = in_pairs_ ? axis_.pad_lower : 0;
    acc_t* spread = spread_.data();
    if (in_pairs_) {
      // Pixel w is position (w + pad) / 2 of remainder (w + pad) % 2.
      for (int64_t i = 0; i < positions_; i += lanes) {
        const Vector<acc_t> even = at(i, 0), odd = at(i, 1);
        store(spread + 2 * i, zip<false, acc_t>(even, odd));
        store(spread + 2 * i + lanes, zip<true, acc_t>(even, odd));
      }
    } else {
      std::fill_n(spread, W, acc_t(0));
      const acc_t* from = sums();
      for (const int32_t* output = listed_.data(); output < listed_.data() + listed_.size(); output += W) {
        for (int64_t w = 0; w < W; ++w) spread[w] += from[output[w]];
      }
    }
    for_each_vector<acc_t>(W, [&](int64_t w, int64_t count) CONVOPS_INLINE_LAMBDA {
      store_partial(to + w, load(spread + w + pad), count);
    });
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

  // Round by round the next output of each pixel, or a zero before the first output.
  void list_outputs() {
    const auto covers = covers_of(axis_);
    for (int64_t round = 0;; ++round) {
      const size_t first = listed_.size();
      bool any = false;
      for (const Cover& cover : covers) {
        const int64_t output = cover.first + round * cover.step;
        any |= output < cover.last;
        listed_.push_back(output < cover.last ? static_cast<int32_t>(output) : -1);
      }
      if (!any) return listed_.resize(first);
    }
  }

  const Axis& axis_;
  bool in_pairs_;
  int64_t margin_, positions_, size_;
  Scratch<acc_t> sums_, spread_;
  std::vector<int32_t> listed_;
};

template <typename scalar_t>
void avg_pool_grad_input(const AvgPool2dProblem& problem, const scalar_t* grad_output, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  const Pool2dGeometry& g = problem.geometry;
  if (g.has_transposed()) return avg_pool_grad_input_of_stride_1(problem, grad_output, grad_input);
  const int64_t H = g.h.input, W = g.w.input, Q = g.w.output, C = g.C;
  const int64_t pixel = g.channels_last ? C : 1, length = Q * pixel;
  const Axis used = g.w.used();
  const Divisors<acc_t> divisors(problem);
  const auto row_covers = covers_of(g.h), column_covers = g.channels_last ? covers_of(g.w) : std::vector<Cover>();
  int64_t span = 1;
  for (const Cover& cover : row_covers) span = std::max(span, cover.last - cover.first);

  struct State {
    DividedRows<scalar_t> divided;
    SpreadRow<scalar_t> spread;
    Scratch<acc_t> column_sums;
    std::vector<const acc_t*> rows{};
  };
  const auto make_state = [&] {
    return State{
        DividedRows<scalar_t>(g, divisors, grad_output, span, pixel), SpreadRow<scalar_t>(used),
        Scratch<acc_t>(round_up(length, kLanes<acc_t>))};
  };
  const int64_t planes = g.channels_last ? g.N : g.N * C;
  parallel_strips(planes, H, g.input_numel(), make_state, [&](State& state, int64_t plane, int64_t h0, int64_t h1) {
    state.divided.enter(g.channels_last ? plane : plane / C, g.channels_last ? 0 : plane % C, pixel);
    for (int64_t h = h0; h < h1; ++h) {
      const Cover& cover = row_covers[h];
      scalar_t* to = grad_input + (plane * H + h) * W * pixel;
      if (h > h0 && cover == row_covers[h - 1]) {  // in the same windows as the row before
        std::copy_n(to - W * pixel, W * pixel, to);
        continue;
      }
      state.rows.clear();
      for (int64_t p = cover.first; p < cover.last; p += cover.step) state.rows.push_back(state.divided(p));
      acc_t* sums = g.channels_last ? state.column_sums.data() : state.spread.sums();
      const acc_t* summed = sums;
      if (g.channels_last && state.rows.size() == 1) {
        summed = state.rows[0];
      } else {
        for_each_vector<acc_t>(length, [&](int64_t i, int64_t count) CONVOPS_INLINE_LAMBDA {
          Vector<acc_t> sum{};
          for (const acc_t* row : state.rows) sum += load(row + i);
          store_partial(sums + i, sum, count);
        });
      }
      if (!g.channels_last) {
        state.spread.write(to);
        continue;
      }
      for (int64_t w = 0; w < W; ++w, to += C) {
        const Cover& columns = column_covers[w];
        for_each_vector<acc_t>(C, [&](int64_t channel, int64_t count) CONVOPS_INLINE_LAMBDA {
          Vector<acc_t> sum{};
          for (int64_t q = columns.first; q < columns.last; q += columns.step) {
            sum += load_partial(summed + q * C + channel, count);
          }
          store_partial(to + channel, sum, count);
        });
      }
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
