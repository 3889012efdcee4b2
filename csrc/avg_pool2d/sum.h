// What an average-pool combines pixels by.
#pragma once

#include "../common/tagged.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename acc>
struct SumRule {
  using acc_t = acc;
  static constexpr bool kTags = false;
  using Item = Tagged<acc_t, false>;

  static CONVOPS_INLINE Item identity() { return Vector<acc_t>{}; }
  static CONVOPS_INLINE void take(Item& sum, const Item& next) { sum.value += next.value; }
  static CONVOPS_INLINE void take_unordered(Item& sum, const Item& next) { sum.value += next.value; }
};

}  // namespace CONVOPS_ISA
}  // namespace convops
