// Compiled once per instruction set.
#include "define_kernel.h"
#include "pointwise.h"

namespace convops {
namespace CONVOPS_ISA {

CONVOPS_DEFINE_CONV2D_KERNEL(conv2d_pointwise, pointwise)

}  // namespace CONVOPS_ISA
}  // namespace convops
