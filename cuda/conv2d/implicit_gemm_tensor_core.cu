// The implicit matrix product on tensor cores: what it takes, and where each dtype's kernels are.
#include "conv2d.cuh"
#include "gemm_pack.cuh"

namespace convops {

bool implicit_gemm_tensor_core_supports(const Conv2dProblem& problem) {
  const bool dtype = problem.dtype == DType::bfloat16 || problem.dtype == DType::float16 ||
                     (problem.dtype == DType::float32 && problem.allow_tf32);
  return is_contraction(problem.pass) && dtype && conv2d_gemm_fits(problem.geometry);
}

int64_t implicit_gemm_tensor_core_workspace(const Conv2dProblem& problem) {
  return GemmWork(problem, true).workspace();
}

void implicit_gemm_tensor_core_run(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  switch (problem.dtype) {
    case DType::bfloat16: return implicit_gemm_tensor_core_bfloat16(problem, arguments);
    case DType::float16: return implicit_gemm_tensor_core_float16(problem, arguments);
    default: return implicit_gemm_tensor_core_tf32(problem, arguments);
  }
}

}  // namespace convops
