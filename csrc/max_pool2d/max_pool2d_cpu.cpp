// The CPU's algorithms for max_pool2d.
#include "../common/algorithm.h"
#include "../common/cpu.h"

namespace convops {

CONVOPS_CPU_KERNEL(max_pool2d_separable, MaxPool2dProblem, MaxPool2dArguments)

std::span<const MaxPool2dAlgorithm> max_pool2d_cpu_algorithms() {
  static constexpr MaxPool2dAlgorithm algorithms[] = {
      {"separable", [](const MaxPool2dProblem&) { return true; }, nullptr, max_pool2d_separable},
  };
  return algorithms;
}

}  // namespace convops
