// The windows that pooling operators take, and the checks that they share.
#pragma once

#include "stable.h"

namespace convops {

struct SlidingWindow {
  const char* op;
  const IntList &kernel_size, &stride, &padding, &dilation;
  bool ceil_mode;

  // An empty stride means the kernel size, as in torch.
  Pool2dGeometry over(const std::array<int64_t, 4>& input_size, bool channels_last) const {
    const auto kernel = as_pair(op, "kernel_size", kernel_size);
    return make_pool2d_geometry(
        op, input_size, kernel, stride.empty() ? kernel : as_pair(op, "stride", stride), as_sides(op, padding),
        as_pair(op, "dilation", dilation), ceil_mode, channels_last);
  }
};

struct AdaptiveWindow {
  const char* op;
  const IntList& output_size;

  Pool2dGeometry over(const std::array<int64_t, 4>& input_size, bool channels_last) const {
    return make_adaptive_pool2d_geometry(op, input_size, as_pair(op, "output_size", output_size), channels_last);
  }
};

// Adaptive windows whose number shows in the size of what they gave.
struct PooledWindow {
  const char *op, *argument;
  const Tensor& output;

  Pool2dGeometry over(const std::array<int64_t, 4>& input_size, bool channels_last) const {
    check_defined(op, argument, output);
    const auto size = image_size(op, argument, output);
    return make_adaptive_pool2d_geometry(op, input_size, {size[2], size[3]}, channels_last);
  }
};

inline void check_output(const char* op, const char* argument, const Tensor& tensor, const Pool2dGeometry& geometry) {
  const auto size = image_size(op, argument, tensor);
  CONVOPS_CHECK(
      size == geometry.output_size(), op, argument, " must be of size ", as_tuple(geometry.output_size()), ", got ",
      as_tuple(size));
}

// The size of the input that a gradient of that size belongs to.
inline std::array<int64_t, 4> pooled_input_size(
    const char* op, const std::array<int64_t, 4>& output_size, const IntList& input_size) {
  const auto [H, W] = as_pair(op, "input_size", input_size);
  return {output_size[0], output_size[1], H, W};
}

}  // namespace convops
