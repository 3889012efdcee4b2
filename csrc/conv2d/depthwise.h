// Depthwise convolution: one input channel a group, so that nothing is shared between output channels and a matrix
// product would be one column wide. 2 N K P Q R S FLOPs against (N C H W + N K P Q) elements of memory: in float32, 3x3
// has 2.25 FLOPs a byte and is bound by memory, 7x7 has 12 and 31x31 240 and are bound by FMAs.
#pragma once

#include "depthwise_channels.h"
#include "depthwise_planes.h"

namespace convops {
namespace CONVOPS_ISA {

// Planes that are better gathered into vectors of channels: rows that would fill a vector badly or not much more.
template <typename T>
bool gathers_planes(const Correlation& c) {
  constexpr int64_t kPixels = 256;
  return c.source_channels == 1 && c.target_channels == 1 && c.w.positions() <= kLanes<T> &&
         c.h.source * c.w.source <= 4 * kPixels && c.h.target * c.w.target <= 4 * kPixels;
}

// Whether the taps of a row fill vectors as well as the columns of the output do, and a packed plane fits in a cache.
template <typename T>
bool has_large_windows(const Correlation& c) {
  constexpr int64_t kBytes = 1 << 20;
  constexpr int lanes = kLanes<T>;
  return 4 * c.w.kernel > 3 * lanes && c.h.source * (c.w.source + c.w.kernel) * static_cast<int64_t>(sizeof(T)) <= kBytes;
}

template <typename scalar_t>
void depthwise(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  using acc_t = Compute<scalar_t>;
  const auto input = static_cast<scalar_t*>(arguments.input);
  const auto weight = static_cast<scalar_t*>(arguments.weight);
  const auto output = static_cast<scalar_t*>(arguments.output);
  const auto bias = static_cast<const scalar_t*>(arguments.bias);
  Correlation c = make_correlation(problem.geometry, problem.pass == Conv2dPass::grad_input);
  order_taps(c.h);
  order_taps(c.w);
  const int64_t work = multiplications(problem.geometry);
  const bool gathers = gathers_planes<acc_t>(c);
  if (problem.pass == Conv2dPass::grad_weight) {
    const auto run = c.channels_last              ? depthwise_channels_grad_weight<scalar_t>
                     : gathers                    ? depthwise_gathered_grad_weight<scalar_t>
                     : has_large_windows<acc_t>(c) ? depthwise_planes_grad_large_weight<scalar_t>
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
