// Convolutions of few channels on tensor cores: what they take.
#include "few_channels.cuh"

namespace convops {

bool few_channels_supports(const Conv2dProblem& problem) {
  const Conv2dGeometry& geometry = problem.geometry;
  const bool dtype = problem.dtype == DType::bfloat16 || problem.dtype == DType::float16 ||
                     (problem.dtype == DType::float32 && problem.allow_tf32);
  // One filter of one channel is depthwise; beyond 256 filters reading the image anew for 64 at a time loses.
  if (!dtype || geometry.groups != 1 || geometry.C < 1 || geometry.C > kSlot || geometry.K > 256 ||
      geometry.C * geometry.K == 1) {
    return false;
  }
  // Half of a block's warps would have no outputs.
  if (geometry.h.output * geometry.w.output < kBlockThreads / 2) return false;
  // An image has 32 bits for its elements, a tile for all of its coordinates.
  constexpr int64_t kMost = int64_t{1} << 30, kMostPixels = int64_t{1} << 24, kMostExtent = 8192;
  for (const Axis* axis : {&geometry.h, &geometry.w}) {
    const Axis used = without_unused_steps(*axis);
    if (used.padded() >= kMostPixels || used.extent() > kMostExtent) return false;
  }
  const int64_t input = geometry.C * geometry.h.input * geometry.w.input;
  const int64_t output = geometry.K * geometry.h.output * geometry.w.output;
  if (input >= kMost || output >= kMost || geometry.weight_numel() >= kMost) return false;
  if (geometry.N * geometry.h.output * geometry.w.output >= kMost) return false;
  // Tiles of larger windows, as those that cut an image into patches have, hold few outputs.
  constexpr int64_t kMostTaps = 128;
  if (geometry.h.kernel * ceil_div(geometry.w.kernel, kSlot / geometry.C) > kMostTaps) return false;
  FewChannels few{};
  switch (problem.pass) {
    case Conv2dPass::forward: return few_channels_plan_forward(problem, few);
    case Conv2dPass::grad_weight: return few_channels_plan_grad_weight(problem, few);
    default: return false;
  }
}

int64_t few_channels_workspace(const Conv2dProblem& problem) {
  FewChannels few{};
  if (problem.pass != Conv2dPass::grad_weight || !few_channels_plan_grad_weight(problem, few)) return 0;
  return few_channels_slices(few) * problem.geometry.weight_numel() * static_cast<int64_t>(sizeof(float));
}

void few_channels_run(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  if (problem.pass == Conv2dPass::forward) return few_channels_forward(problem, arguments);
  few_channels_grad_weight(problem, arguments);
}

}  // namespace convops
