// Deterministic sums: a tree within a block, slices in order between blocks. No atomics.
#pragma once

#include "dtype.cuh"
#include "launch.cuh"

namespace convops {

// Sums values[] over the block's threads of equal threadIdx.x % kLanes; threads below kLanes get the sums.
template <int kLanes, int kCount, typename acc_t>
__device__ void block_sum(acc_t (&values)[kCount]) {
  __shared__ acc_t shared[kCount][kBlockThreads];
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kCount; ++i) shared[i][thread] = values[i];
  for (int half = kBlockThreads / 2; half >= kLanes; half /= 2) {
    __syncthreads();
    if (thread < half) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) shared[i][thread] += shared[i][thread + half];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = shared[i][thread % kLanes];
}

// A block sums over pixels for a few channels: one channel of a contiguous tensor, where lanes are neighbouring
// pixels, or 32 of a channels_last one, where they are neighbouring channels.
constexpr int kChannelLanes = 32;
inline int64_t channels_per_block(bool channels_last) {
  return channels_last ? kChannelLanes : 1;
}

// How many slices a sum over `pixels` is cut into, with `blocks` blocks for each: enough to fill a GPU of
// about 132 SMs eight times over, but with 16 pixels or more for each thread.
inline int64_t pixel_slices(int64_t pixels, int64_t blocks, bool channels_last) {
  const int64_t pixels_at_once = kBlockThreads / channels_per_block(channels_last);
  const int64_t wanted = 1056 / std::max<int64_t>(1, blocks), useful = pixels / (16 * pixels_at_once);
  return std::max<int64_t>(1, std::min(wanted, useful));
}

// output[i] = sum of partials[slice][i] in the order of slices.
template <typename scalar_t>
__global__ void sum_slices_kernel(
    const accumulator_t<scalar_t>* partials, scalar_t* output, int64_t count, int64_t slices) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    accumulator_t<scalar_t> sum = 0;
    for (int64_t slice = 0; slice < slices; ++slice) sum += partials[slice * count + i];
    output[i] = static_cast<scalar_t>(sum);
  }
}

}  // namespace convops
