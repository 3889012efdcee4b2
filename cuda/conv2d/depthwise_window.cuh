// The depthwise convolutions that most networks have: one filter a channel, zeros around the image, no dilation and the
// same stride both ways, 1 or 2. A grad_input of stride 1 is one of them: the gradient is the image, its window lies
// over the output from the other side, and the filter is turned round.
#pragma once

#include "../common/block_sum.cuh"
#include "../common/image.cuh"
#include "../common/vector.cuh"
#include "conv2d.cuh"

namespace convops {

struct DepthwiseWindow {
  int images, channels;
  int height, width, out_height, out_width;
  int kernel_h, kernel_w, pad_h, pad_w;  // output (p, q) reads from pixel (p stride - pad_h, q stride - pad_w) on
  int stride;
  bool turned;  // tap t of the window is tap taps - 1 - t of the filter

  CONVOPS_HOST_DEVICE int taps() const { return kernel_h * kernel_w; }
  bool is_square(int side) const { return kernel_h == side && kernel_w == side; }
};

// Whether the problem is such a convolution, and it, in grad_weight that of the forward pass. Depends on the geometry
// alone.
inline bool is_depthwise_window(const Conv2dProblem& problem, DepthwiseWindow& window) {
  const Conv2dGeometry& geometry = problem.geometry;
  Axis h = without_unused_steps(geometry.h), w = without_unused_steps(geometry.w);
  if (geometry.filters_per_group() != 1 || geometry.border() != Border::zeros || h.dilation != 1 || w.dilation != 1) {
    return false;
  }
  // No larger window leaves room for a tile.
  if (h.kernel > 1024 || w.kernel > 1024) return false;
  const bool turned = problem.pass == Conv2dPass::grad_input;
  // A step that is never taken is as good as the other.
  if (h.output == 1) h.stride = w.stride;
  if (w.output == 1) w.stride = h.stride;
  if (h.output == 1 && w.output == 1) h.stride = w.stride = 1;
  if (h.stride != w.stride || h.stride > (turned ? 1 : 2)) return false;
  bool fits = false;
  dispatch_index(geometry, [&](auto index) { fits = sizeof(index) == 4; }, geometry.weight_numel());
  if (!fits) return false;
  if (turned) h = h.transposed(), w = w.transposed();
  const auto narrow = [](int64_t n) { return static_cast<int>(n); };
  window = {narrow(geometry.N),  narrow(geometry.C),  narrow(h.input),  narrow(w.input),
            narrow(h.output),    narrow(w.output),    narrow(h.kernel), narrow(w.kernel),
            narrow(h.pad_lower), narrow(w.pad_lower), narrow(h.stride), turned};
  return true;
}

// Calls function(TypeTag<scalar_t>(), side of the square window or 0 for any, stride), the last two as integral
// constants: windows known to the compiler are unrolled. float64 is for checks and has none.
template <typename Function>
void dispatch_depthwise_window(const DepthwiseWindow& window, DType dtype, const Function& function) {
  using std::integral_constant;
  dispatch_floating("conv2d", dtype, [&](auto tag) {
    const auto with_stride = [&](auto stride) {
      if constexpr (sizeof(typename decltype(tag)::type) < 8) {
        if (window.is_square(3)) return function(tag, integral_constant<int, 3>(), stride);
        if (window.is_square(5)) return function(tag, integral_constant<int, 5>(), stride);
        if constexpr (stride.value == 1) {
          if (window.is_square(7)) return function(tag, integral_constant<int, 7>(), stride);
        }
      }
      return function(tag, integral_constant<int, 0>(), stride);
    };
    if (window.stride == 1) return with_stride(integral_constant<int, 1>());
    with_stride(integral_constant<int, 2>());
  });
}

// Two blocks of 256 threads share an SM's registers, 128 each, but where an element takes two.
template <typename acc_t>
constexpr int kDepthwiseBlocks = sizeof(acc_t) == 8 ? 1 : 2;

// Both layouts, for each pass; false where the kernels cannot take the problem.
bool depthwise_planes_supports(const DepthwiseWindow& window, const Conv2dProblem& problem);
bool depthwise_channels_supports(const DepthwiseWindow& window, const Conv2dProblem& problem);
int64_t depthwise_planes_slices(const DepthwiseWindow& window, const Conv2dProblem& problem);
int64_t depthwise_channels_slices(const DepthwiseWindow& window, const Conv2dProblem& problem);
// Large windows of half types, on tensor cores.
bool depthwise_toeplitz_supports(const DepthwiseWindow& window, const Conv2dProblem& problem);
void depthwise_toeplitz_run(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments);
void depthwise_planes_run(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments);
void depthwise_channels_run(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments);
void depthwise_planes_grad_weight(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments);
void depthwise_channels_grad_weight(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments);

}  // namespace convops
