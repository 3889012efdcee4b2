// Compiled once per instruction set.
#include "routing.h"
#include "separable.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t, typename offset_t>
void max_pool2d_pass(const MaxPool2dProblem& problem, const MaxPool2dArguments& a) {
  const auto input = static_cast<scalar_t*>(a.input);
  const auto output = static_cast<scalar_t*>(a.output);
  const auto offsets = static_cast<offset_t*>(a.offsets);
  switch (problem.pass) {
    case MaxPool2dPass::forward:
      return max_pool_forward<scalar_t, offset_t, false>(problem.geometry, input, output, offsets);
    case MaxPool2dPass::forward_with_offsets:
      return max_pool_forward<scalar_t, offset_t, true>(problem.geometry, input, output, offsets);
    case MaxPool2dPass::indices: return max_pool_indices<offset_t>(problem.geometry, offsets, a.indices);
    default: break;
  }
  if constexpr (!std::is_integral_v<scalar_t>) {
    if (problem.pass == MaxPool2dPass::grad_input) return max_pool_grad_input(problem.geometry, output, offsets, input);
    return max_pool_gather(problem.geometry, input, offsets, output);
  }
}

template <typename scalar_t>
void max_pool2d_offsets(const MaxPool2dProblem& problem, const MaxPool2dArguments& a) {
  if (problem.geometry.taps() <= kMaxByteTaps) return max_pool2d_pass<scalar_t, uint8_t>(problem, a);
  return max_pool2d_pass<scalar_t, int32_t>(problem, a);
}

void max_pool2d_separable(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  switch (problem.dtype) {
    case DType::float32: return max_pool2d_offsets<float>(problem, arguments);
    case DType::float64: return max_pool2d_offsets<double>(problem, arguments);
    case DType::bfloat16: return max_pool2d_offsets<bfloat16>(problem, arguments);
    case DType::float16: return max_pool2d_offsets<float16>(problem, arguments);
    case DType::uint8: return max_pool2d_offsets<uint8_t>(problem, arguments);
    case DType::int8: return max_pool2d_offsets<int8_t>(problem, arguments);
    case DType::int16: return max_pool2d_offsets<int16_t>(problem, arguments);
    case DType::int32: return max_pool2d_offsets<int32_t>(problem, arguments);
    case DType::int64: return max_pool2d_offsets<int64_t>(problem, arguments);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
