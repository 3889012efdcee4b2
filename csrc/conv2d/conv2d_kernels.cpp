// Compiled once per instruction set.
#include "define_kernel.h"
#include "fold.h"
#include "grad_bias.h"
#include "implicit_gemm.h"

namespace convops {
namespace CONVOPS_ISA {

CONVOPS_DEFINE_CONV2D_KERNEL(conv2d_implicit_gemm, implicit_gemm)
CONVOPS_DEFINE_CONV2D_KERNEL(conv2d_grad_bias_kernel, grad_bias)
CONVOPS_DEFINE_CONV2D_KERNEL(conv2d_fold, fold)

}  // namespace CONVOPS_ISA
}  // namespace convops
