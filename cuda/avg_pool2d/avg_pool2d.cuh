// The algorithms of average-pooling on CUDA, one per .cu file.
#pragma once

#include "common/algorithm.h"

namespace convops {

void avg_pool2d_global_forward(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments);
void avg_pool2d_separable_run(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments);
int64_t avg_pool2d_separable_workspace(const AvgPool2dProblem& problem);
void avg_pool2d_direct_run(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments);

}  // namespace convops
