// The CPU's algorithms for max_pool2d.
#include "../common/algorithm.h"
#include "../common/cpu.h"
#include "../common/small_windows.h"

namespace convops {

CONVOPS_CPU_KERNEL(max_pool2d_global, MaxPool2dProblem, MaxPool2dArguments)
CONVOPS_CPU_KERNEL(max_pool2d_direct, MaxPool2dProblem, MaxPool2dArguments)
CONVOPS_CPU_KERNEL(max_pool2d_separable, MaxPool2dProblem, MaxPool2dArguments)
CONVOPS_CPU_KERNEL(max_pool2d_routing, MaxPool2dProblem, MaxPool2dArguments)

namespace {

using Kernel = void (*)(const MaxPool2dProblem&, const MaxPool2dArguments&);

// The forward passes have algorithms to choose from; those that follow saved offsets have one.
template <Kernel kForward>
void run(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  const bool forward = problem.pass == MaxPool2dPass::forward || problem.pass == MaxPool2dPass::forward_with_offsets;
  (forward ? kForward : max_pool2d_routing)(problem, arguments);
}

}  // namespace

std::span<const MaxPool2dAlgorithm> max_pool2d_cpu_algorithms() {
  static constexpr MaxPool2dAlgorithm algorithms[] = {
      {"global", [](const MaxPool2dProblem& problem) { return problem.geometry.is_global(); }, nullptr,
       run<max_pool2d_global>},
      {"direct", [](const MaxPool2dProblem& problem) { return has_small_windows(problem.geometry, 16); }, nullptr,
       run<max_pool2d_direct>},
      {"separable", [](const MaxPool2dProblem&) { return true; }, nullptr, run<max_pool2d_separable>},
  };
  return algorithms;
}

}  // namespace convops
