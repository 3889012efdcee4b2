// The window arguments that every pooling operator takes, and the checks that they share.
#pragma once

#include "stable.h"

namespace convops {

struct PoolWindow {
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

  void check_output(const char* argument, const Tensor& tensor, const Pool2dGeometry& geometry) const {
    const auto size = image_size(op, argument, tensor);
    CONVOPS_CHECK(
        size == geometry.output_size(), op, argument, " must be of size ", as_tuple(geometry.output_size()), ", got ",
        as_tuple(size));
  }
};

}  // namespace convops
