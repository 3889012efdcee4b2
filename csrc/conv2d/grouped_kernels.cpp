// Compiled once per instruction set.
#include "define_kernel.h"
#include "grouped_channels.h"

namespace convops {
namespace CONVOPS_ISA {

CONVOPS_DEFINE_CONV2D_KERNEL(conv2d_grouped, grouped_channels)

}  // namespace CONVOPS_ISA
}  // namespace convops
