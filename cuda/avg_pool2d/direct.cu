// Average-pooling for every geometry: one thread for each element of what is written, or for 16 bytes of channels or
// pixels.
#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/pixel_run.cuh"
#include "../common/pooling.cuh"
#include "avg_pool2d.cuh"
#include "divisor.cuh"

namespace convops {

namespace {

// output(n, c, p, q) = sum of the window's pixels / divisor(p, q). Its floor is the input and the output once each;
// overlapping windows read from L1.
template <typename scalar_t, typename Geometry, int kVector, int kKernel>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_forward_kernel(
    const Geometry geometry, const WindowDivisor<typename Geometry::index_t> divisor,
    const scalar_t* __restrict__ input, scalar_t* __restrict__ output) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  using Channels = Vector<scalar_t, kVector>;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const scalar_t* plane = input + at.n * geometry.input.n + at.c * kVector * geometry.input.c;
    acc_t sums[kVector] = {};
    for_each_tap<kKernel>(geometry, at.h, at.w, [&](index_t, index_t, index_t offset) {
      const Channels x = Channels::load(plane + offset);
#pragma unroll
      for (int v = 0; v < kVector; ++v) sums[v] += static_cast<acc_t>(x[v]);
    });
    const acc_t divide_by = divisor.template at<acc_t>(geometry, at.h, at.w);
    Channels result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) result[v] = static_cast<scalar_t>(sums[v] / divide_by);
    result.store(output + index * kVector);
  });
}

// The same for a run of outputs.
template <typename scalar_t, typename Geometry, typename Run>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_forward_runs_kernel(
    const Geometry geometry, const WindowDivisor<typename Geometry::index_t> divisor,
    const scalar_t* __restrict__ input, scalar_t* __restrict__ output) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  constexpr int kOutputs = Run::kOutputs, kKernel = Run::kKernel;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const scalar_t* plane = input + at.n * geometry.input.n + at.c * geometry.input.c;
    acc_t sums[kOutputs] = {};
    typename Run::template Pixels<scalar_t> pixels;
    Run::load_pixels(geometry, plane, at, static_cast<scalar_t>(0.f), pixels);
#pragma unroll
    for (int tap = 0; tap < kKernel * kKernel; ++tap) {
#pragma unroll
      for (int v = 0; v < kOutputs; ++v) sums[v] += static_cast<acc_t>(pixels[tap / kKernel][2 * v + tap % kKernel]);
    }
    Vector<scalar_t, kOutputs> result;
#pragma unroll
    for (int v = 0; v < kOutputs; ++v) {
      result[v] = static_cast<scalar_t>(sums[v] / divisor.template at<acc_t>(geometry, at.h, at.w * kOutputs + v));
    }
    result.store(output + index * kOutputs);
  });
}

// input(n, c, h, w) = sum over the windows (p, q) that cover it of output(n, c, p, q) / divisor(p, q): a gather, so
// that no two threads write to one place. The same floor.
template <typename scalar_t, typename Geometry, int kVector>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_grad_input_kernel(
    const Geometry geometry, const WindowDivisor<typename Geometry::index_t> divisor,
    const scalar_t* __restrict__ grad_output, scalar_t* __restrict__ grad_input) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  using Channels = Vector<scalar_t, kVector>;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const scalar_t* plane = grad_output + at.n * geometry.output.n + at.c * kVector * geometry.output.c;
    acc_t sums[kVector] = {};
    for_each_window(geometry, at.h, at.w, [&](index_t p, index_t q, index_t, index_t, index_t offset) {
      const Channels g = Channels::load(plane + offset);
      const acc_t divide_by = divisor.template at<acc_t>(geometry, p, q);
#pragma unroll
      for (int v = 0; v < kVector; ++v) sums[v] += static_cast<acc_t>(g[v]) / divide_by;
    });
    Channels result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) result[v] = static_cast<scalar_t>(sums[v]);
    result.store(grad_input + index * kVector);
  });
}

// The same for a square of pixels under the same windows: a window's divisor is worked out once for all of them.
template <typename scalar_t, typename Geometry, int kVector, int kKernel, int kStride>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_grad_input_squares_kernel(
    const Geometry geometry, const WindowDivisor<typename Geometry::index_t> divisor,
    const scalar_t* __restrict__ grad_output, scalar_t* __restrict__ grad_input) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  using Channels = Vector<scalar_t, kVector>;
  using Square = PixelSquare<kKernel, kStride>;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const scalar_t* plane = grad_output + at.n * geometry.output.n + at.c * kVector * geometry.output.c;
    acc_t sums[kStride][kStride][kVector] = {};
    Square::for_each_window(geometry, at.h, at.w, [&](int t, int u, index_t p, index_t q, index_t offset) {
      const Channels g = Channels::load(plane + offset);
      const acc_t divide_by = divisor.template at<acc_t>(geometry, p, q);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc_t share = static_cast<acc_t>(g[v]) / divide_by;
        Square::for_each_pixel(t, u, [&](int a, int b, int) { sums[a][b][v] += share; });
      }
    });
    Square::store(geometry, at, sums, grad_input);
  });
}

// The same for a run of pixels in two rows.
template <typename scalar_t, typename Geometry, typename Run>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_grad_input_runs_kernel(
    const Geometry geometry, const WindowDivisor<typename Geometry::index_t> divisor,
    const scalar_t* __restrict__ grad_output, scalar_t* __restrict__ grad_input) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  constexpr int kWindows = Run::kRight + Run::kOutputs + Run::kLeft;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const index_t plane = at.n * geometry.output.n + at.c * geometry.output.c;
    typename Run::template Windows<scalar_t> gradients;
    Run::load_windows(geometry, grad_output + plane, at, static_cast<scalar_t>(0.f), gradients);
    typename Run::template Windows<acc_t> shares;
#pragma unroll
    for (int t = 0; t < Run::kReach; ++t) {
#pragma unroll
      for (int v = 0; v < kWindows; ++v) {
        const index_t p = at.h - t, q = at.w * Run::kOutputs + v - Run::kRight;
        const bool exists = p >= 0 && p < geometry.h.output && q >= 0 && q < geometry.w.output;
        const acc_t divide_by = divisor.template at<acc_t>(geometry, p, q);
        shares[t][v] = exists ? static_cast<acc_t>(gradients[t][v]) / divide_by : 0;
      }
    }
    acc_t sums[2][Run::kPixels] = {};
    Run::for_each_pixel([&](int t, int v, int a, int b, int) { sums[a][b] += shares[t][v]; });
    Run::store(geometry, at, sums, grad_input);
  });
}

template <typename scalar_t, typename Geometry, int kVector, int kKernel, int kStride>
void launch_squares(
    PixelSquare<kKernel, kStride>, const AvgPool2dProblem& problem, const scalar_t* grad_output, scalar_t* grad_input,
    void* stream) {
  const Geometry work(problem.geometry, kStride, kVector);
  launch(
      "avg_pool2d", avg_pool2d_direct_grad_input_squares_kernel<scalar_t, Geometry, kVector, kKernel, kStride>,
      blocks_for(work.work_count), kBlockThreads, 0, stream, work,
      WindowDivisor<typename Geometry::index_t>(problem.divisor), grad_output, grad_input);
}

}  // namespace

void avg_pool2d_direct_run(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments) {
  const Pool2dGeometry& geometry = problem.geometry;
  const bool forward = problem.pass == AvgPool2dPass::forward;
  const bool aligned = is_aligned(arguments.input) && is_aligned(arguments.output);
  dispatch_floating("avg_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    scalar_t* input = static_cast<scalar_t*>(arguments.input);
    scalar_t* output = static_cast<scalar_t*>(arguments.output);
    dispatch_pool<scalar_t>(geometry, aligned, [&](auto type, auto vector) {
      using Geometry = typename decltype(type)::type;
      const WindowDivisor<typename Geometry::index_t> divisor(problem.divisor);
      if (!forward) {
        const bool runs = dispatch_run<scalar_t, Geometry>(geometry, aligned, [&](auto run) {
          const Geometry work(geometry, 2, run.kOutputs);
          launch(
              "avg_pool2d", avg_pool2d_direct_grad_input_runs_kernel<scalar_t, Geometry, decltype(run)>,
              blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, divisor, output, input);
        });
        if (runs) return;
        const bool squares = dispatch_square<Geometry>(geometry, [&](auto square) {
          launch_squares<scalar_t, Geometry, vector.value>(square, problem, output, input, arguments.stream);
        });
        if (squares) return;
        const Geometry work(geometry, 1, vector.value);
        return launch(
            "avg_pool2d", avg_pool2d_direct_grad_input_kernel<scalar_t, Geometry, vector.value>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, divisor, output, input);
      }
      const bool runs = dispatch_run<scalar_t, Geometry>(geometry, aligned, [&](auto run) {
        const Geometry work(geometry, 0, run.kOutputs);
        launch(
            "avg_pool2d", avg_pool2d_direct_forward_runs_kernel<scalar_t, Geometry, decltype(run)>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, divisor, input, output);
      });
      if (runs) return;
      const Geometry work(geometry, 0, vector.value);
      dispatch_window<scalar_t, Geometry>(geometry, [&](auto window) {
        launch(
            "avg_pool2d", avg_pool2d_direct_forward_kernel<scalar_t, Geometry, vector.value, window.value>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, divisor, input, output);
      });
    });
  });
}

}  // namespace convops
