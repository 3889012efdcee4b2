// What kernels divide a window's sum by.
#pragma once

#include "../common/pooling.cuh"

namespace convops {

// AvgPool2dDivisor in the index type of a kernel.
template <typename index_t>
struct WindowDivisor {
  bool count_include_pad;
  int64_t override_;

  explicit WindowDivisor(const AvgPool2dDivisor& divisor)
      : count_include_pad(divisor.count_include_pad), override_(divisor.override_) {}

  template <bool kAdaptive>
  __device__ index_t counted(const PoolAxis<index_t, kAdaptive>& axis, index_t o) const {
    const index_t last = axis.taps_before(axis.input + (count_include_pad ? axis.pad_upper : 0), o);
    return count_include_pad ? last : last - axis.first_tap(o);
  }
  template <typename acc_t, typename Geometry>
  __device__ acc_t at(const Geometry& geometry, index_t p, index_t q) const {
    if (override_ != 0) return static_cast<acc_t>(override_);
    return static_cast<acc_t>(static_cast<int64_t>(counted(geometry.h, p)) * counted(geometry.w, q));
  }
};

}  // namespace convops
