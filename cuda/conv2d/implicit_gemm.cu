// The implicit matrix product without tensor cores: float32 and float64 exactly as IEEE has them, and every dtype for
// tests.
#include "conv2d.cuh"
#include "gemm_launch.cuh"
#include "simt_engine.cuh"

namespace convops {

bool implicit_gemm_supports(const Conv2dProblem& problem) {
  return is_contraction(problem.pass) && is_floating(problem.dtype) && conv2d_gemm_fits(problem.geometry);
}

int64_t implicit_gemm_workspace(const Conv2dProblem& problem) {
  return GemmWork(problem, false).workspace();
}

void implicit_gemm_run(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  using enum Access;
  using Gathered = AccessPairs<AccessPair<gather, gather>>;
  using AlongOrGathered = AccessPairs<AccessPair<along_reduction, along_reduction>, AccessPair<gather, gather>>;
  const GemmWork work(problem, false);
  switch (problem.dtype) {
    case DType::float32: return run_gemm<SimtEngine, float, AccessPairs<>, AlongOrGathered>(work, arguments);
    case DType::float64: return run_gemm<SimtEngine, double, AccessPairs<>, AlongOrGathered>(work, arguments);
    case DType::bfloat16: return run_gemm<SimtEngine, __nv_bfloat16, AccessPairs<>, Gathered>(work, arguments);
    default: return run_gemm<SimtEngine, __half, AccessPairs<>, Gathered>(work, arguments);
  }
}

}  // namespace convops
