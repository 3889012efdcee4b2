// Compiled once per instruction set.
#include "direct.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void direct_unpool(const MaxUnpool2dProblem& problem, const MaxUnpool2dArguments& a) {
  const auto pooled = static_cast<scalar_t*>(a.pooled);
  const auto image = static_cast<scalar_t*>(a.image);
  switch (problem.pass) {
    case MaxUnpool2dPass::gather: return unpool_gather(problem.geometry, image, a.indices, pooled);
    case MaxUnpool2dPass::scatter_add:
      return unpool_scatter<scalar_t, Compute<scalar_t>, true>(problem.geometry, pooled, a.indices, image);
    default: return unpool_scatter<scalar_t, scalar_t, false>(problem.geometry, pooled, a.indices, image);
  }
}

void max_unpool2d_direct(const MaxUnpool2dProblem& problem, const MaxUnpool2dArguments& arguments) {
  switch (problem.dtype) {
    case DType::float32: return direct_unpool<float>(problem, arguments);
    case DType::float64: return direct_unpool<double>(problem, arguments);
    case DType::bfloat16: return direct_unpool<bfloat16>(problem, arguments);
    case DType::float16: return direct_unpool<float16>(problem, arguments);
    case DType::uint8: return direct_unpool<uint8_t>(problem, arguments);
    case DType::int8: return direct_unpool<int8_t>(problem, arguments);
    case DType::int16: return direct_unpool<int16_t>(problem, arguments);
    case DType::int32: return direct_unpool<int32_t>(problem, arguments);
    case DType::int64: return direct_unpool<int64_t>(problem, arguments);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
