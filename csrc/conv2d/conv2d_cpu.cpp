// The CPU's algorithms for conv2d.
#include "../common/algorithm.h"
#include "../common/cpu.h"
#include "conv2d_cost.h"

namespace convops {

#ifdef __x86_64__
CONVOPS_DECLARE_KERNEL(amx, conv2d_implicit_gemm_amx, Conv2dProblem, Conv2dArguments)
#endif
CONVOPS_CPU_KERNEL(conv2d_implicit_gemm, Conv2dProblem, Conv2dArguments)
CONVOPS_CPU_KERNEL(conv2d_planar_gemm, Conv2dProblem, Conv2dArguments)
CONVOPS_CPU_KERNEL(conv2d_pointwise, Conv2dProblem, Conv2dArguments)
CONVOPS_CPU_KERNEL_UP_TO(amx, conv2d_depthwise, Conv2dProblem, Conv2dArguments)
CONVOPS_CPU_KERNEL(conv2d_grouped, Conv2dProblem, Conv2dArguments)
CONVOPS_CPU_KERNEL(conv2d_winograd, Conv2dProblem, Conv2dArguments)
CONVOPS_CPU_KERNEL(conv2d_grad_bias_kernel, Conv2dProblem, Conv2dArguments)
CONVOPS_CPU_KERNEL(conv2d_fold, Conv2dProblem, Conv2dArguments)

// Vectors of channels need one filter a channel. Planes take any number, but with many the filters are worth
// vectorising over, which implicit_gemm does.
static bool is_depthwise(const Conv2dProblem& problem) {
  const Conv2dGeometry& g = problem.geometry;
  return is_contraction(problem.pass) && g.channels_per_group() == 1 &&
         g.filters_per_group() <= (g.channels_last ? 1 : 4);
}

std::span<const Conv2dAlgorithm> conv2d_cpu_algorithms() {
  static constexpr Conv2dAlgorithm algorithms[] = {
#ifdef __x86_64__
      // Even tiles that few channels leave almost empty are faster than vectors of float32.
      {"implicit_gemm_amx",
       [](const Conv2dProblem& problem) {
         return is_contraction(problem.pass) && problem.dtype == DType::bfloat16 && problem.geometry.C > 0 &&
                !is_depthwise(problem);
       },
       nullptr, amx::conv2d_implicit_gemm_amx},
#endif
      {"depthwise", is_depthwise, nullptr, conv2d_depthwise},
      {"implicit_gemm", [](const Conv2dProblem& problem) { return is_contraction(problem.pass); }, nullptr,
       conv2d_implicit_gemm, implicit_gemm_cost},
      {"planar_gemm", [](const Conv2dProblem& problem) { return is_contraction(problem.pass); }, nullptr,
       conv2d_planar_gemm, planar_gemm_cost},
      // Bands of rows are gathered with all channels of a group, so there must be few.
      {"grouped",
       [](const Conv2dProblem& problem) {
         constexpr int64_t kFewChannels = 64;
         const Conv2dGeometry& g = problem.geometry;
         return is_contraction(problem.pass) && g.groups > 1 && g.C > 0 && g.channels_per_group() <= kFewChannels &&
                g.filters_per_group() <= kFewChannels;
       },
       nullptr, conv2d_grouped, grouped_cost},
      // Contiguous images are planar_gemm's but for grad_weight.
      {"pointwise",
       [](const Conv2dProblem& problem) {
         const Conv2dGeometry& g = problem.geometry;
         const auto fits = [](const Axis& axis) {
           return axis.kernel == 1 && axis.pad_lower == 0 && axis.pad_upper == 0;
         };
         return is_contraction(problem.pass) && fits(g.h) && fits(g.w) && g.C > 0 &&
                (g.channels_last || problem.pass == Conv2dPass::grad_weight);
       },
       nullptr, conv2d_pointwise, pointwise_cost},
      {"winograd",
       [](const Conv2dProblem& problem) {
         const Conv2dGeometry& g = problem.geometry;
         const int64_t taps = winograd_taps(g);
         return is_contraction(problem.pass) && problem.dtype == DType::float32 && g.h.dilation == 1 &&
                g.w.dilation == 1 && taps > 1 && taps < kWinogradPoints && g.C > 0;
       },
       nullptr, conv2d_winograd, winograd_cost},
      {"reduction", [](const Conv2dProblem& problem) { return problem.pass == Conv2dPass::grad_bias; }, nullptr,
       conv2d_grad_bias_kernel},
      {"fold", [](const Conv2dProblem& problem) { return problem.pass == Conv2dPass::fold; }, nullptr, conv2d_fold},
  };
#ifdef __x86_64__
  if (cpu_isa() < Isa::amx) return std::span(algorithms).subspan(1);  // without implicit_gemm_amx
#endif
  return algorithms;
}

}  // namespace convops
