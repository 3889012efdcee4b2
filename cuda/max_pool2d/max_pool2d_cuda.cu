// The list of max-pooling algorithms on CUDA, best first.
#include <array>

#include "../common/separable.cuh"
#include "max_pool2d.cuh"

namespace convops {
namespace {

using Kernel = void (*)(const MaxPool2dProblem&, const MaxPool2dArguments&);

// The forward passes have algorithms to choose from; those that follow saved offsets have one.
template <Kernel kForward>
void run(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  const bool forward = problem.pass == MaxPool2dPass::forward || problem.pass == MaxPool2dPass::forward_with_offsets;
  (forward ? kForward : max_pool2d_direct_backward)(problem, arguments);
}

}  // namespace

std::span<const MaxPool2dAlgorithm> max_pool2d_cuda_algorithms() {
  static constexpr std::array<MaxPool2dAlgorithm, 3> kAlgorithms{{
      {"global", [](const MaxPool2dProblem& problem) { return problem.geometry.is_global(); }, nullptr,
       run<max_pool2d_global_forward>},
      {"separable", [](const MaxPool2dProblem& problem) { return is_separable(problem.geometry); },
       max_pool2d_separable_workspace, run<max_pool2d_separable_forward>},
      {"direct", [](const MaxPool2dProblem&) { return true; }, nullptr, run<max_pool2d_direct_forward>},
  }};
  return kAlgorithms;
}

}  // namespace convops
