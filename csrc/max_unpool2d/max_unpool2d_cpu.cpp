// The CPU's algorithm for max_unpool2d.
#include "../common/algorithm.h"
#include "../common/cpu.h"

namespace convops {

CONVOPS_CPU_KERNEL(max_unpool2d_direct, MaxUnpool2dProblem, MaxUnpool2dArguments)

std::span<const MaxUnpool2dAlgorithm> max_unpool2d_cpu_algorithms() {
  static constexpr MaxUnpool2dAlgorithm algorithms[] = {
      {"direct", [](const MaxUnpool2dProblem&) { return true; }, nullptr, max_unpool2d_direct},
  };
  return algorithms;
}

}  // namespace convops
