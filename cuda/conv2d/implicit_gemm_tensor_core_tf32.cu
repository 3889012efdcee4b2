#include "conv2d.cuh"
#include "gemm_launch.cuh"
#include "tensor_core_engine.cuh"

namespace convops {

// Four-byte elements cannot be transposed on the way to tensor cores, so runs along rows are gathered: 32 lanes
// still read 128 bytes at once.
void implicit_gemm_tensor_core_tf32(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  using enum Access;
  using Wide = AccessPairs<AccessPair<along_reduction, along_reduction>>;
  using Narrow = AccessPairs<
      AccessPair<along_reduction, along_reduction>, AccessPair<along_reduction, gather>,
      AccessPair<gather, along_reduction>, AccessPair<gather, gather>>;
  run_gemm<TensorCoreEngine, float, Wide, Narrow>(GemmWork(problem, true), arguments);
}

}  // namespace convops
