// fold: image(n, c, i, j) = bias(c) + sum over the positions (h, w) of the padded image that show the pixel (i, j).
//
// Its floor is memory: the padded image and the image once each. A thread gathers one pixel, or one vector of channels
// of it: lanes are neighbours in memory, in both images but for the ends of rows. All but the pixels near an edge (with
// a circular border, near the other one) are shown once. The positions of a pixel are added in order.
#include "../common/dtype.cuh"
#include "../common/image.cuh"
#include "../common/launch.cuh"
#include "../common/vector.cuh"
#include "conv2d.cuh"

namespace convops {

namespace {

template <typename index_t>
struct FoldGeometry {
  Axis h, w;
  ImageSteps<index_t> padded;
  // Decodes one thread's work: a pixel and a vector of channels of the image.
  ImageIndex<index_t> work;
  index_t work_count;
};

// `origin` is the padded image's position (0, 0): the first pixel of the image in it.
template <typename scalar_t, typename index_t, int kVector>
__global__ void __launch_bounds__(kBlockThreads) conv2d_fold_kernel(
    const FoldGeometry<index_t> geometry, const scalar_t* __restrict__ origin, const scalar_t* __restrict__ bias,
    scalar_t* __restrict__ image) {
  using acc_t = accumulator_t<scalar_t>;
  using Channels = Vector<scalar_t, kVector>;
  const ImageSteps<index_t>& steps = geometry.padded;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const index_t channel = at.c * kVector;
    const scalar_t* from = origin + at.n * steps.n + channel * steps.c;
    acc_t sums[kVector] = {};
    geometry.h.for_each_position(at.h, [&](int64_t h) {
      geometry.w.for_each_position(at.w, [&](int64_t w) {
        const Channels x = Channels::load(from + static_cast<index_t>(h) * steps.h + static_cast<index_t>(w) * steps.w);
#pragma unroll
        for (int v = 0; v < kVector; ++v) sums[v] += static_cast<acc_t>(x[v]);
      });
    });
    Channels result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (bias != nullptr) sums[v] += static_cast<acc_t>(bias[channel + v]);
      result[v] = static_cast<scalar_t>(sums[v]);
    }
    result.store(image + index * kVector);
  });
}

template <typename scalar_t, typename index_t, int kVector>
void run(const Conv2dGeometry& geometry, const Conv2dArguments& arguments) {
  const Axis &h = geometry.h, &w = geometry.w;
  const int64_t count = geometry.input_numel() / kVector;
  const FoldGeometry<index_t> work{
      .h = h,
      .w = w,
      .padded = {geometry.channels_last, geometry.C, h.padded(), w.padded()},
      .work = {geometry.channels_last, geometry.C / kVector, h.input, w.input},
      .work_count = static_cast<index_t>(count)};
  const scalar_t* origin =
      static_cast<const scalar_t*>(arguments.output) + h.pad_lower * work.padded.h + w.pad_lower * work.padded.w;
  launch(
      "conv2d", conv2d_fold_kernel<scalar_t, index_t, kVector>, blocks_for(count), kBlockThreads, 0, arguments.stream,
      work, origin, static_cast<const scalar_t*>(arguments.bias), static_cast<scalar_t*>(arguments.input));
}

}  // namespace

bool fold_supports(const Conv2dProblem& problem) {
  return problem.pass == Conv2dPass::fold && is_floating(problem.dtype);
}

void fold_run(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const Conv2dGeometry& geometry = problem.geometry;
  dispatch_floating("conv2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    constexpr int kVector = kVectorBytes / sizeof(scalar_t);
    const bool vector = geometry.channels_last && geometry.C % kVector == 0 && is_aligned(arguments.input) &&
                        is_aligned(arguments.output);
    dispatch_index(
        geometry,
        [&](auto index) {
          using index_t = decltype(index);
          return vector ? run<scalar_t, index_t, kVector>(geometry, arguments)
                        : run<scalar_t, index_t, 1>(geometry, arguments);
        },
        geometry.N * geometry.C * geometry.h.padded() * geometry.w.padded());
  });
}

}  // namespace convops
