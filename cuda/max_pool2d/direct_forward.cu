// Max-pooling for every geometry: one thread for each output, or for 16 bytes of channels or of pixels under it.
#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/pixel_run.cuh"
#include "../common/pooling.cuh"
#include "max_pool2d.cuh"
#include "maximum.cuh"

namespace convops {

namespace {

// output(n, c, p, q) = the largest pixel of the window, offsets(n, c, p, q) = its tap r * S + s. A window without a
// pixel gives the lowest value and its first tap at or behind the image's edge. Its floor is the input, the output and
// the offsets once each.
template <typename scalar_t, typename Geometry, int kVector, int kKernel>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_forward_kernel(
    const Geometry geometry, const scalar_t* __restrict__ input, scalar_t* __restrict__ output,
    const SavedOffsets offsets) {
  using index_t = typename Geometry::index_t;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const scalar_t* plane = input + at.n * geometry.input.n + at.c * kVector * geometry.input.c;
    RunningMaximum<scalar_t, kVector> maximum;
    const int32_t first =
        static_cast<int32_t>(geometry.h.first_tap(at.h) * geometry.w.kernel + geometry.w.first_tap(at.w));
#pragma unroll
    for (int v = 0; v < kVector; ++v) maximum.start(v, first);
    for_each_tap<kKernel>(geometry, at.h, at.w, [&](index_t r, index_t s, index_t offset) {
      const auto x = Vector<scalar_t, kVector>::load(plane + offset);
      const int32_t tap = static_cast<int32_t>(r * (kKernel > 0 ? kKernel : geometry.w.kernel) + s);
#pragma unroll
      for (int v = 0; v < kVector; ++v) maximum.take(v, x[v], tap);
    });
    maximum.store(output + index * kVector);
    offsets.store<kVector>(static_cast<int64_t>(index) * kVector, maximum.taps);
  });
}

// The same for a run of outputs: a pixel beyond the image is the lowest value, which no window takes.
template <typename scalar_t, typename Geometry, typename Run>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_forward_runs_kernel(
    const Geometry geometry, const scalar_t* __restrict__ input, scalar_t* __restrict__ output,
    const SavedOffsets offsets) {
  using index_t = typename Geometry::index_t;
  constexpr int kOutputs = Run::kOutputs, kKernel = Run::kKernel;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const scalar_t* plane = input + at.n * geometry.input.n + at.c * geometry.input.c;
    RunningMaximum<scalar_t, kOutputs> maximum;
    const int32_t first = static_cast<int32_t>(geometry.h.first_tap(at.h) * kKernel);
#pragma unroll
    for (int v = 0; v < kOutputs; ++v) maximum.start(v, first + (v == 0 && at.w == 0 ? Run::kPad : 0));
    typename Run::template Pixels<scalar_t> pixels;
    Run::load_pixels(geometry, plane, at, lowest<scalar_t>(), pixels);
#pragma unroll
    for (int tap = 0; tap < kKernel * kKernel; ++tap) {
#pragma unroll
      for (int v = 0; v < kOutputs; ++v) maximum.take(v, pixels[tap / kKernel][2 * v + tap % kKernel], tap);
    }
    maximum.store(output + index * kOutputs);
    offsets.store<kOutputs>(static_cast<int64_t>(index) * kOutputs, maximum.taps);
  });
}

}  // namespace

void max_pool2d_direct_forward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  const Pool2dGeometry& geometry = problem.geometry;
  SavedOffsets offsets{};
  if (problem.pass == MaxPool2dPass::forward_with_offsets) {
    dispatch_offsets(geometry, arguments.offsets, [&](auto* to) { offsets.set(to); });
  }
  const bool aligned = is_aligned(arguments.input) && is_aligned(arguments.output) && is_aligned(offsets.bytes);
  dispatch_all("max_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    dispatch_pool<scalar_t>(geometry, aligned, [&](auto type, auto vector) {
      using Geometry = typename decltype(type)::type;
      const scalar_t* input = static_cast<const scalar_t*>(arguments.input);
      scalar_t* output = static_cast<scalar_t*>(arguments.output);
      const bool runs = dispatch_run<scalar_t, Geometry>(geometry, aligned, [&](auto run) {
        const Geometry work(geometry, 0, run.kOutputs);
        launch(
            "max_pool2d", max_pool2d_direct_forward_runs_kernel<scalar_t, Geometry, decltype(run)>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, input, output, offsets);
      });
      if (runs) return;
      const Geometry work(geometry, 0, vector.value);
      dispatch_window<scalar_t, Geometry>(geometry, [&](auto window) {
        launch(
            "max_pool2d", max_pool2d_direct_forward_kernel<scalar_t, Geometry, vector.value, window.value>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, input, output, offsets);
      });
    });
  });
}

}  // namespace convops
