// Average-pooling for every geometry: one thread for each element, or 16 bytes of channels, of what is written.
#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/pooling.cuh"
#include "avg_pool2d.cuh"

namespace convops {

namespace {

// AvgPool2dDivisor in the index type of a kernel.
template <typename index_t>
struct WindowDivisor {
  bool count_include_pad;
  int64_t override_;

  __device__ index_t counted(const WindowAxis<index_t>& axis, index_t o) const {
    const index_t end = axis.input + (count_include_pad ? axis.pad_upper : 0) - axis.start(o);
    const index_t taps = axis.dilation == 1 ? end : (end + axis.dilation - 1) / axis.dilation;
    const index_t last = taps < axis.kernel ? taps : axis.kernel;
    return count_include_pad ? last : last - axis.first_tap(o);
  }
  template <typename acc_t>
  __device__ acc_t at(const PoolGeometry<index_t>& geometry, index_t p, index_t q) const {
    if (override_ != 0) return static_cast<acc_t>(override_);
    return static_cast<acc_t>(static_cast<int64_t>(counted(geometry.h, p)) * counted(geometry.w, q));
  }
};

// output(n, c, p, q) = sum of the window's pixels / divisor(p, q). Its floor is the input and the output once each;
// overlapping windows read from L1.
template <typename scalar_t, typename index_t, int kVector, int kKernel>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_forward_kernel(
    const PoolGeometry<index_t> geometry, const WindowDivisor<index_t> divisor, const scalar_t* __restrict__ input,
    scalar_t* __restrict__ output) {
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

// input(n, c, h, w) = sum over the windows (p, q) that cover it of output(n, c, p, q) / divisor(p, q): a gather, so
// that no two threads write to one place. The same floor.
template <typename scalar_t, typename index_t, int kVector>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_grad_input_kernel(
    const PoolGeometry<index_t> geometry, const WindowDivisor<index_t> divisor,
    const scalar_t* __restrict__ grad_output, scalar_t* __restrict__ grad_input) {
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
template <typename scalar_t, typename index_t, int kVector, int kKernel, int kStride>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_direct_grad_input_squares_kernel(
    const PoolGeometry<index_t> geometry, const WindowDivisor<index_t> divisor,
    const scalar_t* __restrict__ grad_output, scalar_t* __restrict__ grad_input) {
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

template <typename scalar_t, typename index_t, int kVector, int kKernel, int kStride>
void launch_squares(
    PixelSquare<kKernel, kStride>, const Pool2dGeometry& geometry, const WindowDivisor<index_t>& divisor,
    const scalar_t* grad_output, scalar_t* grad_input, void* stream) {
  const PoolGeometry<index_t> work(geometry, kStride, kVector);
  launch(
      "avg_pool2d", avg_pool2d_direct_grad_input_squares_kernel<scalar_t, index_t, kVector, kKernel, kStride>,
      blocks_for(work.work_count), kBlockThreads, 0, stream, work, divisor, grad_output, grad_input);
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
    dispatch_pool<scalar_t>(geometry, aligned, [&](auto index, auto vector) {
      using index_t = decltype(index);
      const WindowDivisor<index_t> divisor{problem.divisor.count_include_pad, problem.divisor.override_};
      if (!forward) {
        const bool squares = dispatch_square<index_t>(geometry, [&](auto square) {
          launch_squares<scalar_t, index_t, vector.value>(square, geometry, divisor, output, input, arguments.stream);
        });
        if (squares) return;
        const PoolGeometry<index_t> work(geometry, 1, vector.value);
        return launch(
            "avg_pool2d", avg_pool2d_direct_grad_input_kernel<scalar_t, index_t, vector.value>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, divisor, output, input);
      }
      const PoolGeometry<index_t> work(geometry, 0, vector.value);
      dispatch_window<scalar_t, index_t>(geometry, [&](auto window) {
        launch(
            "avg_pool2d", avg_pool2d_direct_forward_kernel<scalar_t, index_t, vector.value, window.value>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, divisor, input, output);
      });
    });
  });
}

}  // namespace convops
