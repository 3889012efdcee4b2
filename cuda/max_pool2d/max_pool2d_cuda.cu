// The list of max-pooling algorithms on CUDA, best first.
#include <array>

#include "max_pool2d.cuh"

namespace convops {

std::span<const MaxPool2dAlgorithm> max_pool2d_cuda_algorithms() {
  static constexpr std::array<MaxPool2dAlgorithm, 2> kAlgorithms{{
      {"global", max_pool2d_global_supports, nullptr, max_pool2d_global_run},
      {"direct", max_pool2d_direct_supports, nullptr, max_pool2d_direct_run},
  }};
  return kAlgorithms;
}

bool max_pool2d_direct_supports(const MaxPool2dProblem& problem) {
  switch (problem.pass) {
    case MaxPool2dPass::grad_input:
    case MaxPool2dPass::gather: return is_floating(problem.dtype);
    default: return true;
  }
}

void max_pool2d_direct_run(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  switch (problem.pass) {
    case MaxPool2dPass::forward:
    case MaxPool2dPass::forward_with_offsets: return max_pool2d_direct_forward(problem, arguments);
    default: return max_pool2d_direct_backward(problem, arguments);
  }
}

}  // namespace convops
