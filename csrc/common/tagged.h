// What a rule of pooling works on. A rule (MaximumRule, SumRule) is an associative operation on items and its identity:
//   take(a, b)            a becomes a and b, where b stands behind everything that a has seen
//   take_unordered(a, b)  the same where the two stand in any order
#pragma once

#include "simd.h"

namespace convops {
namespace CONVOPS_ISA {

// A vector of values, each with a number that goes where it goes.
template <typename acc_t, bool kTags>
struct Tagged {
  using Tag = LaneInt<acc_t>;

  Tagged() = default;
  CONVOPS_INLINE Tagged(Vector<acc_t> value, Vector<Tag> tag = Vector<Tag>{}) : value(value), tag(tag) {}

  CONVOPS_INLINE Tagged shifted(int64_t by) const {
    if constexpr (!kTags) return *this;
    return {value, tag + broadcast<Tag>(static_cast<Tag>(by))};
  }

  Vector<acc_t> value;
  Vector<Tag> tag;
};

}  // namespace CONVOPS_ISA
}  // namespace convops
