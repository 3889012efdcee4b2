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
  const auto input = static_cast<scalar_t*>(arguments.input);
  const auto weight = static_cast<scalar_t*>(arguments.weight);
  const auto output = static_cast<scalar_t*>(arguments.output);
  const auto bias = static_cast<const scalar_t*>(arguments.bias);
  Correlation c = make_correlation(problem.geometry, problem.pass == Conv2dPass::grad_input);
  order_taps(c.h);
  order_taps(c.w);
  const int64_t work = multiplications(problem.geometry);
  const bool grad_weight = problem.pass == Conv2dPass::grad_weight;
  const bool gathers = gathers_planes<Compute<scalar_t>>(c, grad_weight);
  if (grad_weight) {
    const auto run = c.channels_last ? depthwise_channels_grad_weight<scalar_t>
                     : gathers       ? depthwise_gathered_grad_weight<scalar_t>
                                     : depthwise_planes_grad_weight<scalar_t>;
    return run(c, work, input, output, weight);
  }
  const auto run = c.channels_last ? depthwise_channels<scalar_t>
                   : gathers       ? depthwise_gathered<scalar_t>
                                   : depthwise_planes<scalar_t>;
  if (problem.pass == Conv2dPass::forward) return run(c, work, input, weight, bias, output);
  run(c, work, output, weight, bias, input);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
