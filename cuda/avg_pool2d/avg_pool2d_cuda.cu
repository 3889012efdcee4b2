// The list of average-pooling algorithms on CUDA, best first.
#include <array>

#include "../common/separable.cuh"
#include "avg_pool2d.cuh"

namespace convops {

std::span<const AvgPool2dAlgorithm> avg_pool2d_cuda_algorithms() {
  static constexpr std::array<AvgPool2dAlgorithm, 3> kAlgorithms{{
      {"global", [](const AvgPool2dProblem& problem) { return problem.geometry.is_global(); }, nullptr,
       [](const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments) {
         const bool forward = problem.pass == AvgPool2dPass::forward;
         (forward ? avg_pool2d_global_forward : avg_pool2d_direct_run)(problem, arguments);
       }},
      {"separable", [](const AvgPool2dProblem& problem) { return is_separable(problem.geometry); },
       avg_pool2d_separable_workspace, avg_pool2d_separable_run},
      {"direct", [](const AvgPool2dProblem&) { return true; }, nullptr, avg_pool2d_direct_run},
  }};
  return kAlgorithms;
}

}  // namespace convops
