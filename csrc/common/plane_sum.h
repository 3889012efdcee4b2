// Sums over contiguous stretches.
#pragma once

#include "simd.h"

namespace convops {
namespace CONVOPS_ISA {

// to[i] += from[i]
template <typename T>
CONVOPS_INLINE void add_row(const T* from, int64_t count, Compute<T>* to) {
  for (int64_t i = 0; i < count; i += kLanes<Compute<T>>) {
    store_partial(to + i, load_partial(to + i, count - i) + load_partial(from + i, count - i), count - i);
  }
}

// A vector whose lanes add up to the sum of a stretch: four vectors of partial sums, added in pairs, so that rounding
// grows with a small part of its length.
template <typename scalar_t>
CONVOPS_INLINE Vector<Compute<scalar_t>> partial_sums(const scalar_t* from, int64_t count) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> part[4] = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    for (int v = 0; v < 4; ++v) part[v] += load(from + i + v * lanes);
  }
  for (; i < count; i += lanes) part[0] += load_partial(from + i, count - i);
  return (part[0] + part[1]) + (part[2] + part[3]);
}

template <typename scalar_t>
CONVOPS_INLINE Compute<scalar_t> plane_sum(const scalar_t* from, int64_t count) {
  using acc_t = Compute<scalar_t>;
  Vector<acc_t> total = partial_sums(from, count);
  fold_lanes<kLanes<acc_t>>([&](auto by) { total += rotate<by, acc_t>(total); });
  return total[0];
}

// The same of as many stretches, one behind the other, as a vector has lanes: a transposition takes a quarter of the
// shuffles.
template <typename scalar_t>
CONVOPS_INLINE Vector<Compute<scalar_t>> plane_sums(const scalar_t* from, int64_t count) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> rows[lanes];
  for (int i = 0; i < lanes; ++i) rows[i] = partial_sums(from + i * count, count);
  transpose<acc_t>(rows);
  fold_lanes<lanes>([&](auto by) CONVOPS_INLINE_LAMBDA {
    for (int i = 0; i < by; ++i) rows[i] += rows[i + by];
  });
  return rows[0];
}

}  // namespace CONVOPS_ISA
}  // namespace convops
