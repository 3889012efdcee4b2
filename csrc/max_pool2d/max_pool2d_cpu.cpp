// The CPU's algorithms for max_pool2d.
#include "../common/algorithm.h"
#include "../common/cpu.h"

namespace convops {

CONVOPS_CPU_KERNEL(max_pool2d_global, MaxPool2dProblem, MaxPool2dArguments)
CONVOPS_CPU_KERNEL(max_pool2d_direct, MaxPool2dProblem, MaxPool2dArguments)
CONVOPS_CPU_KERNEL(max_pool2d_direct_grad_input, MaxPool2dProblem, MaxPool2dArguments)
CONVOPS_CPU_KERNEL(max_pool2d_separable, MaxPool2dProblem, MaxPool2dArguments)
CONVOPS_CPU_KERNEL(max_pool2d_routing, MaxPool2dProblem, MaxPool2dArguments)

namespace {

using Kernel = void (*)(const MaxPool2dProblem&, const MaxPool2dArguments&);

// Runs an algorithm's kernel for the forward passes or for grad_input; the other passes have only one.
template <Kernel kForward, Kernel kGradInput>
void run(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  switch (problem.pass) {
    case MaxPool2dPass::forward:
    case MaxPool2dPass::forward_with_offsets: return kForward(problem, arguments);
    case MaxPool2dPass::grad_input: return kGradInput(problem, arguments);
    default: return max_pool2d_routing(problem, arguments);
  }
}

}  // namespace

std::span<const MaxPool2dAlgorithm> max_pool2d_cpu_algorithms() {
  static constexpr MaxPool2dAlgorithm algorithms[] = {
      {"global", [](const MaxPool2dProblem& problem) { return problem.geometry.is_global(); }, nullptr,
       run<max_pool2d_global, max_pool2d_routing>},
      // Work grows with the taps of a window here, with the sum of its sides in separable.
      {"direct",
       [](const MaxPool2dProblem& problem) { return problem.geometry.channels_last && problem.geometry.taps() <= 16; },
       nullptr, run<max_pool2d_direct, max_pool2d_direct_grad_input>},
      {"separable", [](const MaxPool2dProblem&) { return true; }, nullptr,
       run<max_pool2d_separable, max_pool2d_routing>},
  };
  return algorithms;
}

}  // namespace convops
