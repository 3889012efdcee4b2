// Several neighbouring elements moved by one instruction.
#pragma once

#include <cstdint>

#include "common/geometry.h"

namespace convops {

// The widest access of a thread: 32 lanes of 16 bytes are four full 128-byte lines.
constexpr int kVectorBytes = 16;

template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Vector {
  T values[kSize];

  CONVOPS_HOST_DEVICE T& operator[](int i) { return values[i]; }
  CONVOPS_HOST_DEVICE const T& operator[](int i) const { return values[i]; }

  CONVOPS_HOST_DEVICE static Vector load(const T* from) { return *reinterpret_cast<const Vector*>(from); }
  CONVOPS_HOST_DEVICE void store(T* to) const { *reinterpret_cast<Vector*>(to) = *this; }
};

inline bool is_aligned(const void* pointer, int64_t bytes = kVectorBytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

}  // namespace convops
