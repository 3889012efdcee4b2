// The CPU's algorithms for avg_pool2d.
#include "../common/algorithm.h"
#include "../common/cpu.h"
#include "../common/small_windows.h"

namespace convops {

CONVOPS_CPU_KERNEL(avg_pool2d_global, AvgPool2dProblem, AvgPool2dArguments)
CONVOPS_CPU_KERNEL(avg_pool2d_direct, AvgPool2dProblem, AvgPool2dArguments)
CONVOPS_CPU_KERNEL(avg_pool2d_separable, AvgPool2dProblem, AvgPool2dArguments)

std::span<const AvgPool2dAlgorithm> avg_pool2d_cpu_algorithms() {
  static constexpr AvgPool2dAlgorithm algorithms[] = {
      {"global", [](const AvgPool2dProblem& problem) { return problem.geometry.is_global(); }, nullptr,
       avg_pool2d_global},
      {"direct", [](const AvgPool2dProblem& problem) { return has_small_windows(problem.geometry, 9); }, nullptr,
       avg_pool2d_direct},
      {"separable", [](const AvgPool2dProblem&) { return true; }, nullptr, avg_pool2d_separable},
  };
  return algorithms;
}

}  // namespace convops
