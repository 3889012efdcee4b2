// The sum of a contiguous stretch: four vectors of partial sums, so that rounding grows with a small part of its
// length.
#pragma once

#include "simd.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
CONVOPS_INLINE Compute<scalar_t> plane_sum(const scalar_t* from, int64_t count) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> part[4] = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    for (int v = 0; v < 4; ++v) part[v] += load(from + i + v * lanes);
  }
  for (; i < count; i += lanes) part[0] += load_partial(from + i, count - i);
  const Vector<acc_t> total = (part[0] + part[1]) + (part[2] + part[3]);
  acc_t sum = 0;
  for (int lane = 0; lane < lanes; ++lane) sum += total[lane];
  return sum;
}

}  // namespace CONVOPS_ISA
}  // namespace convops
