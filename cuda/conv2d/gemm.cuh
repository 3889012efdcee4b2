// Every pass of a convolution as one matrix product D = A B whose matrices are never formed: their elements are read
// where they lie.
//
//   pass         rows of A (pixels, or taps)  columns of B  reduction
//   forward      (n, p, q) of output          k             (c, r, s)  A: input   B: weight  D: output
//   grad_input   (n, h, w) of input           c             (k, r, s)  A: output  B: weight  D: input
//   grad_weight  (c, r, s) of weight          k             (n, p, q)  A: input   B: output  D: weight
//
// In all nine places an index is a number of three digits, and each digit moves the element's address and its pixel
// by a fixed step. So an element of A or B is found from the sum of two positions, one per matrix index. Where the
// summed pixel lies outside the image it is the pixel that the border shows there, or zero.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>

#include "../common/image.cuh"
#include "../common/transposed_axis.cuh"
#include "common/algorithm.h"

namespace convops {

// The pixel of an index past the end: outside of every image, also after another position (or this one again) is added
// to it.
constexpr int kNowhere = INT_MIN / 2;

struct Position {
  int64_t offset;  // in elements
  int h, w;        // pixel

  // A pixel in an image or its padding is far above (axis_fits_32_bits).
  CONVOPS_HOST_DEVICE bool is_nowhere() const { return h < kNowhere / 2; }
  CONVOPS_HOST_DEVICE Position operator+(const Position& other) const {
    return {offset + other.offset, h + other.h, w + other.w};
  }
  CONVOPS_HOST_DEVICE Position operator*(int64_t n) const {
    return {offset * n, h * static_cast<int>(n), w * static_cast<int>(n)};
  }
};

// Blocks walk at most this far along a reduction, with 32-bit arithmetic.
constexpr int64_t kMaxWalk = int64_t{1} << 29;

struct IndexMap {
  struct Digit {
    int64_t size;
    Position step;
  };
  Position origin;
  Digit digits[3];  // the last is the fastest

  CONVOPS_HOST_DEVICE int64_t count() const { return digits[0].size * digits[1].size * digits[2].size; }

  CONVOPS_HOST_DEVICE Position operator()(int64_t index) const {
    const int64_t upper = index / digits[2].size;
    const int64_t first = upper / digits[1].size;
    return origin + digits[2].step * (index - upper * digits[2].size) +
           digits[1].step * (upper - first * digits[1].size) + digits[0].step * first;
  }

  // Position of an index of which none from `end` on exists.
  CONVOPS_HOST_DEVICE Position at(int64_t index, int64_t end) const {
    return index < end ? (*this)(index) : Position{0, kNowhere, kNowhere};
  }

  // Joins neighbouring digits that walk through memory as one.
  void merge() {
    for (const int fast : {2, 1, 2}) {
      Digit& slow = digits[fast - 1];
      Digit& joined = digits[fast];
      const Position step = joined.step * joined.size;
      const bool continues = slow.step.offset == step.offset && slow.step.h == step.h && slow.step.w == step.w &&
                             joined.step.h == 0 && joined.step.w == 0;
      if (slow.size * joined.size >= kMaxWalk) continue;
      if (joined.size == 1) {
        joined = slow;
      } else if (continues || slow.size == 1) {
        joined.size *= slow.size;
      } else {
        continue;
      }
      slow = {1, {0, 0, 0}};
      // The digit above falls into the emptied place.
      if (fast == 2) slow = digits[0], digits[0] = {1, {0, 0, 0}};
    }
  }

  bool offsets_divide_by(int64_t n, bool fastest_too) const {
    return origin.offset % n == 0 && digits[0].step.offset % n == 0 && digits[1].step.offset % n == 0 &&
           (!fastest_too || digits[2].step.offset % n == 0);
  }

  // Whether indices n i .. n i + n - 1 lie side by side, on one pixel, from a multiple of n elements on.
  bool runs_of(int64_t n) const {
    const Digit& fastest = digits[2];
    return fastest.size % n == 0 && fastest.step.offset == 1 && fastest.step.h == 0 && fastest.step.w == 0 &&
           offsets_divide_by(n, false);
  }
};

// An IndexMap walked on from one of its indices: position i of the walk is position first + i of the map, found with
// 32-bit arithmetic (i and the sizes of the two fast digits stay below kMaxWalk) and without a division instruction.
struct IndexWalk {
  Position origin, steps[3];
  int first_slow, first_fast;  // of the two fast digits
  Divisor<int32_t> slow, fast;

  CONVOPS_HOST_DEVICE IndexWalk(const IndexMap& map, int64_t first)
      : steps{map.digits[0].step, map.digits[1].step, map.digits[2].step},
        slow(map.digits[1].size),
        fast(map.digits[2].size) {
    const int64_t upper = first / map.digits[2].size;
    const int64_t top = upper / map.digits[1].size;
    origin = map.origin + steps[0] * top;
    first_slow = static_cast<int>(upper - top * map.digits[1].size);
    first_fast = static_cast<int>(first - upper * map.digits[2].size);
  }

  __device__ Position operator()(int i) const {
    int index = first_fast + i;
    const int digit = take_digit(index, fast);
    index += first_slow;
    const int slow_digit = take_digit(index, slow);
    return origin + steps[2] * digit + steps[1] * slow_digit + steps[0] * index;
  }
};

struct Operand {
  IndexMap rows, reduction;  // B is held transposed: its "rows" are the product's columns
  int height, width;         // the image that positions must lie in; 1 x 1 where all do
  int64_t group_step;
  Border border = Border::zeros;
  int64_t row_step = 0, column_step = 0;  // elements from a pixel to the next; for the border

  CONVOPS_HOST_DEVICE bool contains(const Position& position) const {
    return static_cast<unsigned>(position.h) < static_cast<unsigned>(height) &&
           static_cast<unsigned>(position.w) < static_cast<unsigned>(width);
  }
  // Elements from a position in the padding to the pixel that it shows.
  CONVOPS_HOST_DEVICE int64_t border_offset(const Position& position) const {
    return (border_pixel(border, position.h, height) - position.h) * row_step +
           (border_pixel(border, position.w, width) - position.w) * column_step;
  }

  void simplify();
};

// Where the product finds the three tensors: as they are, or copies of some (gemm_pack.cuh).
struct Conv2dLayouts {
  struct Tensor {
    ImageSteps<int64_t> steps;  // of the weight: filters, channels, rows and columns
    int64_t group_step;
  };
  Tensor input, output, weight;
  // Of a group, in what is read: copies may have more than the tensors, zeros.
  int64_t C, K;
};

inline Conv2dLayouts layouts_of(const Conv2dGeometry& geometry) {
  const int64_t C = geometry.channels_per_group(), K = geometry.filters_per_group();
  const ImageSteps<int64_t> input(geometry.channels_last, geometry.C, geometry.h.input, geometry.w.input);
  const ImageSteps<int64_t> output(geometry.channels_last, geometry.K, geometry.h.output, geometry.w.output);
  // A filter is an image of C channels, R rows and S columns.
  const ImageSteps<int64_t> weight(geometry.weight_channels_last, C, geometry.h.kernel, geometry.w.kernel);
  return {{input, C * input.c}, {output, K * output.c}, {weight, K * weight.n}, C, K};
}

struct Conv2dGemm {
  Operand a, b;
  IndexMap d_rows, d_columns;
  int d_height;  // rows of D from this pixel row on are of channels that only a copy has
  int64_t d_group_step;
  int64_t groups;
  // grad_input is one product per residue of the input pixel modulo the stride: each multiplies its own taps only.
  TransposedAxis h, w;
  int64_t h_residues, w_residues;

  CONVOPS_HOST_DEVICE void select_residue(int64_t i, int64_t j);
};

// Sets what differs between the residues of grad_input. Digits: (n, h, w), (r, s, k) and (n, h, w).
CONVOPS_HOST_DEVICE inline void Conv2dGemm::select_residue(int64_t i, int64_t j) {
  const TransposedAxis::Residue rows = h.residue(i), columns = w.residue(j);
  const int64_t a_row = a.rows.digits[1].step.offset, a_column = a.rows.digits[2].step.offset;
  a.rows.digits[1].size = d_rows.digits[1].size = rows.pixels;
  a.rows.digits[2].size = d_rows.digits[2].size = columns.pixels;
  a.reduction.digits[0].size = b.reduction.digits[0].size = rows.taps;
  a.reduction.digits[1].size = b.reduction.digits[1].size = columns.taps;
  a.rows.origin = {
      rows.first_output * a_row + columns.first_output * a_column, static_cast<int>(rows.first_output),
      static_cast<int>(columns.first_output)};
  b.reduction.origin.offset = b.reduction.digits[0].step.offset / h.tap_step * rows.first_tap +
                              b.reduction.digits[1].step.offset / w.tap_step * columns.first_tap;
  d_rows.origin.offset = d_rows.digits[1].step.offset / h.stride * i + d_rows.digits[2].step.offset / w.stride * j;
}

// Drops the pixel where no sum of positions leaves the image (as in a 1x1 convolution without padding), and joins
// digits.
inline void Operand::simplify() {
  Position least = rows.origin + reduction.origin, most = least;
  for (const IndexMap* map : {&rows, &reduction}) {
    for (const IndexMap::Digit& digit : map->digits) {
      if (digit.size == 0) return;
      const Position last = digit.step * (digit.size - 1);
      (last.h < 0 ? least : most).h += last.h;
      (last.w < 0 ? least : most).w += last.w;
    }
  }
  if (contains(least) && contains(most)) {
    for (IndexMap* map : {&rows, &reduction}) {
      map->origin.h = map->origin.w = 0;
      for (IndexMap::Digit& digit : map->digits) digit.step.h = digit.step.w = 0;
    }
    height = width = 1;
    border = Border::zeros;
  }
  rows.merge();
  reduction.merge();
}

// Coordinates are 32-bit, and one filter is one walk; no image or filter comes near.
inline bool conv2d_gemm_fits(const Conv2dGeometry& geometry) {
  const int64_t channels = std::max(geometry.channels_per_group(), geometry.filters_per_group());
  return axis_fits_32_bits(geometry.h) && axis_fits_32_bits(geometry.w) &&
         channels < kMaxWalk / geometry.h.kernel / geometry.w.kernel;
}

inline Conv2dGemm make_conv2d_gemm(const Conv2dProblem& problem, const Conv2dLayouts& layouts) {
  const Conv2dGeometry& geometry = problem.geometry;
  const Axis h = without_unused_steps(geometry.h), w = without_unused_steps(geometry.w);
  const int64_t C = geometry.channels_per_group(), K = geometry.filters_per_group();
  const ImageSteps<int64_t>&input = layouts.input.steps, &output = layouts.output.steps, &weight = layouts.weight.steps;

  // The sizes of digits, and the steps they make in each tensor.
  using Digit = IndexMap::Digit;
  const auto step = [](int64_t offset, int64_t rows = 0, int64_t columns = 0) {
    return Position{offset, static_cast<int>(rows), static_cast<int>(columns)};
  };
  const Digit image_of_input{geometry.N, step(input.n)}, image_of_output{geometry.N, step(output.n)};
  const Digit channel_of_input{layouts.C, step(input.c)}, channel_of_weight{layouts.C, step(weight.c)};
  const Digit filter_of_output{layouts.K, step(output.c)}, filter_of_weight{layouts.K, step(weight.n)};
  const Digit none{1, step(0)};
  const Position zero = step(0);

  // Windows over the input: forward's A, and grad_weight's transposed.
  const IndexMap windows{
      step(-h.pad_lower * input.h - w.pad_lower * input.w, -h.pad_lower, -w.pad_lower),
      {image_of_input,
       {h.output, step(h.stride * input.h, h.stride)},
       {w.output, step(w.stride * input.w, 0, w.stride)}}};
  const Digit row_of_window{h.kernel, step(h.dilation * input.h, h.dilation)};
  const Digit column_of_window{w.kernel, step(w.dilation * input.w, 0, w.dilation)};
  const IndexMap output_pixels{zero, {image_of_output, {h.output, step(output.h)}, {w.output, step(output.w)}}};
  const IndexMap output_filters{zero, {none, none, filter_of_output}};
  const IndexMap weight_filters{zero, {none, none, filter_of_weight}};
  const Digit row_of_weight{h.kernel, step(weight.h)}, column_of_weight{w.kernel, step(weight.w)};

  // Channels are the fastest digit of taps where they are the fastest in the input.
  const auto taps = [&](const Digit& channel, const Digit& row, const Digit& column) {
    return input.c == 1 ? IndexMap{{0, 0, 0}, {row, column, channel}} : IndexMap{{0, 0, 0}, {channel, row, column}};
  };
  const IndexMap window_taps = taps(channel_of_input, row_of_window, column_of_window);

  Conv2dGemm gemm{};
  gemm.groups = geometry.groups;
  gemm.d_height = 1;
  gemm.h_residues = gemm.w_residues = 1;
  const int height = static_cast<int>(h.input), width = static_cast<int>(w.input);
  switch (problem.pass) {
    case Conv2dPass::forward: {
      const IndexMap weight_taps = taps(channel_of_weight, row_of_weight, column_of_weight);
      gemm.a = {windows, window_taps, height, width, layouts.input.group_step, geometry.border(), input.h, input.w};
      gemm.b = {weight_filters, weight_taps, 1, 1, layouts.weight.group_step};
      gemm.d_rows = output_pixels;
      gemm.d_columns = {zero, {none, none, {K, step(output.c)}}};
      gemm.d_group_step = layouts.output.group_step;
      break;
    }
    case Conv2dPass::grad_weight: {
      gemm.a = {window_taps, windows, height, width, layouts.input.group_step, geometry.border(), input.h, input.w};
      gemm.b = {output_filters, output_pixels, 1, 1, layouts.output.group_step};
      // Pixel rows of D count channels where not all of them are written.
      const bool all = layouts.C == C;
      gemm.d_height = all ? 1 : static_cast<int>(C);
      gemm.d_rows = taps({layouts.C, step(weight.c, all ? 0 : 1)}, row_of_weight, column_of_weight);
      gemm.d_columns = {zero, {none, none, {K, step(weight.n)}}};
      gemm.d_group_step = layouts.weight.group_step;
      break;
    }
    default: {
      gemm.h = TransposedAxis(h);
      gemm.w = TransposedAxis(w);
      gemm.h_residues = gemm.h.residues();
      gemm.w_residues = gemm.w.residues();
      // Sizes of pixels and taps, and the first of each, depend on the residue.
      const int64_t back_h = -gemm.h.output_step, back_w = -gemm.w.output_step;
      gemm.a = {
          {zero, {image_of_output, {1, step(output.h, 1)}, {1, step(output.w, 0, 1)}}},
          {zero, {{1, step(back_h * output.h, back_h)}, {1, step(back_w * output.w, 0, back_w)}, filter_of_output}},
          static_cast<int>(h.output),
          static_cast<int>(w.output),
          layouts.output.group_step};
      gemm.b = {
          {zero, {none, none, channel_of_weight}},
          {zero, {{1, step(gemm.h.tap_step * weight.h)}, {1, step(gemm.w.tap_step * weight.w)}, filter_of_weight}},
          1,
          1,
          layouts.weight.group_step};
      gemm.d_rows = {zero, {image_of_input, {1, step(h.stride * input.h)}, {1, step(w.stride * input.w)}}};
      gemm.d_columns = {zero, {none, none, {C, step(input.c)}}};
      gemm.d_group_step = layouts.input.group_step;
      gemm.select_residue(0, 0);
      break;
    }
  }
  if (gemm.h_residues * gemm.w_residues == 1) {
    gemm.a.simplify();
    gemm.b.simplify();
    gemm.d_rows.merge();
    gemm.d_columns.merge();
  }
  return gemm;
}

}  // namespace convops
