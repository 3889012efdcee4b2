// Compiled once per instruction set.
#include "define_kernel.h"
#include "planar_gemm.h"

namespace convops {
namespace CONVOPS_ISA {

CONVOPS_DEFINE_CONV2D_KERNEL(conv2d_planar_gemm, planar_gemm)

}  // namespace CONVOPS_ISA
}  // namespace convops
