// Max-pooling of every geometry: down the columns first, then along the row, carrying the window offset of the maximum.
// Bytes: input once, output once and one byte an output; small windows are bound by memory.
#pragma once

#include "../common/algorithm.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t, bool kOffsets>
void separable_max_pool(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, void* data) {
  using Rule = MaximumRule<scalar_t, kOffsets>;
  using acc_t = typename Rule::acc_t;
  using Offset = LaneInt<acc_t>;
  const FirstTaps<Offset> first(g);
  const Offsets offsets(g, data);
  reduce_windows<Rule>(
      g, [&](int64_t, int64_t) { return ImageRows<scalar_t>{g, input}; },
      [&](int64_t n, int64_t channel, int64_t p, int64_t q, int64_t count, const typename Rule::Item& item)
          CONVOPS_INLINE_LAMBDA {
            const int64_t at = g.output_at(n, channel, p, q);
            store_partial(output + at, item.value, count);
            if constexpr (kOffsets) {
              // Padding is lower than all and stands before the image: where it was picked, the first tap should have
              // been.
              const auto least = g.channels_last ? first.at(p, q) : first.along(p, q);
              offsets.store<Offset>(at, item.tag > least ? item.tag : least, count);
            }
          });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
