// Compiled once per instruction set.
#include "winograd.h"

namespace convops {
namespace CONVOPS_ISA {

void conv2d_winograd(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  winograd(problem, arguments);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
