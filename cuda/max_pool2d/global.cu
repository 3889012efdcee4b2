// Maximum of whole planes.
#include "../common/dtype.cuh"
#include "../common/plane_reduction.cuh"
#include "../common/pooling.cuh"
#include "max_pool2d.cuh"

namespace convops {

namespace {

template <typename value_t>
struct Maximum {
  value_t value;
  int32_t tap;

  // Threads see taps out of order, so the rule of the direct kernel in terms of taps: of NaNs the last, else of
  // equals the first.
  __device__ static Maximum combine(const Maximum& a, const Maximum& b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan || b_nan) return b_nan && (!a_nan || b.tap > a.tap) ? b : a;
    if (a.value == b.value) return a.tap < b.tap ? a : b;
    return a.value > b.value ? a : b;
  }
};

// output(n, c) = max over h, w of input(n, c, h, w), and the pixel h * W + w where it is. Reads the input once.
template <typename scalar_t, int kLanes, bool kChannelsLast>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_global_forward_kernel(
    const PlaneGeometry geometry, const scalar_t* __restrict__ input, scalar_t* __restrict__ output,
    uint8_t* __restrict__ byte_offsets, int32_t* __restrict__ offsets) {
  using Best = Maximum<decltype(comparable(scalar_t()))>;
  reduce_planes<kLanes, kChannelsLast>(
      geometry, Best{comparable(lowest<scalar_t>()), 0},
      [&](Best& best, int64_t offset, int64_t pixel) {
        best = Best::combine(best, {comparable(input[offset]), static_cast<int32_t>(pixel)});
      },
      Best::combine,
      [&](int64_t plane, const Best& best) {
        output[plane] = static_cast<scalar_t>(best.value);
        if (byte_offsets != nullptr) byte_offsets[plane] = static_cast<uint8_t>(best.tap);
        if (offsets != nullptr) offsets[plane] = best.tap;
      });
}

}  // namespace

void max_pool2d_global_forward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  const Pool2dGeometry& geometry = problem.geometry;
  const PlaneGeometry planes{geometry.N * geometry.C, geometry.C, geometry.h.input * geometry.w.input};
  const bool saves = problem.pass == MaxPool2dPass::forward_with_offsets, bytes = geometry.taps() <= kMaxByteTaps;
  dispatch_all("max_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    dispatch_planes(planes, geometry.channels_last, [&](auto lanes, auto channels_last, int64_t blocks) {
      launch(
          "max_pool2d", max_pool2d_global_forward_kernel<scalar_t, lanes.value, channels_last.value>, blocks,
          kBlockThreads, 0, arguments.stream, planes, static_cast<const scalar_t*>(arguments.input),
          static_cast<scalar_t*>(arguments.output), saves && bytes ? static_cast<uint8_t*>(arguments.offsets) : nullptr,
          saves && !bytes ? static_cast<int32_t*>(arguments.offsets) : nullptr);
    });
  });
}

}  // namespace convops
