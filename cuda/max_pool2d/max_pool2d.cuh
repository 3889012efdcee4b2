// The algorithms of max-pooling on CUDA, by pass, and the rule that they share.
#pragma once

#include "common/algorithm.h"

namespace convops {

void max_pool2d_global_forward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments);
void max_pool2d_separable_forward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments);
int64_t max_pool2d_separable_workspace(const MaxPool2dProblem& problem);
void max_pool2d_direct_forward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments);
// The passes that follow saved offsets: grad_input, gather, indices.
void max_pool2d_direct_backward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments);

// Offsets as bytes or as int32: calls function(offset_t*).
template <typename Function>
void dispatch_offsets(const Pool2dGeometry& geometry, void* offsets, const Function& function) {
  if (geometry.taps() <= kMaxByteTaps) {
    function(static_cast<uint8_t*>(offsets));
  } else {
    function(static_cast<int32_t*>(offsets));
  }
}

}  // namespace convops
