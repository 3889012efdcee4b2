// The most common windows over contiguous images, in runs that a thread moves by 16-byte accesses.
#pragma once

#include "pooling.cuh"

namespace convops {

// kRun neighbouring outputs of a row with a stride of 2, from number at.w * kRun on, and twice as many pixels, from
// number at.w * kPixels on. The run's windows read its pixels, kLeft more on the left and kRight more on the right. Its
// pixels are read by its windows and, mirrored, kRight more on the left and kLeft more on the right.
template <int kSide, int kPadLeft, int kRun>
struct PixelRun {
  static constexpr int kKernel = kSide, kPad = kPadLeft, kOutputs = kRun, kPixels = 2 * kRun;
  static constexpr int kLeft = kPad, kRight = (kKernel - 1 - kPad) / 2, kReach = (kKernel + 1) / 2;
  static_assert(kLeft <= 1 && kRight <= 1);

  // [r][2 * v + s] is what tap (r, s) of output v reads.
  template <typename scalar_t>
  using Pixels = scalar_t[kKernel][kLeft + kPixels + kRight];
  // [t][v] belongs to window (at.h - t, v - kRight of the run): all that read the pixel rows at.h * 2 - pad and next.
  template <typename scalar_t>
  using Windows = scalar_t[kReach][kRight + kOutputs + kLeft];

  // Beyond the image pixels are `outside`.
  template <typename index_t, typename scalar_t>
  __device__ static void load_pixels(
      const PoolGeometry<index_t, false>& geometry, const scalar_t* plane, const ImagePosition<index_t>& at,
      scalar_t outside, Pixels<scalar_t>& pixels) {
#pragma unroll
    for (int r = 0; r < kKernel; ++r) {
      const index_t h = geometry.h.start(at.h) + r;
      load_row<kLeft, kPixels, kRight>(
          plane + h * geometry.input.h, at.w * kPixels, geometry.w.input, geometry.h.contains(h), outside, pixels[r]);
    }
  }
  // The same for windows beyond the output.
  template <typename index_t, typename scalar_t>
  __device__ static void load_windows(
      const PoolGeometry<index_t, false>& geometry, const scalar_t* plane, const ImagePosition<index_t>& at,
      scalar_t outside, Windows<scalar_t>& windows) {
#pragma unroll
    for (int t = 0; t < kReach; ++t) {
      const index_t p = at.h - t;
      load_row<kRight, kOutputs, kLeft>(
          plane + p * geometry.output.h, at.w * kOutputs, geometry.w.output, p >= 0 && p < geometry.h.output, outside,
          windows[t]);
    }
  }

  // Calls body(t, v, a, b, tap) for each of those windows, in row-major order, and the pixels b of row a that it reads.
  template <typename Body>
  __device__ static void for_each_pixel(const Body& body) {
#pragma unroll
    for (int t = kReach - 1; t >= 0; --t) {
#pragma unroll
      for (int v = 0; v < kRight + kOutputs + kLeft; ++v) {
#pragma unroll
        for (int a = 0; a < 2; ++a) {
#pragma unroll
          for (int s = 0; s < kKernel; ++s) {
            const int r = 2 * t + a, b = 2 * (v - kRight) + s - kPad;
            if (r < kKernel && b >= 0 && b < kPixels) body(t, v, a, b, r * kKernel + s);
          }
        }
      }
    }
  }

  // Rounds the sums of both rows and writes those that are in the image.
  template <typename scalar_t, typename acc_t, typename index_t>
  __device__ static void store(
      const PoolGeometry<index_t, false>& geometry, const ImagePosition<index_t>& at, const acc_t (&sums)[2][kPixels],
      scalar_t* input) {
    scalar_t* plane = input + at.n * geometry.input.n + at.c * geometry.input.c;
#pragma unroll
    for (int a = 0; a < 2; ++a) {
      const index_t h = at.h * 2 - geometry.h.pad + a;
      if (!geometry.h.contains(h)) continue;
      Vector<scalar_t, kPixels> result;
#pragma unroll
      for (int b = 0; b < kPixels; ++b) result[b] = static_cast<scalar_t>(sums[a][b]);
      result.store(plane + h * geometry.input.h + at.w * kPixels);
    }
  }

 private:
  template <int kBefore, int kAligned, int kBehind, typename index_t, typename scalar_t>
  __device__ static void load_row(
      const scalar_t* row, index_t first, index_t length, bool valid, scalar_t outside,
      scalar_t (&to)[kBefore + kAligned + kBehind]) {
    Vector<scalar_t, kAligned> aligned;
#pragma unroll
    for (int i = 0; i < kAligned; ++i) aligned[i] = outside;
    if (valid) aligned = Vector<scalar_t, kAligned>::load(row + first);
#pragma unroll
    for (int i = 0; i < kAligned; ++i) to[kBefore + i] = aligned[i];
    if constexpr (kBefore > 0) to[0] = valid && first > 0 ? row[first - 1] : outside;
    if constexpr (kBehind > 0) {
      const index_t behind = first + kAligned;
      to[kBefore + kAligned] = valid && behind < length ? row[behind] : outside;
    }
  }
};

// Calls function(PixelRun) and returns true for the most common windows where all rows of a contiguous image and of its
// output are whole, aligned runs.
template <typename scalar_t, typename Geometry, typename Function>
bool dispatch_run(const Pool2dGeometry& geometry, bool aligned, const Function& function) {
  constexpr int kOutputs = kVectorBytes / (2 * sizeof(scalar_t));
  if constexpr (!std::numeric_limits<scalar_t>::is_integer && kOutputs > 1 && kKnowsWindows<Geometry>) {
    const Axis& w = geometry.w;
    const bool whole = w.input == 2 * w.output && w.output % kOutputs == 0;
    if (!geometry.channels_last && aligned && whole && is_common_window(geometry) && w.pad_lower <= 1) {
      const bool pads = w.pad_lower == 1;
      if (w.kernel == 2) {
        pads ? function(PixelRun<2, 1, kOutputs>()) : function(PixelRun<2, 0, kOutputs>());
      } else {
        pads ? function(PixelRun<3, 1, kOutputs>()) : function(PixelRun<3, 0, kOutputs>());
      }
      return true;
    }
  }
  return false;
}

}  // namespace convops
