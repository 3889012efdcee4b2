// The CPU's algorithms for avg_pool2d.
#include "../common/algorithm.h"
#include "../common/cpu.h"

namespace convops {

CONVOPS_CPU_KERNEL(avg_pool2d_separable, AvgPool2dProblem, AvgPool2dArguments)

std::span<const AvgPool2dAlgorithm> avg_pool2d_cpu_algorithms() {
  static constexpr AvgPool2dAlgorithm algorithms[] = {
      {"separable", [](const AvgPool2dProblem&) { return true; }, nullptr, avg_pool2d_separable},
  };
  return algorithms;
}

}  // namespace convops
