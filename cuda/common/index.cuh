// Index arithmetic of kernels: 32-bit wherever a problem fits, 64-bit otherwise.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/geometry.h"

namespace convops {

// Division of 0 <= n < 2^31 by a number known before the launch. With d <= 2^shift < 2d and magic = floor(2^32
// (2^shift - d) / d) + 1, n / d = (n + high(n * magic)) >> shift: three instructions instead of about twenty.
template <typename index_t>
struct Divisor {
  Divisor() = default;
  CONVOPS_HOST_DEVICE explicit Divisor(int64_t divisor) : divisor(static_cast<uint32_t>(divisor)) {
    while ((uint64_t{1} << shift) < static_cast<uint64_t>(divisor)) ++shift;
    magic = static_cast<uint32_t>((((uint64_t{1} << shift) - divisor) << 32) / divisor + 1);
  }
  __device__ index_t divide(index_t n) const {
    return static_cast<index_t>((static_cast<uint32_t>(n) + __umulhi(static_cast<uint32_t>(n), magic)) >> shift);
  }
  __device__ index_t multiply(index_t n) const { return n * static_cast<index_t>(divisor); }

  uint32_t divisor = 1, magic = 1, shift = 0;
};

template <>
struct Divisor<int64_t> {
  Divisor() = default;
  explicit Divisor(int64_t divisor) : divisor(divisor) {}
  __device__ int64_t divide(int64_t n) const { return n / divisor; }
  __device__ int64_t multiply(int64_t n) const { return n * divisor; }

  int64_t divisor = 1;
};

// Takes the fastest digit of n off: returns n mod d and leaves n / d.
template <typename index_t>
__device__ index_t take_digit(index_t& n, const Divisor<index_t>& divisor) {
  const index_t quotient = divisor.divide(n);
  const index_t digit = n - divisor.multiply(quotient);
  n = quotient;
  return digit;
}

// The same by a number that one thread or block divides by once.
template <typename index_t>
__device__ index_t take_digit(index_t& n, index_t divisor) {
  const index_t quotient = n / divisor, digit = n - quotient * divisor;
  n = quotient;
  return digit;
}

// Calls body(i) for every i in [0, count), spread over the grid.
template <typename index_t, typename Body>
__device__ void grid_stride_loop(index_t count, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    body(static_cast<index_t>(i));
  }
}

}  // namespace convops
