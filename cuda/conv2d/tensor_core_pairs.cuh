// The pairs of accesses that half types have a kernel for.
#pragma once

#include "gemm_launch.cuh"
#include "tensor_core_engine.cuh"

namespace convops {

using WideHalfPairs = AccessPairs<
    AccessPair<Access::along_reduction, Access::along_reduction>,  // channels_last forward
    AccessPair<Access::along_reduction, Access::along_rows>,       // channels_last grad_input
    AccessPair<Access::along_rows, Access::along_rows>>;           // channels_last grad_weight

using NarrowHalfPairs = AccessPairs<
    AccessPair<Access::along_reduction, Access::along_reduction>,
    AccessPair<Access::along_reduction, Access::along_rows>, AccessPair<Access::along_rows, Access::along_rows>,
    AccessPair<Access::along_reduction, Access::gather>,  // channels_last images, contiguous weight
    AccessPair<Access::gather, Access::along_reduction>,  // contiguous forward and grad_weight
    AccessPair<Access::gather, Access::gather>>;

}  // namespace convops
