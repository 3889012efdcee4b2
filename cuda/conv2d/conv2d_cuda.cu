// The list of convolution algorithms on CUDA, best first.
#include <array>

#include "conv2d.cuh"

namespace convops {

std::span<const Conv2dAlgorithm> conv2d_cuda_algorithms() {
  static constexpr std::array<Conv2dAlgorithm, 7> kAlgorithms{{
      {"few_channels", few_channels_supports, few_channels_workspace, few_channels_run},
      {"depthwise", depthwise_supports, depthwise_workspace, depthwise_run},
      {"implicit_gemm_wgmma", implicit_gemm_wgmma_supports, implicit_gemm_wgmma_workspace, implicit_gemm_wgmma_run,
       implicit_gemm_wgmma_cost},
      {"implicit_gemm_tensor_core", implicit_gemm_tensor_core_supports, implicit_gemm_tensor_core_workspace,
       implicit_gemm_tensor_core_run},
      {"implicit_gemm", implicit_gemm_supports, implicit_gemm_workspace, implicit_gemm_run},
      {"reduction", reduction_supports, reduction_workspace, reduction_run},
      {"fold", fold_supports, nullptr, fold_run},
  }};
  return kAlgorithms;
}

}  // namespace convops
