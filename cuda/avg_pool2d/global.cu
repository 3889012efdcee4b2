// Average of whole planes.
#include "../common/dtype.cuh"
#include "../common/plane_reduction.cuh"
#include "../common/pooling.cuh"
#include "avg_pool2d.cuh"

namespace convops {

namespace {

// output(n, c) = sum over h, w of input(n, c, h, w) / divisor. Reads the input once; 8 KB a block of 32 7 x 7
// bfloat16 planes.
template <typename scalar_t, int kLanes, bool kChannelsLast>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_global_forward_kernel(
    const PlaneGeometry geometry, const int64_t divisor, const scalar_t* __restrict__ input,
    scalar_t* __restrict__ output) {
  using acc_t = accumulator_t<scalar_t>;
  reduce_planes<kLanes, kChannelsLast>(
      geometry, acc_t(0), [&](acc_t& sum, int64_t offset, int64_t) { sum += static_cast<acc_t>(input[offset]); },
      [](acc_t a, acc_t b) { return a + b; },
      [&](int64_t plane, acc_t sum) { output[plane] = static_cast<scalar_t>(sum / static_cast<acc_t>(divisor)); });
}

}  // namespace

void avg_pool2d_global_forward(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments) {
  const Pool2dGeometry& geometry = problem.geometry;
  const PlaneGeometry planes{geometry.N * geometry.C, geometry.C, geometry.h.input * geometry.w.input};
  dispatch_floating("avg_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    dispatch_planes(planes, geometry.channels_last, [&](auto lanes, auto channels_last, int64_t blocks) {
      launch(
          "avg_pool2d", avg_pool2d_global_forward_kernel<scalar_t, lanes.value, channels_last.value>, blocks,
          kBlockThreads, 0, arguments.stream, planes, problem.divisor.at(geometry, 0, 0),
          static_cast<const scalar_t*>(arguments.input), static_cast<scalar_t*>(arguments.output));
    });
  });
}

}  // namespace convops
