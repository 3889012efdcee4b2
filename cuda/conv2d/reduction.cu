// grad_bias: bias(k) = sum over n, p, q of grad_output(n, k, p, q). Its floor is reading grad_output once.
#include "../common/block_sum.cuh"
#include "../common/image.cuh"
#include "conv2d.cuh"

namespace convops {

namespace {

struct ReductionGeometry {
  int64_t channels, pixels, plane, slice_pixels, channel_blocks;
  int64_t image_step, channel_step, pixel_step;
};

// A block sums kLanes channels over a slice of the pixels, by thread and then by a tree, into partials in acc_t.
template <typename scalar_t, int kLanes>
__global__ void __launch_bounds__(kBlockThreads) conv2d_reduction_grad_bias_kernel(
    const ReductionGeometry geometry, const scalar_t* __restrict__ grad_output,
    accumulator_t<scalar_t>* __restrict__ partials) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t slice = blockIdx.x / geometry.channel_blocks;
  const int64_t channel = (blockIdx.x - slice * geometry.channel_blocks) * kLanes + threadIdx.x % kLanes;
  const int64_t begin = slice * geometry.slice_pixels;
  const int64_t end = geometry.pixels - begin < geometry.slice_pixels ? geometry.pixels : begin + geometry.slice_pixels;
  acc_t sums[1] = {};
  if (channel < geometry.channels) {
    constexpr int kStep = kBlockThreads / kLanes;
    // The pixel's image and place in it are carried along rather than divided out each time.
    const int64_t first = begin + threadIdx.x / kLanes;
    int64_t n = first / geometry.plane, pixel = first - n * geometry.plane;
    const scalar_t* plane = grad_output + channel * geometry.channel_step;
    for (int64_t i = first; i < end; i += kStep) {
      sums[0] += static_cast<acc_t>(plane[n * geometry.image_step + pixel * geometry.pixel_step]);
      for (pixel += kStep; pixel >= geometry.plane; pixel -= geometry.plane) ++n;
    }
  }
  block_sum<kLanes>(sums);
  if (threadIdx.x < kLanes && channel < geometry.channels) partials[slice * geometry.channels + channel] = sums[0];
}

ReductionGeometry reduction_geometry(const Conv2dGeometry& geometry) {
  const int64_t plane = geometry.h.output * geometry.w.output;
  const int64_t blocks = ceil_div(geometry.K, channels_per_block(geometry.channels_last));
  const int64_t pixels = geometry.N * plane;
  return {
      .channels = geometry.K,
      .pixels = pixels,
      .plane = plane,
      .slice_pixels = ceil_div(pixels, pixel_slices(pixels, blocks, geometry.channels_last)),
      .channel_blocks = blocks,
      .image_step = geometry.K * plane,
      .channel_step = geometry.channels_last ? 1 : plane,
      .pixel_step = geometry.channels_last ? geometry.K : 1};
}

int64_t reduction_slices(const ReductionGeometry& work) {
  return work.pixels == 0 ? 1 : ceil_div(work.pixels, work.slice_pixels);
}

}  // namespace

bool reduction_supports(const Conv2dProblem& problem) {
  return problem.pass == Conv2dPass::grad_bias && is_floating(problem.dtype);
}

int64_t reduction_workspace(const Conv2dProblem& problem) {
  const ReductionGeometry work = reduction_geometry(problem.geometry);
  return reduction_slices(work) * work.channels * (problem.dtype == DType::float64 ? 8 : 4);
}

void reduction_run(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const ReductionGeometry work = reduction_geometry(problem.geometry);
  const int64_t slices = reduction_slices(work);
  dispatch_floating("conv2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc_t = accumulator_t<scalar_t>;
    const auto kernel = problem.geometry.channels_last ? conv2d_reduction_grad_bias_kernel<scalar_t, kChannelLanes>
                                                       : conv2d_reduction_grad_bias_kernel<scalar_t, 1>;
    launch(
        "conv2d", kernel, work.channel_blocks * slices, kBlockThreads, 0, arguments.stream, work,
        static_cast<const scalar_t*>(arguments.output), static_cast<acc_t*>(arguments.workspace));
    launch(
        "conv2d", sum_slices_kernel<scalar_t>, blocks_for(work.channels), kBlockThreads, 0, arguments.stream,
        static_cast<const acc_t*>(arguments.workspace), static_cast<scalar_t*>(arguments.bias), work.channels, slices);
  });
}

}  // namespace convops
