// Max-pooling of every geometry: down the columns first, then along the row, carrying the window offset of the maximum.
// Bytes: input once, output once and one byte an output; small windows are bound by memory.
#pragma once

#include "../common/algorithm.h"
#include "maximum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t, typename offset_t, bool kOffsets>
void separable_max_pool(const Pool2dGeometry& g, const scalar_t* input, scalar_t* output, offset_t* offsets) {
  using Rule = MaximumRule<scalar_t, kOffsets>;
  using acc_t = typename Rule::acc_t;
  using Offset = LaneInt<acc_t>;
  const int64_t P = g.h.output, Q = g.w.output;
  // Padding is lower than all and stands before the image: where it was picked, the first tap inside the image should
  // have been. Where dilation steps over the whole image, that is the first tap that is not above or left of it.
  const Scratch<Offset> first_columns(round_up(Q, kLanes<Offset>));
  for (int64_t q = 0; q < round_up(Q, kLanes<Offset>); ++q) {
    first_columns[q] = static_cast<Offset>(q < Q ? g.w.first_tap(q) : 0);
  }
  reduce_windows<Rule>(
      g, [&](int64_t, int64_t) { return ImageRows<scalar_t>{g, input}; },
      [&](int64_t n, int64_t channel, int64_t p, int64_t q, int64_t count, const typename Rule::Item& item) {
        const int64_t at = g.channels_last ? ((n * P + p) * Q + q) * g.C + channel : ((n * g.C + channel) * P + p) * Q + q;
        store_partial(output + at, item.value, count);
        if constexpr (kOffsets) {
          const auto columns = g.channels_last ? broadcast<Offset>(first_columns[q]) : load(first_columns.data() + q);
          const auto first = columns + broadcast(static_cast<Offset>(g.h.first_tap(p) * g.w.kernel));
          store_offsets<offset_t, Offset>(offsets + at, item.tag > first ? item.tag : first, count);
        }
      });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
