// What the kernels of max- and average-pooling share: their geometry, and walks over a window's taps or a pixel's
// windows.
#pragma once

#include "image.cuh"
#include "vector.cuh"

namespace convops {

template <typename index_t>
struct PoolGeometry {
  WindowAxis<index_t> h, w;
  ImageSteps<index_t> input, output;
  // Decodes one thread's work: an element, or a vector of channels, of the tensor that is written.
  ImageIndex<index_t> work;
  index_t work_count;
  Divisor<index_t> h_stride, w_stride, h_dilation, w_dilation;

  // block: side of the square of input pixels that a thread writes; 0: it writes the output.
  PoolGeometry(const Pool2dGeometry& geometry, int block, int vector) {
    const Axis rows = without_unused_steps(geometry.h), columns = without_unused_steps(geometry.w);
    h = WindowAxis<index_t>(rows);
    w = WindowAxis<index_t>(columns);
    input = {geometry.channels_last, geometry.C, rows.input, columns.input};
    output = {geometry.channels_last, geometry.C, rows.output, columns.output};
    const int64_t channels = geometry.C / vector;
    const auto cut = [&](const Axis& axis) {
      return block == 0 ? axis.output : block == 1 ? axis.input : ceil_div(axis.input + axis.pad_lower, block);
    };
    const int64_t height = cut(rows), width = cut(columns);
    work = {geometry.channels_last, channels, height, width};
    work_count = static_cast<index_t>(geometry.N * channels * height * width);
    h_stride = Divisor<index_t>(rows.stride), w_stride = Divisor<index_t>(columns.stride);
    h_dilation = Divisor<index_t>(rows.dilation), w_dilation = Divisor<index_t>(columns.dilation);
  }
};

// Calls body(r, s, offset of the pixel in its plane) for the taps of window (p, q) inside the input, in row-major
// order. kKernel is the side of a square window known to the compiler, whose loads then all start at once; 0: any
// window.
template <int kKernel, typename index_t, typename Body>
__device__ void for_each_tap(const PoolGeometry<index_t>& geometry, index_t p, index_t q, const Body& body) {
  constexpr int kUnroll = kKernel > 0 ? kKernel : 1;
  const index_t rows = kKernel > 0 ? kKernel : geometry.h.kernel, columns = kKernel > 0 ? kKernel : geometry.w.kernel;
  const index_t row = geometry.h.start(p), column = geometry.w.start(q);
#pragma unroll kUnroll
  for (index_t r = 0; r < rows; ++r) {
    const index_t h = row + r * geometry.h.dilation;
    if (!geometry.h.contains(h)) continue;
#pragma unroll kUnroll
    for (index_t s = 0; s < columns; ++s) {
      const index_t w = column + s * geometry.w.dilation;
      if (geometry.w.contains(w)) body(r, s, h * geometry.input.h + w * geometry.input.w);
    }
  }
}

// Calls body(output, tap) for the outputs of an axis whose window meets pixel i, ascending.
template <typename index_t, typename Body>
__device__ void for_each_cover(
    const WindowAxis<index_t>& axis, const Divisor<index_t>& stride, const Divisor<index_t>& dilation, index_t i,
    const Body& body) {
  const index_t reach = i + axis.pad, extent = axis.dilation * (axis.kernel - 1);
  const index_t first = reach <= extent ? 0 : stride.divide(reach - extent + axis.stride - 1);
  const index_t end = stride.divide(reach) + 1;
  for (index_t o = first; o < end && o < axis.output; ++o) {
    index_t tap = reach - o * axis.stride;
    if (take_digit(tap, dilation) == 0) body(o, tap);
  }
}

// Calls body(r, s, offset of the window in its plane) for the windows over pixel (h, w), in row-major order.
template <typename index_t, typename Body>
__device__ void for_each_window(const PoolGeometry<index_t>& geometry, index_t h, index_t w, const Body& body) {
  for_each_cover(geometry.h, geometry.h_stride, geometry.h_dilation, h, [&](index_t p, index_t r) {
    for_each_cover(geometry.w, geometry.w_stride, geometry.w_dilation, w, [&](index_t q, index_t s) {
      body(p, q, r, s, p * geometry.output.h + q * geometry.output.w);
    });
  });
}

// The input cut into squares of kStride x kStride pixels under the same windows: square (i, j) starts at pixel (i *
// kStride - pad, j * kStride - pad), and window p = i - t sees its row a through tap a + t * kStride. A thread that
// owns a square loads each of its few windows once, and every tap number is known to the compiler.
template <int kKernel, int kStride>
struct PixelSquare {
  static constexpr int kReach = (kKernel + kStride - 1) / kStride;

  // Calls body(t, u, p, q, offset of the window in its plane), windows in row-major order.
  template <typename index_t, typename Body>
  __device__ static void for_each_window(
      const PoolGeometry<index_t>& geometry, index_t i, index_t j, const Body& body) {
#pragma unroll
    for (int t = kReach - 1; t >= 0; --t) {
      const index_t p = i - t;
      if (p < 0 || p >= geometry.h.output) continue;
#pragma unroll
      for (int u = kReach - 1; u >= 0; --u) {
        const index_t q = j - u;
        if (q < 0 || q >= geometry.w.output) continue;
        body(t, u, p, q, p * geometry.output.h + q * geometry.output.w);
      }
    }
  }

  // Calls body(a, b, tap) for the pixels that window (i - t, j - u) sees.
  template <typename Body>
  __device__ static void for_each_pixel(int t, int u, const Body& body) {
#pragma unroll
    for (int a = 0; a < kStride; ++a) {
#pragma unroll
      for (int b = 0; b < kStride; ++b) {
        const int r = a + t * kStride, s = b + u * kStride;
        if (r < kKernel && s < kKernel) body(a, b, r * kKernel + s);
      }
    }
  }

  // Rounds the square's sums and writes those that are pixels.
  template <typename scalar_t, typename acc_t, typename index_t, int kVector>
  __device__ static void store(
      const PoolGeometry<index_t>& geometry, const ImagePosition<index_t>& at,
      const acc_t (&sums)[kStride][kStride][kVector], scalar_t* input) {
    scalar_t* plane = input + at.n * geometry.input.n + at.c * kVector * geometry.input.c;
#pragma unroll
    for (int a = 0; a < kStride; ++a) {
#pragma unroll
      for (int b = 0; b < kStride; ++b) {
        const index_t h = at.h * kStride - geometry.h.pad + a, w = at.w * kStride - geometry.w.pad + b;
        if (!geometry.h.contains(h) || !geometry.w.contains(w)) continue;
        Vector<scalar_t, kVector> result;
#pragma unroll
        for (int v = 0; v < kVector; ++v) result[v] = static_cast<scalar_t>(sums[a][b][v]);
        result.store(plane + h * geometry.input.h + w * geometry.input.w);
      }
    }
  }
};

// Calls function(PixelSquare) and returns true for the windows most common in networks: 2 x 2 and 3 x 3 with stride
// 2.
template <typename index_t, typename Function>
bool dispatch_square(const Pool2dGeometry& geometry, const Function& function) {
  if constexpr (sizeof(index_t) == 4) {
    const Axis &h = geometry.h, &w = geometry.w;
    if (h.stride == 2 && w.stride == 2 && h.dilation == 1 && w.dilation == 1 && h.kernel == w.kernel) {
      if (h.kernel == 2) return function(PixelSquare<2, 2>()), true;
      if (h.kernel == 3) return function(PixelSquare<3, 2>()), true;
    }
  }
  return false;
}

// Calls function(index_t(), std::integral_constant<int, vector>()): 16 bytes of channels where they are neighbours,
// whole vectors and aligned, else single elements. The 64-bit index takes single elements only.
template <typename scalar_t, typename Function>
void dispatch_pool(const Pool2dGeometry& geometry, bool aligned, const Function& function) {
  constexpr int kVector = kVectorBytes / sizeof(scalar_t);
  dispatch_index(geometry, [&](auto index) {
    using index_t = decltype(index);
    if constexpr (sizeof(index_t) == 4 && kVector > 1) {
      if (geometry.channels_last && geometry.C % kVector == 0 && aligned) {
        return function(index, std::integral_constant<int, kVector>());
      }
    }
    function(index, std::integral_constant<int, 1>());
  });
}

// Calls function(std::integral_constant<int, side>()) with the side of the most common square windows, else with 0.
template <typename scalar_t, typename index_t, typename Function>
void dispatch_window(const Pool2dGeometry& geometry, const Function& function) {
  if constexpr (!std::numeric_limits<scalar_t>::is_integer && sizeof(index_t) == 4) {
    const bool square = geometry.h.kernel == geometry.w.kernel;
    if (square && geometry.h.kernel == 2) return function(std::integral_constant<int, 2>());
    if (square && geometry.h.kernel == 3) return function(std::integral_constant<int, 3>());
  }
  function(std::integral_constant<int, 0>());
}

}  // namespace convops
