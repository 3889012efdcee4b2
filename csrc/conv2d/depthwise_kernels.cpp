// Compiled once per instruction set.
#include "define_kernel.h"
#include "depthwise.h"

namespace convops {
namespace CONVOPS_ISA {

CONVOPS_DEFINE_CONV2D_KERNEL(conv2d_depthwise, depthwise)

}  // namespace CONVOPS_ISA
}  // namespace convops
