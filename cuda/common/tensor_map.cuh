// What TMA is told of a tensor: where it lies and what one copy takes of it (CUDA driver API, tensor map objects).
#pragma once

#include <array>
#include <type_traits>

#include "dtype.cuh"
#include "hopper.cuh"
#include "launch.cuh"

namespace convops {

// Copies take lines of this many bytes and elements of a half type.
constexpr int kLineBytes = 128, kLineElements = 64;
// Lines' chunks are swizzled by the address, so copies start at multiples of this.
constexpr int kSwizzlePeriod = 8 * kLineBytes;
// Of a box along one axis.
constexpr int64_t kMostBox = 256;

// A function of the driver, to which the library is not linked.
template <typename Function>
Function* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found);
  CONVOPS_CHECK(
      error == cudaSuccess && function != nullptr, "conv2d", "the CUDA driver has no ", name,
      ", which its kernels for compute capability 9.0 need");
  return reinterpret_cast<Function*>(function);
}

inline void check_tensor_map(CUresult result) {
  CONVOPS_CHECK(result == CUDA_SUCCESS, "conv2d", "CUDA driver error ", static_cast<int>(result), " in a tensor map");
}

template <typename scalar_t>
constexpr CUtensorMapDataType kTensorMapType =
    std::is_same_v<scalar_t, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

// Boxes of a tensor, whose first axis is of neighbouring elements: a line of it, and box[i] of the other axes. Sizes
// and steps in elements; all steps but the first are whole 16-byte runs.
template <typename scalar_t, size_t kRank>
CUtensorMap map_boxes(
    const void* data, const std::array<int64_t, kRank>& sizes, const std::array<int64_t, kRank - 1>& steps,
    const std::array<int64_t, kRank - 1>& box) {
  static const auto encode = driver_function<decltype(cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  cuuint64_t size[kRank] = {static_cast<cuuint64_t>(sizes[0])}, step[kRank - 1];
  cuuint32_t lines[kRank] = {kLineElements}, ones[kRank] = {1};
  for (size_t i = 1; i < kRank; ++i) {
    size[i] = static_cast<cuuint64_t>(sizes[i]);
    step[i - 1] = static_cast<cuuint64_t>(steps[i - 1]) * sizeof(scalar_t);
    lines[i] = static_cast<cuuint32_t>(box[i - 1]);
    ones[i] = 1;
  }
  CUtensorMap map;
  check_tensor_map(encode(
      &map, kTensorMapType<scalar_t>, kRank, const_cast<void*>(data), size, step, lines, ones,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

// Windows over one axis of an image, by the pixel that each starts at: `count` from pixel `first` on, `stride` apart.
struct WindowStarts {
  int64_t pixels;  // of the image
  int64_t first, count, stride;

  // From the image's first pixel to the first start, and from its last pixel to the last place that a start may have.
  int64_t lower() const { return first; }
  int64_t upper() const { return first + (count - 1) * stride + 1 - pixels; }
  bool fits() const {
    const auto in_a_byte = [](int64_t corner) { return corner >= -128 && corner <= 127; };
    return in_a_byte(lower()) && in_a_byte(upper()) && stride <= 8 && pixels <= INT32_MAX;
  }
};
// The farthest that a pixel may lie from the start of its window.
constexpr int64_t kMostOffset = 255;

// A line of each of `lines` windows over N images of C channels, channels_last. Steps in elements, whole 16-byte runs.
template <typename scalar_t>
CUtensorMap map_windows(
    const void* data, int64_t N, int64_t C, const WindowStarts& h, const WindowStarts& w,
    const std::array<int64_t, 3>& steps, int64_t lines) {
  static const auto encode = driver_function<decltype(cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  const cuuint64_t size[] = {
      static_cast<cuuint64_t>(C), static_cast<cuuint64_t>(w.pixels), static_cast<cuuint64_t>(h.pixels),
      static_cast<cuuint64_t>(N)};
  const cuuint64_t step[] = {
      static_cast<cuuint64_t>(steps[0]) * sizeof(scalar_t), static_cast<cuuint64_t>(steps[1]) * sizeof(scalar_t),
      static_cast<cuuint64_t>(steps[2]) * sizeof(scalar_t)};
  const int lower[] = {static_cast<int>(w.lower()), static_cast<int>(h.lower())};
  const int upper[] = {static_cast<int>(w.upper()), static_cast<int>(h.upper())};
  const cuuint32_t strides[] = {1, static_cast<cuuint32_t>(w.stride), static_cast<cuuint32_t>(h.stride), 1};
  CUtensorMap map;
  check_tensor_map(encode(
      &map, kTensorMapType<scalar_t>, 4, const_cast<void*>(data), size, step, lower, upper, kLineElements,
      static_cast<cuuint32_t>(lines), strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

}  // namespace convops
