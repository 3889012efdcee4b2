// How host code starts a kernel: a one-dimensional grid, and a thrown error where CUDA reports one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "common/checks.h"

namespace convops {

// Blocks of this size let the compiler use up to 255 registers a thread and still fill an SM eight times over at 32.
constexpr int kBlockThreads = 256;

// A block's dynamic shared memory, of the size that its launch asked for.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char shared_storage[];
  return shared_storage;
}

inline void check_cuda(const char* op, cudaError_t error) {
  CONVOPS_CHECK(error == cudaSuccess, op, "CUDA error: ", cudaGetErrorString(error));
}

// Grids have one dimension only: x may count 2^31 - 1 blocks, y and z stop at 65535.
template <typename... Parameters>
void launch(
    const char* op, void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, void* stream,
    std::type_identity_t<Parameters>... arguments) {
  if (blocks <= 0) return;
  CONVOPS_CHECK(blocks <= INT32_MAX, op, "the problem needs ", blocks, " blocks, more than a CUDA grid holds");
  // Past 48 KB a kernel must be allowed to; its static shared memory counts too.
  if (shared_bytes > 0) {
    check_cuda(
        op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  check_cuda(op, cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Blocks for one thread per item. Past kMaxBlocks a kernel's grid-stride loop takes the rest.
inline int64_t blocks_for(int64_t items, int threads = kBlockThreads) {
  constexpr int64_t kMaxBlocks = int64_t{1} << 22;
  const int64_t blocks = (items + threads - 1) / threads;
  return blocks < kMaxBlocks ? blocks : kMaxBlocks;
}

}  // namespace convops
