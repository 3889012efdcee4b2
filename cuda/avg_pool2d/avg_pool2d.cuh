// The algorithms of average-pooling on CUDA, one per .cu file.
#pragma once

#include "common/algorithm.h"

namespace convops {

bool avg_pool2d_global_supports(const AvgPool2dProblem& problem);
void avg_pool2d_global_run(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments);
bool avg_pool2d_direct_supports(const AvgPool2dProblem& problem);
void avg_pool2d_direct_run(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments);

}  // namespace convops
