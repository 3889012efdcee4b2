// The implicit matrix product on Hopper GPUs: what it takes, and where each dtype's kernels are.
#include <array>
#include <atomic>

#include "conv2d.cuh"
#include "wgmma_kernel.cuh"

namespace convops {

namespace {

// Whether the current device has the instructions, and the library their kernels: other architectures' are empty, which
// shows in that they have no barriers in shared memory.
bool device_has_wgmma() {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  constexpr int kKnownDevices = 64;
  enum Answer { kUnknown, kYes, kNo };
  static std::array<std::atomic<Answer>, kKnownDevices> known;
  if (device < kKnownDevices && known[device] != kUnknown) return known[device] == kYes;
  int major = 0;
  cudaFuncAttributes attributes{};
  const auto kernel = conv2d_implicit_gemm_wgmma_kernel<WgmmaKernel<__nv_bfloat16, Conv2dPass::forward, 1, 128, false>>;
  const bool has = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
                   major == 9 &&
                   cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)) == cudaSuccess &&
                   attributes.sharedSizeBytes > 0;
  if (device < kKnownDevices) known[device] = has ? kYes : kNo;
  return has;
}

}  // namespace

bool implicit_gemm_wgmma_supports(const Conv2dProblem& problem) {
  return plan_wgmma(problem).takes && device_has_wgmma();
}

int64_t implicit_gemm_wgmma_workspace(const Conv2dProblem& problem) {
  return std::max(plan_wgmma(problem).workspace(), implicit_gemm_tensor_core_workspace(problem));
}

// Nothing, or more than the product by mma.sync where that is better: where lines of few channels or few tiles leave
// most of the GPU idle.
double implicit_gemm_wgmma_cost(const Conv2dProblem& problem) {
  const Conv2dGeometry& g = problem.geometry;
  const WgmmaPlan plan = plan_wgmma(problem);
  // What either takes to read and write the tensors.
  constexpr double kElementsPerUs = 1.4e6;
  const double memory = static_cast<double>(g.input_numel() + g.output_numel() + g.weight_numel()) / kElementsPerUs;
  return plan.microseconds <= std::max(mma_microseconds(problem), memory) ? 0 : 1;
}

void implicit_gemm_wgmma_run(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  // TMA reads from multiples of 16 bytes on only, which a tensor that is part of another need not lie at.
  const WgmmaPlan plan = plan_wgmma(problem);
  const Conv2dGemmPointers pointers = gemm_pointers(problem.pass, arguments);
  const bool a_aligned = plan.packing.a.matrices > 0 || is_aligned(pointers.a);
  const bool b_aligned = plan.packing.b.matrices > 0 || plan.phases || is_aligned(pointers.b);
  if (!a_aligned || !b_aligned) return implicit_gemm_tensor_core_run(problem, arguments);
  if (problem.dtype == DType::bfloat16) {
    implicit_gemm_wgmma_bfloat16(problem, plan, arguments);
  } else {
    implicit_gemm_wgmma_float16(problem, plan, arguments);
  }
}

}  // namespace convops
