#include "conv2d.cuh"
#include "tensor_core_pairs.cuh"

namespace convops {

void implicit_gemm_tensor_core_float16(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  run_gemm<TensorCoreEngine, __half, WideHalfPairs, NarrowHalfPairs>(GemmWork(problem, true), arguments);
}

}  // namespace convops
