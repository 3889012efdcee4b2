// The routing rule, once for the kernels that see taps in order: which value a window picks, and where its offset goes.
#pragma once

#include <cstdint>

#include "../common/dtype.cuh"
#include "../common/vector.cuh"

namespace convops {

// The largest of the values taken so far and its tap, for kCount windows: of equal values the first wins, a NaN wins
// over numbers, and a later NaN over an earlier one. A window that takes no value keeps the lowest and its first tap.
template <typename scalar_t, int kCount>
struct RunningMaximum {
  decltype(comparable(scalar_t())) most[kCount];
  int32_t taps[kCount];

  __device__ void start(int i, int32_t first_tap) { most[i] = comparable(lowest<scalar_t>()), taps[i] = first_tap; }
  __device__ void take(int i, scalar_t x, int32_t tap) {
    const auto value = comparable(x);
    if (value > most[i] || value != value) most[i] = value, taps[i] = tap;
  }
  __device__ void store(scalar_t* to) const {
    Vector<scalar_t, kCount> result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) result[i] = static_cast<scalar_t>(most[i]);
    result.store(to);
  }
};

// Offsets are nowhere, bytes or int32.
struct SavedOffsets {
  uint8_t* bytes;
  int32_t* words;

  void set(uint8_t* to) { bytes = to; }
  void set(int32_t* to) { words = to; }

  template <int kVector>
  __device__ void store(int64_t at, const int32_t (&offsets)[kVector]) const {
    if (bytes != nullptr) {
      Vector<uint8_t, kVector> narrow;
#pragma unroll
      for (int v = 0; v < kVector; ++v) narrow[v] = static_cast<uint8_t>(offsets[v]);
      narrow.store(bytes + at);
    }
    if (words != nullptr) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) words[at + v] = offsets[v];
    }
  }
  __device__ int32_t load(int64_t at) const { return bytes != nullptr ? bytes[at] : words != nullptr ? words[at] : 0; }
};

}  // namespace convops
