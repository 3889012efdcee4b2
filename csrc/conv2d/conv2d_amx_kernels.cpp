// Compiled for amx only.
#include "implicit_gemm_amx.h"

namespace convops {
namespace CONVOPS_ISA {

void conv2d_implicit_gemm_amx(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  implicit_gemm_amx(problem, arguments);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
