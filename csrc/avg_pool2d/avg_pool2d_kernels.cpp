// Compiled once per instruction set.
#include "separable.h"

namespace convops {
namespace CONVOPS_ISA {

void avg_pool2d_separable(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments) {
  switch (problem.dtype) {
    case DType::float32: return avg_pool_pass<float>(problem, arguments);
    case DType::float64: return avg_pool_pass<double>(problem, arguments);
    case DType::bfloat16: return avg_pool_pass<bfloat16>(problem, arguments);
    default: return avg_pool_pass<float16>(problem, arguments);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
