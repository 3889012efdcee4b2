// Dense image tensors in either memory format, and the windows over them, in a kernel's index type.
#pragma once

#include <algorithm>

#include "index.cuh"

namespace convops {

// Elements from one image, channel, row or column to the next.
template <typename index_t>
struct ImageSteps {
  index_t n, c, h, w;

  ImageSteps() = default;
  ImageSteps(bool channels_last, int64_t C, int64_t H, int64_t W)
      : n(static_cast<index_t>(C * H * W)),
        c(static_cast<index_t>(channels_last ? 1 : H * W)),
        h(static_cast<index_t>(channels_last ? W * C : W)),
        w(static_cast<index_t>(channels_last ? C : 1)) {}
};

template <typename index_t>
struct ImagePosition {
  index_t n, c, h, w;
};

// From a flat index to a position, in the order of memory.
template <typename index_t>
struct ImageIndex {
  Divisor<index_t> fastest, middle, slowest;  // (C) W H of channels_last, else W H C
  bool channels_last = false;

  ImageIndex() = default;
  ImageIndex(bool channels_last, int64_t C, int64_t H, int64_t W)
      : fastest(channels_last ? C : W),
        middle(channels_last ? W : H),
        slowest(channels_last ? H : C),
        channels_last(channels_last) {}

  __device__ ImagePosition<index_t> operator()(index_t index) const {
    const index_t a = take_digit(index, fastest), b = take_digit(index, middle), c = take_digit(index, slowest);
    if (channels_last) return {index, a, c, b};
    return {index, c, b, a};
  }
};

// An Axis in the index type of a kernel.
template <typename index_t>
struct WindowAxis {
  index_t input, kernel, output, stride, dilation, pad, pad_upper;

  WindowAxis() = default;
  explicit WindowAxis(const Axis& axis)
      : input(static_cast<index_t>(axis.input)),
        kernel(static_cast<index_t>(axis.kernel)),
        output(static_cast<index_t>(axis.output)),
        stride(static_cast<index_t>(axis.stride)),
        dilation(static_cast<index_t>(axis.dilation)),
        pad(static_cast<index_t>(axis.pad_lower)),
        pad_upper(static_cast<index_t>(axis.pad_upper)) {}

  __device__ index_t start(index_t o) const { return o * stride - pad; }
  __device__ bool contains(index_t i) const { return i >= 0 && i < input; }
  // The first tap at or behind the input's edge.
  __device__ index_t first_tap(index_t o) const {
    const index_t s = start(o);
    return s >= 0 ? 0 : (dilation - 1 - s) / dilation;
  }
};

// The same axis without steps that are never taken, which may be of any size. An adaptive axis has none.
inline Axis without_unused_steps(Axis axis) {
  if (axis.kernel == 1) axis.dilation = 1;
  // Just too long for the only window to be met from another residue.
  if (axis.output == 1) axis.stride = std::min(axis.stride, axis.input + axis.pad_lower + axis.extent());
  return axis;
}

// Whether every coordinate of an axis, in and around the image, has 32 bits to spare.
inline bool axis_fits_32_bits(const Axis& axis) {
  constexpr int64_t kMost = int64_t{1} << 27;
  const Axis used = without_unused_steps(axis);
  return used.input < kMost && used.output < kMost && used.pad_lower < kMost && used.pad_upper < kMost &&
         used.extent() < kMost && used.stride < 3 * kMost &&
         // The products that adaptive windows are worked out from.
         (!used.adaptive || used.input * used.output < 8 * kMost);
}

// Calls function(index_t()) with the narrowest index type for tensors of that many elements.
template <typename Geometry, typename Function>
void dispatch_index(const Geometry& geometry, const Function& function, int64_t other_numel = 0) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (axis_fits_32_bits(geometry.h) && axis_fits_32_bits(geometry.w) && geometry.input_numel() < kMost &&
      geometry.output_numel() < kMost && other_numel < kMost) {
    function(int32_t());
  } else {
    function(int64_t());
  }
}

}  // namespace convops
