// Depthwise convolution: one input channel a group, so that nothing is shared between output channels and a matrix
// product would be one column wide. 2 N K P Q R S FLOPs against (N C H W + N K P Q) elements of memory: in float32, 3x3
// has 2.25 FLOPs a byte and is bound by memory, 7x7 has 12 and 31x31 240 and are bound by FMAs.
#pragma once

#include "depthwise_channels.h"
#include "depthwise_planes.h"

namespace convops {
namespace CONVOPS_ISA {

// Whether planes are better gathered into vectors of channels: where there are enough of one filter each, and both
// planes of a vector fit in the second cache. Then grad_weight, which needs no sums over lanes, always is; the others
// are where rows would fill vectors badly, be read in steps, or where windows are so large that it pays to skip columns
// of padding, too.
template <typename T>
bool gathers_planes(const Correlation& c, bool grad_weight) {
  constexpr int64_t kPixels = 4096, kManyTaps = 49;
  constexpr int lanes = kLanes<T>;
  return c.source_channels == 1 && c.target_channels == 1 && 2 * c.groups >= lanes &&
         c.h.source * c.w.source <= kPixels && c.h.target * c.w.target <= kPixels &&
         (grad_weight || 2 * c.w.positions() <= 3 * lanes || c.w.source_step > 1 ||
          c.h.kernel * c.w.kernel >= kManyTaps);
}

template <typename scalar_t>
void depthwise(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const Correlation c = ordered_correlation(problem);
  const int64_t work = multiplications(problem.geometry);
  const bool gathers = gathers_planes<Compute<scalar_t>>(c, problem.pass == Conv2dPass::grad_weight);
  const auto correlate = c.channels_last ? depthwise_channels<scalar_t>
                         : gathers       ? depthwise_gathered<scalar_t>
                                         : depthwise_planes<scalar_t>;
  const auto grad_weight = c.channels_last ? depthwise_channels_grad_weight<scalar_t>
                           : gathers       ? depthwise_gathered_grad_weight<scalar_t>
                                           : depthwise_planes_grad_weight<scalar_t>;
  run_pass<scalar_t>(
      problem, arguments, [&](auto... operands) { correlate(c, work, operands...); },
      [&](auto... operands) { grad_weight(c, work, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
