// fold(c, i, j) = bias(c) + sum over the positions (h, w) of the padded image that show the pixel (i, j): what turns
// the gradient of a padded image into that of the image. One pass over memory; the order of each sum is fixed by the
// geometry.
#pragma once

#include <algorithm>

#include "../common/cpu.h"
#include "../common/plane_sum.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void fold(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const Conv2dGeometry& g = problem.geometry;
  const auto padded = static_cast<const scalar_t*>(arguments.output);
  const auto bias = static_cast<const scalar_t*>(arguments.bias);
  const auto image = static_cast<scalar_t*>(arguments.input);
  // A pixel is all channels of a channels_last image, and one of a contiguous one, whose planes are images then.
  const int64_t pixel = g.channels_last ? g.C : 1, images = g.N * g.C / std::max<int64_t>(1, pixel);
  const int64_t length = g.w.padded() * pixel;
  parallel_for(images * g.h.input, images * g.h.padded() * length, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> sums(length);
    acc_t* row = sums.data() + g.w.pad_lower * pixel;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / g.h.input, h = item % g.h.input;
      std::fill_n(sums.data(), length, acc_t(0));
      g.h.for_each_position(h, [&](int64_t position) {
        add_row(padded + (n * g.h.padded() + g.h.pad_lower + position) * length, length, sums.data());
      });
      const auto fold_columns = [&](int64_t first, int64_t last) {
        for (int64_t position = first; position < last; ++position) {
          add_row(row + position * pixel, pixel, row + g.w.pixel(position) * pixel);
        }
      };
      fold_columns(-g.w.pad_lower, 0);
      fold_columns(g.w.input, g.w.input + g.w.pad_upper);
      if (bias != nullptr && g.channels_last) {
        for (int64_t w = 0; w < g.w.input; ++w) add_row(bias, pixel, row + w * pixel);
      } else if (bias != nullptr) {
        for (int64_t w = 0; w < g.w.input; ++w) row[w] += widen(bias[n % g.C]);
      }
      const int64_t count = g.w.input * pixel;
      for (int64_t i = 0; i < count; i += lanes) {
        store_partial(image + item * count + i, load_partial(row + i, count - i), count - i);
      }
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
