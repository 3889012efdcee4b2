// Compiled once per instruction set.
#include "direct.h"
#include "direct_gradient.h"
#include "global.h"
#include "routing.h"
#include "separable.h"

namespace convops {
namespace CONVOPS_ISA {

// Calls run<scalar_t>().
template <typename Run>
void with_types(const MaxPool2dProblem& problem, const Run& run) {
  switch (problem.dtype) {
    case DType::float32: return run.template operator()<float>();
    case DType::float64: return run.template operator()<double>();
    case DType::bfloat16: return run.template operator()<bfloat16>();
    case DType::float16: return run.template operator()<float16>();
    case DType::uint8: return run.template operator()<uint8_t>();
    case DType::int8: return run.template operator()<int8_t>();
    case DType::int16: return run.template operator()<int16_t>();
    case DType::int32: return run.template operator()<int32_t>();
    case DType::int64: return run.template operator()<int64_t>();
  }
}

// Defines the forward passes of an algorithm.
#define CONVOPS_DEFINE_FORWARD(name, function)                                 \
  void name(const MaxPool2dProblem& problem, const MaxPool2dArguments& a) {    \
    with_types(problem, [&]<typename scalar_t>() {                             \
      const auto input = static_cast<const scalar_t*>(a.input);                \
      const auto output = static_cast<scalar_t*>(a.output);                    \
      if (problem.pass == MaxPool2dPass::forward) {                            \
        function<scalar_t, false>(problem.geometry, input, output, a.offsets); \
      } else {                                                                 \
        function<scalar_t, true>(problem.geometry, input, output, a.offsets);  \
      }                                                                        \
    });                                                                        \
  }

CONVOPS_DEFINE_FORWARD(max_pool2d_global, global_max_pool)
CONVOPS_DEFINE_FORWARD(max_pool2d_direct, direct_max_pool)
CONVOPS_DEFINE_FORWARD(max_pool2d_separable, separable_max_pool)

template <typename scalar_t, typename offset_t>
void follow_offsets(const MaxPool2dProblem& problem, const MaxPool2dArguments& a) {
  const auto input = static_cast<scalar_t*>(a.input);
  const auto output = static_cast<scalar_t*>(a.output);
  const auto offsets = static_cast<const offset_t*>(a.offsets);
  if (problem.pass == MaxPool2dPass::indices) {
    max_pool_indices(problem.geometry, offsets, a.indices);
  } else if constexpr (!std::is_integral_v<scalar_t>) {
    if (problem.pass == MaxPool2dPass::gather) {
      max_pool_gather(problem.geometry, input, offsets, output);
    } else if (problem.geometry.is_global()) {
      global_max_pool_grad_input(problem.geometry, output, offsets, input);
    } else if (has_direct_gradient(problem.geometry)) {
      // Small windows have offsets of one byte.
      if constexpr (sizeof(offset_t) == 1) direct_grad_input(problem.geometry, output, offsets, input);
    } else {
      max_pool_grad_input(problem.geometry, output, offsets, input);
    }
  }
}

// The passes that follow saved offsets.
void max_pool2d_routing(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  with_types(problem, [&]<typename scalar_t>() {
    if (problem.geometry.taps() <= kMaxByteTaps) return follow_offsets<scalar_t, uint8_t>(problem, arguments);
    follow_offsets<scalar_t, int32_t>(problem, arguments);
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
