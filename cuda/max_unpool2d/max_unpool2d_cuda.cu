// max_unpool2d on CUDA: values to pixels and back, the same in every run.
//
// Indices come from the caller: each is checked before it is followed, and one that names no pixel is an error.
#include <algorithm>
#include <array>

#include "../common/dtype.cuh"
#include "../common/image.cuh"
#include "../common/launch.cuh"
#include "common/algorithm.h"

namespace convops {
namespace {

constexpr const char* kOp = "max_unpool2d";

// The workspace: where the first bad index is, then what a scatter keeps for each pixel.
using Position = unsigned long long;
constexpr Position kNowhere = ~Position{0};
constexpr int64_t kPositionBytes = 256;

// Planes of values and planes of pixels, both as images of one row.
template <typename index_t>
struct UnpoolGeometry {
  ImageIndex<index_t> value;
  ImageSteps<index_t> pooled, image;
  int64_t planes, channels, values, pixels;

  explicit UnpoolGeometry(const MaxUnpool2dGeometry& geometry)
      : value(geometry.channels_last, geometry.C, 1, std::max<int64_t>(1, geometry.pooled)),
        pooled(geometry.channels_last, geometry.C, 1, geometry.pooled),
        image(geometry.channels_last, geometry.C, 1, geometry.pixels),
        planes(geometry.N * geometry.C),
        channels(geometry.C),
        values(geometry.pooled),
        pixels(geometry.pixels) {}

  // Whether an index may be followed; if not, its position is reported.
  __device__ bool names_pixel(int64_t index, index_t at, Position* first_bad) const {
    if (static_cast<uint64_t>(index) < static_cast<uint64_t>(pixels)) return true;
    atomicMin(first_bad, static_cast<Position>(at));
    return false;
  }
  // The element that the value at `at` goes to.
  __device__ index_t pixel(index_t at, int64_t index) const {
    const ImagePosition<index_t> from = value(at);
    return from.n * image.n + from.c * image.c + static_cast<index_t>(index) * image.w;
  }
};

__device__ inline void take_later(int32_t* last, int32_t at) {
  atomicMax(last, at);
}
__device__ inline void take_later(int64_t* last, int64_t at) {
  atomicMax(reinterpret_cast<long long*>(last), static_cast<long long>(at));
}

// last[pixel] = the last value that names it, as a position in memory; it was -1.
template <typename index_t>
__global__ void __launch_bounds__(kBlockThreads) max_unpool2d_direct_last_value_kernel(
    const UnpoolGeometry<index_t> geometry, const int64_t* __restrict__ indices, index_t* __restrict__ last,
    Position* __restrict__ first_bad) {
  grid_stride_loop(static_cast<index_t>(geometry.planes * geometry.values), [&](index_t at) {
    const int64_t index = indices[at];
    if (geometry.names_pixel(index, at, first_bad)) take_later(last + geometry.pixel(at, index), at);
  });
}

// image[pixel] = pooled[last[pixel]], 0 where no value names it. Elements are moved as bits.
template <typename bits_t, typename index_t>
__global__ void __launch_bounds__(kBlockThreads) max_unpool2d_direct_scatter_kernel(
    const index_t count, const bits_t* __restrict__ pooled, const index_t* __restrict__ last,
    bits_t* __restrict__ image) {
  grid_stride_loop(count, [&](index_t i) { image[i] = last[i] < 0 ? bits_t{0} : pooled[last[i]]; });
}

// sums[pixel] += the values that name it, in row-major order: a warp walks a plane, 32 values at a time, and lanes with
// the same pixel take turns.
template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kBlockThreads) max_unpool2d_direct_scatter_add_kernel(
    const UnpoolGeometry<index_t> geometry, const scalar_t* __restrict__ pooled, const int64_t* __restrict__ indices,
    accumulator_t<scalar_t>* sums, Position* __restrict__ first_bad) {
  constexpr int kLanes = 32;
  constexpr unsigned kAll = 0xffffffff;
  grid_stride_loop(geometry.planes * kLanes, [&](int64_t thread) {
    const int64_t plane = thread / kLanes, n = plane / geometry.channels, c = plane - n * geometry.channels;
    const int lane = static_cast<int>(thread % kLanes);
    const index_t first_value = static_cast<index_t>(n * geometry.pooled.n + c * geometry.pooled.c);
    accumulator_t<scalar_t>* pixels = sums + n * geometry.image.n + c * geometry.image.c;
    for (int64_t first = 0; first < geometry.values; first += kLanes) {
      const index_t at = first_value + static_cast<index_t>(first + lane) * geometry.pooled.w;
      const int64_t index = first + lane < geometry.values ? indices[at] : 0;
      const bool adds = first + lane < geometry.values && geometry.names_pixel(index, at, first_bad);
      const unsigned before = __match_any_sync(kAll, adds ? index : -1) & ((1u << lane) - 1);
      const int turn = adds ? __popc(before) : -1;
      for (int now = 0; __any_sync(kAll, turn >= now); ++now) {
        if (turn == now) pixels[index * geometry.image.w] += static_cast<accumulator_t<scalar_t>>(pooled[at]);
        __syncwarp();
      }
    }
  });
}

template <typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kBlockThreads) max_unpool2d_direct_round_kernel(
    const index_t count, const accumulator_t<scalar_t>* __restrict__ sums, scalar_t* __restrict__ image) {
  grid_stride_loop(count, [&](index_t i) { image[i] = static_cast<scalar_t>(sums[i]); });
}

// pooled[value] = image[its pixel], 0 for an index that names none.
template <typename bits_t, typename index_t>
__global__ void __launch_bounds__(kBlockThreads) max_unpool2d_direct_gather_kernel(
    const UnpoolGeometry<index_t> geometry, const bits_t* __restrict__ image, const int64_t* __restrict__ indices,
    bits_t* __restrict__ pooled, Position* __restrict__ first_bad) {
  grid_stride_loop(static_cast<index_t>(geometry.planes * geometry.values), [&](index_t at) {
    const int64_t index = indices[at];
    pooled[at] = geometry.names_pixel(index, at, first_bad) ? image[geometry.pixel(at, index)] : bits_t{0};
  });
}

bool fits_32_bits(const MaxUnpool2dGeometry& geometry) {
  constexpr int64_t kMost = int64_t{1} << 30;
  return geometry.numel() < kMost && geometry.pooled_numel() < kMost;
}

template <typename Function>
void dispatch_unpool_index(const MaxUnpool2dGeometry& geometry, const Function& function) {
  if (fits_32_bits(geometry)) {
    function(int32_t());
  } else {
    function(int64_t());
  }
}

// Calls function(TypeTag<bits_t>()) with an unsigned integer of the dtype's size.
template <typename Function>
void dispatch_bits(DType dtype, const Function& function) {
  switch (element_size(dtype)) {
    case 1: return function(TypeTag<uint8_t>());
    case 2: return function(TypeTag<uint16_t>());
    case 4: return function(TypeTag<uint32_t>());
    default: return function(TypeTag<uint64_t>());
  }
}

void fill_async(void* memory, int byte, int64_t bytes, void* stream) {
  check_cuda(kOp, cudaMemsetAsync(memory, byte, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)));
}

template <typename T>
T copy_back(const T* from, cudaStream_t stream) {
  T value{};
  check_cuda(kOp, cudaMemcpyAsync(&value, from, sizeof(T), cudaMemcpyDeviceToHost, stream));
  check_cuda(kOp, cudaStreamSynchronize(stream));
  return value;
}

// Waits for the kernels and throws for the first index that named no pixel. A stream under capture runs nothing yet
// and must not be waited for: there such an index is only ignored.
void check_indices(const MaxUnpool2dProblem& problem, const MaxUnpool2dArguments& arguments) {
  const auto stream = static_cast<cudaStream_t>(arguments.stream);
  cudaStreamCaptureStatus capture{};
  check_cuda(kOp, cudaStreamIsCapturing(stream, &capture));
  if (capture != cudaStreamCaptureStatusNone) return;
  const Position bad = copy_back(static_cast<const Position*>(arguments.workspace), stream);
  if (bad != kNowhere) fail_index(problem.geometry, copy_back(arguments.indices + bad, stream));
}

// What a scatter keeps for each pixel: where its last value is, or the sum of half types.
int64_t workspace(const MaxUnpool2dProblem& problem) {
  int64_t bytes = 0;
  if (problem.pass == MaxUnpool2dPass::scatter) bytes = fits_32_bits(problem.geometry) ? 4 : 8;
  if (problem.pass == MaxUnpool2dPass::scatter_add && element_size(problem.dtype) == 2) bytes = 4;
  return kPositionBytes + bytes * problem.geometry.numel();
}

void run(const MaxUnpool2dProblem& problem, const MaxUnpool2dArguments& arguments) {
  const MaxUnpool2dGeometry& geometry = problem.geometry;
  void* const stream = arguments.stream;
  const int64_t value_blocks = blocks_for(geometry.pooled_numel()), pixel_blocks = blocks_for(geometry.numel());
  const auto first_bad = static_cast<Position*>(arguments.workspace);
  void* const kept = static_cast<char*>(arguments.workspace) + kPositionBytes;
  dispatch_unpool_index(geometry, [&](auto index) {
    using index_t = decltype(index);
    const UnpoolGeometry<index_t> work(geometry);
    const auto count = static_cast<index_t>(geometry.numel());
    if (problem.pass == MaxUnpool2dPass::scatter_add) {
      fill_async(first_bad, 0xff, sizeof(Position), stream);
      return dispatch_floating(kOp, problem.dtype, [&](auto tag) {
        using scalar_t = typename decltype(tag)::type;
        using acc_t = accumulator_t<scalar_t>;
        constexpr bool kRounds = !std::is_same_v<scalar_t, acc_t>;
        const auto sums = static_cast<acc_t*>(kRounds ? kept : arguments.image);
        fill_async(sums, 0, geometry.numel() * static_cast<int64_t>(sizeof(acc_t)), stream);
        launch(
            kOp, max_unpool2d_direct_scatter_add_kernel<scalar_t, index_t>, blocks_for(32 * work.planes), kBlockThreads,
            0, stream, work, static_cast<const scalar_t*>(arguments.pooled), arguments.indices, sums, first_bad);
        if constexpr (kRounds) {
          launch(
              kOp, max_unpool2d_direct_round_kernel<scalar_t, index_t>, pixel_blocks, kBlockThreads, 0, stream, count,
              sums, static_cast<scalar_t*>(arguments.image));
        }
      });
    }
    dispatch_bits(problem.dtype, [&](auto tag) {
      using bits_t = typename decltype(tag)::type;
      const auto pooled = static_cast<bits_t*>(arguments.pooled);
      const auto image = static_cast<bits_t*>(arguments.image);
      // kNowhere, and -1 for each pixel.
      fill_async(first_bad, 0xff, workspace(problem), stream);
      if (problem.pass == MaxUnpool2dPass::gather) {
        return launch(
            kOp, max_unpool2d_direct_gather_kernel<bits_t, index_t>, value_blocks, kBlockThreads, 0, stream, work,
            image, arguments.indices, pooled, first_bad);
      }
      const auto last = static_cast<index_t*>(kept);
      launch(
          kOp, max_unpool2d_direct_last_value_kernel<index_t>, value_blocks, kBlockThreads, 0, stream, work,
          arguments.indices, last, first_bad);
      launch(
          kOp, max_unpool2d_direct_scatter_kernel<bits_t, index_t>, pixel_blocks, kBlockThreads, 0, stream, count,
          pooled, last, image);
    });
  });
  check_indices(problem, arguments);
}

}  // namespace

std::span<const MaxUnpool2dAlgorithm> max_unpool2d_cuda_algorithms() {
  static constexpr std::array<MaxUnpool2dAlgorithm, 1> kAlgorithms{{
      {"direct", [](const MaxUnpool2dProblem&) { return true; }, workspace, run},
  }};
  return kAlgorithms;
}

}  // namespace convops
