// CUDA's words in plain C++, as far as the kernels here use them: what a .cu file includes when g++ compiles it for the
// emulation (emulation.cpp) instead of nvcc for a GPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __host__
#define __device__
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
// One block runs at a time, so its shared memory may be static. As thread_local all of it lies in one segment, which
// the emulation finds and fills with NaN before each block.
#define __shared__ thread_local

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulation {

// Gives way to the other threads until all that have not returned are here too.
void wait_for_block();
void wait_for_warp();
// The warp's room for what its lanes exchange next: two take turns, so that one is read while the other is filled.
constexpr size_t kExchangeBytes = 32;  // a lane
unsigned char* exchange_room();
// A fault in a kernel: prints it with the problem under test and ends the process.
[[noreturn]] void report(const char* fault);
int random_below(int end);

inline int lane() {
  return static_cast<int>(threadIdx.x % 32);
}

// What each lane of the warp brings.
template <typename T>
const T* exchange(const T& value) {
  static_assert(sizeof(T) <= kExchangeBytes);
  T* const values = reinterpret_cast<T*>(exchange_room());
  values[lane()] = value;
  wait_for_warp();
  return values;
}

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  void (*call)(const void* arguments);
  const void* arguments;
};
void run(const Launch& launch);

// Bytes of dynamic shared memory that a kernel was allowed to take.
size_t& shared_limit(const void* kernel);

// What the GPU is: 8 for sm_80 or 9 for sm_90a. A block of the latter may have more shared memory.
extern int compute_capability;
constexpr size_t kMostShared = 227 * 1024;
inline size_t most_shared() {
  return compute_capability == 9 ? kMostShared : 163 * 1024;
}
// A function of the driver.
void* driver_function(const char* name);

}  // namespace emulation

inline void __syncthreads() {
  emulation::wait_for_block();
}
inline int __syncthreads_or(int predicate) {
  static int predicates[1024];
  predicates[threadIdx.x] = predicate;
  emulation::wait_for_block();
  const bool any = std::any_of(predicates, predicates + blockDim.x, [](int p) { return p != 0; });
  emulation::wait_for_block();
  return any;
}
inline void __syncwarp(unsigned = 0xffffffff) {
  emulation::wait_for_warp();
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::exchange(value)[emulation::lane() ^ mask];
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const T* values = emulation::exchange(value);
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= (mask >> i & 1) != 0 && values[i] == value ? 1u << i : 0;
  return same;
}
inline int __any_sync(unsigned mask, int predicate) {
  const int* values = emulation::exchange(predicate);
  for (int i = 0; i < 32; ++i) {
    if ((mask >> i & 1) != 0 && values[i] != 0) return 1;
  }
  return 0;
}

inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
template <typename T>
void atomicMin(T* to, T value) {
  *to = std::min(*to, value);
}
template <typename T>
void atomicMax(T* to, T value) {
  *to = std::max(*to, value);
}

// The runtime's calls. Everything happens at once and on one thread, so streams have nothing to order.
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
enum { cudaEnableDefault };
using cudaStream_t = struct CUstream_st*;

struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  // Devices of each kind, so that nobody remembers one for the other.
  *device = emulation::compute_capability;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  // Few multiprocessors, so that blocks of a persistent kernel have several tiles.
  *value = attribute == cudaDevAttrMultiProcessorCount ? 3 : emulation::compute_capability;
  return cudaSuccess;
}
inline cudaError_t cudaGetDriverEntryPointByVersion(
    const char* name, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult*) {
  *function = emulation::driver_function(name);
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaMemsetAsync(void* memory, int byte, size_t bytes, cudaStream_t) {
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  if (static_cast<size_t>(bytes) > emulation::most_shared()) return cudaErrorInvalidValue;
  emulation::shared_limit(reinterpret_cast<const void*>(kernel)) = static_cast<size_t>(bytes);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (config->blockDim.x < 1 || config->blockDim.x > 1024 || config->gridDim.x < 1 ||
      config->dynamicSmemBytes > emulation::shared_limit(reinterpret_cast<const void*>(kernel))) {
    return cudaErrorInvalidValue;
  }
  const auto call = [&] { kernel(arguments...); };
  emulation::run(
      {config->gridDim, config->blockDim, config->dynamicSmemBytes,
       [](const void* bound) { (*static_cast<const decltype(call)*>(bound))(); }, &call});
  return cudaSuccess;
}
