// Compiled once per instruction set.
#include "../common/algorithm.h"
#include "depthwise.h"
#include "fold.h"
#include "grad_bias.h"
#include "implicit_gemm.h"

namespace convops {
namespace CONVOPS_ISA {

#define CONVOPS_DEFINE_KERNEL(name, function)                                 \
  void name(const Conv2dProblem& problem, const Conv2dArguments& arguments) { \
    switch (problem.dtype) {                                                  \
      case DType::float32: return function<float>(problem, arguments);        \
      case DType::float64: return function<double>(problem, arguments);       \
      case DType::bfloat16: return function<bfloat16>(problem, arguments);    \
      default: return function<float16>(problem, arguments);                  \
    }                                                                         \
  }

CONVOPS_DEFINE_KERNEL(conv2d_implicit_gemm, implicit_gemm)
CONVOPS_DEFINE_KERNEL(conv2d_depthwise, depthwise)
CONVOPS_DEFINE_KERNEL(conv2d_grad_bias_kernel, grad_bias)
CONVOPS_DEFINE_KERNEL(conv2d_fold, fold)

}  // namespace CONVOPS_ISA
}  // namespace convops
