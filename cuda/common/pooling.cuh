// What the kernels of max- and average-pooling share: their geometry, and walks over a window's taps or a pixel's
// windows.
#pragma once

#include "dtype.cuh"
#include "image.cuh"
#include "vector.cuh"

namespace convops {

// A WindowAxis with the divisions that lead from outputs to pixels and back. Only with kAdaptive may it be adaptive, so
// that kernels for the usual windows need not ask. An adaptive axis has no padding, so its first tap is always 0.
template <typename index_t, bool kAdaptive>
struct PoolAxis : WindowAxis<index_t> {
  using Sliding = WindowAxis<index_t>;
  using Sliding::input, Sliding::kernel, Sliding::output, Sliding::stride, Sliding::dilation, Sliding::pad;

  PoolAxis() = default;
  explicit PoolAxis(const Axis& axis)
      : Sliding(axis),
        by_input(axis.input),
        by_output(axis.output),
        by_stride(axis.stride),
        by_dilation(axis.dilation),
        adaptive(axis.adaptive) {}

  __device__ bool is_adaptive() const { return kAdaptive && adaptive; }
  __device__ index_t start(index_t o) const { return is_adaptive() ? by_output.divide(o * input) : Sliding::start(o); }
  // How many taps window o has, in and around the image.
  __device__ index_t taps(index_t o) const {
    return is_adaptive() ? by_output.divide((o + 1) * input + output - 1) - start(o) : kernel;
  }
  // How many of them lie before a position, itself behind the window's start.
  __device__ index_t taps_before(index_t position, index_t o) const {
    const index_t room = position - start(o);
    const index_t before = dilation == 1 ? room : (room + dilation - 1) / dilation, all = taps(o);
    return before < all ? before : all;
  }

  Divisor<index_t> by_input, by_output, by_stride, by_dilation;
  bool adaptive = false;
};

template <typename Index, bool kAdaptive>
struct PoolGeometry {
  using index_t = Index;

  PoolAxis<index_t, kAdaptive> h, w;
  ImageSteps<index_t> input, output;
  // Decodes one thread's work: an element, or a vector of channels, of the tensor that is written.
  ImageIndex<index_t> work;
  index_t work_count;

  // block: side of the square of input pixels that a thread writes; 0: it writes the output. vector: how many channels
  // it takes together or, in contiguous tensors, outputs of a row (PixelRun).
  PoolGeometry(const Pool2dGeometry& geometry, int block, int vector) {
    const Axis rows = without_unused_steps(geometry.h), columns = without_unused_steps(geometry.w);
    h = PoolAxis<index_t, kAdaptive>(rows);
    w = PoolAxis<index_t, kAdaptive>(columns);
    input = {geometry.channels_last, geometry.C, rows.input, columns.input};
    output = {geometry.channels_last, geometry.C, rows.output, columns.output};
    const int64_t channels = geometry.channels_last ? geometry.C / vector : geometry.C;
    const auto cut = [&](const Axis& axis) {
      return block == 0 ? axis.output : block == 1 ? axis.input : ceil_div(axis.input + axis.pad_lower, block);
    };
    const int64_t height = cut(rows);
    const int64_t width = geometry.channels_last || vector == 1 ? cut(columns) : columns.output / vector;
    work = {geometry.channels_last, channels, height, width};
    work_count = static_cast<index_t>(geometry.N * channels * height * width);
  }
};

// Calls body(r, s, offset of the pixel in its plane) for the taps of window (p, q) inside the input, in row-major
// order. kKernel is the side of a square window known to the compiler, whose loads then all start at once; 0: any
// window.
template <int kKernel, typename index_t, bool kAdaptive, typename Body>
__device__ void for_each_tap(const PoolGeometry<index_t, kAdaptive>& geometry, index_t p, index_t q, const Body& body) {
  constexpr int kUnroll = kKernel > 0 ? kKernel : 1;
  const index_t rows = kKernel > 0 ? kKernel : geometry.h.taps(p), columns = kKernel > 0 ? kKernel : geometry.w.taps(q);
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
template <typename index_t, bool kAdaptive, typename Body>
__device__ void for_each_cover(const PoolAxis<index_t, kAdaptive>& axis, index_t i, const Body& body) {
  const index_t reach = i + axis.pad, extent = axis.dilation * (axis.kernel - 1);
  index_t first, end;
  if (axis.is_adaptive()) {
    first = axis.by_input.divide(i * axis.output);
    end = axis.by_input.divide((i + 1) * axis.output + axis.input - 1);
  } else {
    first = reach <= extent ? 0 : axis.by_stride.divide(reach - extent + axis.stride - 1);
    end = axis.by_stride.divide(reach) + 1;
  }
  for (index_t o = first; o < end && o < axis.output; ++o) {
    index_t tap = axis.is_adaptive() ? i - axis.start(o) : reach - o * axis.stride;
    if (take_digit(tap, axis.by_dilation) == 0) body(o, tap);
  }
}

// Calls body(p, q, r, s, offset of the window in its plane) for the windows over pixel (h, w), in row-major order.
template <typename index_t, bool kAdaptive, typename Body>
__device__ void for_each_window(
    const PoolGeometry<index_t, kAdaptive>& geometry, index_t h, index_t w, const Body& body) {
  for_each_cover(geometry.h, h, [&](index_t p, index_t r) {
    for_each_cover(
        geometry.w, w, [&](index_t q, index_t s) { body(p, q, r, s, p * geometry.output.h + q * geometry.output.w); });
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
      const PoolGeometry<index_t, false>& geometry, index_t i, index_t j, const Body& body) {
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
      const PoolGeometry<index_t, false>& geometry, const ImagePosition<index_t>& at,
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

// Whether there are also kernels for windows known to the compiler, which are never adaptive.
template <typename Geometry>
constexpr bool kKnowsWindows = std::is_same_v<Geometry, PoolGeometry<int32_t, false>>;

// The windows most common in networks: 2 x 2 and 3 x 3 with stride 2.
inline bool is_common_window(const Pool2dGeometry& geometry) {
  const Axis &h = geometry.h, &w = geometry.w;
  return h.stride == 2 && w.stride == 2 && h.dilation == 1 && w.dilation == 1 && h.kernel == w.kernel &&
         (h.kernel == 2 || h.kernel == 3);
}

// Calls function(PixelSquare) and returns true for those windows.
template <typename Geometry, typename Function>
bool dispatch_square(const Pool2dGeometry& geometry, const Function& function) {
  if constexpr (kKnowsWindows<Geometry>) {
    if (is_common_window(geometry)) {
      if (geometry.h.kernel == 2) return function(PixelSquare<2, 2>()), true;
      return function(PixelSquare<3, 2>()), true;
    }
  }
  return false;
}

// Calls function(TypeTag<PoolGeometry>()) with the narrowest index type. The 64-bit one takes every axis as one that
// may be adaptive.
template <typename Function>
void dispatch_geometry(const Pool2dGeometry& geometry, const Function& function, int64_t other_numel = 0) {
  dispatch_index(
      geometry,
      [&](auto index) {
        using index_t = decltype(index);
        if constexpr (sizeof(index_t) == 4) {
          if (!geometry.h.adaptive && !geometry.w.adaptive) return function(TypeTag<PoolGeometry<index_t, false>>());
        }
        function(TypeTag<PoolGeometry<index_t, true>>());
      },
      other_numel);
}

// Calls function(TypeTag<PoolGeometry>(), std::integral_constant<int, vector>()): 16 bytes of channels where they are
// neighbours, whole vectors and aligned, else single elements. The 64-bit index takes single elements only.
template <typename scalar_t, typename Function>
void dispatch_pool(const Pool2dGeometry& geometry, bool aligned, const Function& function, int64_t other_numel = 0) {
  constexpr int kVector = kVectorBytes / sizeof(scalar_t);
  dispatch_geometry(
      geometry,
      [&](auto type) {
        if constexpr (sizeof(typename decltype(type)::type::index_t) == 4 && kVector > 1) {
          if (geometry.channels_last && geometry.C % kVector == 0 && aligned) {
            return function(type, std::integral_constant<int, kVector>());
          }
        }
        function(type, std::integral_constant<int, 1>());
      },
      other_numel);
}

// Calls function(std::integral_constant<int, side>()) with the side of the most common square windows, else with 0.
template <typename scalar_t, typename Geometry, typename Function>
void dispatch_window(const Pool2dGeometry& geometry, const Function& function) {
  if constexpr (!std::numeric_limits<scalar_t>::is_integer && kKnowsWindows<Geometry>) {
    const bool square = geometry.h.kernel == geometry.w.kernel;
    if (square && geometry.h.kernel == 2) return function(std::integral_constant<int, 2>());
    if (square && geometry.h.kernel == 3) return function(std::integral_constant<int, 3>());
  }
  function(std::integral_constant<int, 0>());
}

}  // namespace convops
