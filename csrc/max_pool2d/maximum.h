// The routing rule, once for every kernel: which value a window picks, and what its offset is.
#pragma once

#include <limits>

#include "../common/simd.h"

namespace convops {
namespace CONVOPS_ISA {

// A running maximum and where it was found.
template <typename acc_t, bool kOffsets>
struct Maximum {
  using Offset = LaneInt<acc_t>;

  CONVOPS_INLINE void start(Vector<acc_t> v, Vector<Offset> at) {
    value = v;
    if constexpr (kOffsets) offset = at;
  }
  CONVOPS_INLINE void take(Vector<acc_t> v, Vector<Offset> at) {
    auto better = v > value;
    if constexpr (!std::is_integral_v<acc_t>) better |= v != v;
    value = better ? v : value;
    if constexpr (kOffsets) offset = better ? at : offset;
  }

  Vector<acc_t> value;
  Vector<Offset> offset;
};

// Offsets are uint8_t or int32_t in memory.
template <typename offset_t, typename Lane>
CONVOPS_INLINE void store_offsets(offset_t* to, Vector<Lane> offsets, int64_t count) {
  typedef offset_t Narrow __attribute__((vector_size(kLanes<Lane> * sizeof(offset_t))));
  const Narrow narrow = __builtin_convertvector(offsets, Narrow);
  if (count >= kLanes<Lane>) {
    std::memcpy(to, &narrow, sizeof(narrow));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = narrow[i];
  }
}

// What the maximum of no value is.
template <typename scalar_t>
constexpr Compute<scalar_t> kLowest = [] {
  if constexpr (std::is_integral_v<scalar_t>) {
    return std::numeric_limits<scalar_t>::lowest();
  } else {
    return -std::numeric_limits<Compute<scalar_t>>::infinity();
  }
}();

}  // namespace CONVOPS_ISA
}  // namespace convops
