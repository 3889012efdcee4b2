// The algorithms of the convolution on CUDA, one per .cu file (the implicit product has one file per dtype and
// depthwise one per kind of kernel, to build in parallel).
#pragma once

#include "common/algorithm.h"

namespace convops {

bool few_channels_supports(const Conv2dProblem& problem);
int64_t few_channels_workspace(const Conv2dProblem& problem);
void few_channels_run(const Conv2dProblem& problem, const Conv2dArguments& arguments);

bool depthwise_supports(const Conv2dProblem& problem);
int64_t depthwise_workspace(const Conv2dProblem& problem);
void depthwise_run(const Conv2dProblem& problem, const Conv2dArguments& arguments);

bool implicit_gemm_wgmma_supports(const Conv2dProblem& problem);
int64_t implicit_gemm_wgmma_workspace(const Conv2dProblem& problem);
double implicit_gemm_wgmma_cost(const Conv2dProblem& problem);
void implicit_gemm_wgmma_run(const Conv2dProblem& problem, const Conv2dArguments& arguments);

bool implicit_gemm_tensor_core_supports(const Conv2dProblem& problem);
int64_t implicit_gemm_tensor_core_workspace(const Conv2dProblem& problem);
void implicit_gemm_tensor_core_run(const Conv2dProblem& problem, const Conv2dArguments& arguments);
void implicit_gemm_tensor_core_bfloat16(const Conv2dProblem& problem, const Conv2dArguments& arguments);
void implicit_gemm_tensor_core_float16(const Conv2dProblem& problem, const Conv2dArguments& arguments);
void implicit_gemm_tensor_core_tf32(const Conv2dProblem& problem, const Conv2dArguments& arguments);

bool implicit_gemm_supports(const Conv2dProblem& problem);
int64_t implicit_gemm_workspace(const Conv2dProblem& problem);
void implicit_gemm_run(const Conv2dProblem& problem, const Conv2dArguments& arguments);

bool reduction_supports(const Conv2dProblem& problem);
int64_t reduction_workspace(const Conv2dProblem& problem);
void reduction_run(const Conv2dProblem& problem, const Conv2dArguments& arguments);

bool fold_supports(const Conv2dProblem& problem);
void fold_run(const Conv2dProblem& problem, const Conv2dArguments& arguments);

}  // namespace convops
