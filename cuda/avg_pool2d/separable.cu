// Average-pooling with large windows: the sums of rows, then of those down columns. Sums are in the accumulator type,
// each of its own window's pixels alone: no running sum is carried on, since what leaves a window would have to be
// subtracted, and a NaN cannot be.
#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/separable.cuh"
#include "avg_pool2d.cuh"
#include "divisor.cuh"

namespace convops {

namespace {

// output = the sum of the line of pixels that is the window of a pass, or with kAverage that divided by divisor(p, q).
// The floor of both passes is the input, the output and twice the image between them; overlapping windows read from
// L1.
template <typename in_t, typename out_t, typename Pass, int kVector, bool kAverage>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_separable_sum_kernel(
    const Pass pass, const WindowDivisor<typename Pass::index_t> divisor, const in_t* __restrict__ input,
    out_t* __restrict__ output) {
  using index_t = typename Pass::index_t;
  using acc_t = accumulator_t<in_t>;
  grid_stride_loop(pass.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = pass.work(index);
    const index_t plane = pass.plane(at, kVector);
    acc_t sums[kVector] = {};
    pass.for_each_tap(at, [&](index_t, index_t pixel) {
      const auto x = Vector<in_t, kVector>::load(input + plane + pixel);
#pragma unroll
      for (int v = 0; v < kVector; ++v) sums[v] += static_cast<acc_t>(x[v]);
    });
    acc_t divide_by = 1;
    if constexpr (kAverage) divide_by = divisor.template at<acc_t>(pass, at.h, at.w);
    Vector<out_t, kVector> result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) result[v] = static_cast<out_t>(kAverage ? sums[v] / divide_by : sums[v]);
    result.store(output + index * kVector);
  });
}

// shares(n, c, p, q) = output(n, c, p, q) / divisor(p, q), what each pixel of the window gets of the gradient.
template <typename scalar_t, typename Geometry, int kVector>
__global__ void __launch_bounds__(kBlockThreads) avg_pool2d_separable_share_kernel(
    const Geometry geometry, const WindowDivisor<typename Geometry::index_t> divisor,
    const scalar_t* __restrict__ grad_output, accumulator_t<scalar_t>* __restrict__ shares) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const acc_t divide_by = divisor.template at<acc_t>(geometry, at.h, at.w);
    const auto g = Vector<scalar_t, kVector>::load(grad_output + index * kVector);
    Vector<acc_t, kVector> share;
#pragma unroll
    for (int v = 0; v < kVector; ++v) share[v] = static_cast<acc_t>(g[v]) / divide_by;
    share.store(shares + index * kVector);
  });
}

int64_t accumulator_bytes(const AvgPool2dProblem& problem, int64_t numel) {
  const int64_t bytes = problem.dtype == DType::float64 ? sizeof(double) : sizeof(float);
  return ceil_div(numel * bytes, 256) * 256;
}

}  // namespace

int64_t avg_pool2d_separable_workspace(const AvgPool2dProblem& problem) {
  const Pool2dGeometry& geometry = problem.geometry;
  if (problem.pass == AvgPool2dPass::forward) return accumulator_bytes(problem, separable_numel(geometry));
  if (!geometry.has_transposed()) return 0;
  return accumulator_bytes(problem, geometry.output_numel()) +
         accumulator_bytes(problem, separable_numel(geometry.transposed()));
}

void avg_pool2d_separable_run(const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments) {
  const Pool2dGeometry& geometry = problem.geometry;
  const bool forward = problem.pass == AvgPool2dPass::forward;
  if (!forward && !geometry.has_transposed()) return avg_pool2d_direct_run(problem, arguments);
  const Pool2dGeometry lines = forward ? geometry : geometry.transposed();
  const bool aligned = is_aligned(arguments.input) && is_aligned(arguments.output);
  dispatch_floating("avg_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc_t = accumulator_t<scalar_t>;
    scalar_t* input = static_cast<scalar_t*>(arguments.input);
    scalar_t* output = static_cast<scalar_t*>(arguments.output);
    acc_t* workspace = static_cast<acc_t*>(arguments.workspace);
    dispatch_pool<scalar_t>(
        geometry, aligned,
        [&](auto type, auto vector) {
          using Geometry = typename decltype(type)::type;
          using Rows = LinePass<typename Geometry::index_t, false>;
          using Columns = LinePass<typename Geometry::index_t, true>;
          const Rows rows(lines, vector.value);
          const Columns columns(lines, vector.value);
          const WindowDivisor<typename Geometry::index_t> divisor(problem.divisor);
          const auto run = [&](auto kernel, const auto& pass, const auto* from, auto* to) {
            launch(
                "avg_pool2d", kernel, blocks_for(pass.work_count), kBlockThreads, 0, arguments.stream, pass, divisor,
                from, to);
          };
          if (forward) {
            run(avg_pool2d_separable_sum_kernel<scalar_t, acc_t, Rows, vector.value, false>, rows, input, workspace);
            run(avg_pool2d_separable_sum_kernel<acc_t, scalar_t, Columns, vector.value, true>, columns, workspace,
                output);
          } else {
            acc_t* sums = workspace + accumulator_bytes(problem, geometry.output_numel()) / sizeof(acc_t);
            run(avg_pool2d_separable_share_kernel<scalar_t, Geometry, vector.value>,
                Geometry(geometry, 0, vector.value), output, workspace);
            run(avg_pool2d_separable_sum_kernel<acc_t, acc_t, Rows, vector.value, false>, rows, workspace, sums);
            run(avg_pool2d_separable_sum_kernel<acc_t, scalar_t, Columns, vector.value, false>, columns, sums, input);
          }
        },
        separable_numel(lines));
  });
}

}  // namespace convops
