// Compiled once per instruction set.
#include "direct.h"
#include "global.h"
#include "separable.h"

namespace convops {
namespace CONVOPS_ISA {

// Defines an algorithm from its two passes.
#define CONVOPS_DEFINE_KERNEL(name, kForward, kGradInput)                                  \
  template <typename scalar_t>                                                             \
  void name##_pass(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments) { \
    const auto input = static_cast<scalar_t*>(arguments.input);                            \
    const auto output = static_cast<scalar_t*>(arguments.output);                          \
    if (problem.pass == AvgPool2dPass::forward) return kForward(problem, input, output);   \
    kGradInput(problem, output, input);                                                    \
  }                                                                                        \
  void name(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments) {        \
    switch (problem.dtype) {                                                               \
      case DType::float32: return name##_pass<float>(problem, arguments);                  \
      case DType::float64: return name##_pass<double>(problem, arguments);                 \
      case DType::bfloat16: return name##_pass<bfloat16>(problem, arguments);              \
      default: return name##_pass<float16>(problem, arguments);                            \
    }                                                                                      \
  }

CONVOPS_DEFINE_KERNEL(avg_pool2d_global, global_avg_pool_forward, global_avg_pool_grad_input)
CONVOPS_DEFINE_KERNEL(avg_pool2d_direct, direct_avg_pool, avg_pool_grad_input)
CONVOPS_DEFINE_KERNEL(avg_pool2d_separable, separable_avg_pool, avg_pool_grad_input)

}  // namespace CONVOPS_ISA
}  // namespace convops
