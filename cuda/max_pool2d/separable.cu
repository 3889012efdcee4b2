// Max-pooling with large windows: the maxima of rows, then of those down columns.
//
// The first of equal maxima along each row, then the first of equal rows, is the first in row-major order; a NaN
// replaces whatever stands before it, so that the last one wins.
#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/separable.cuh"
#include "max_pool2d.cuh"
#include "maximum.cuh"

namespace convops {

namespace {

// output = the largest of the line of pixels that is the window of a pass, and its offset. Along a row that is the tap
// s, down a column r * S + the offset of that row's maximum. The floor of both passes is the input, the output and
// twice the image between them; overlapping windows read from L1.
template <typename scalar_t, typename Pass, int kVector>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_separable_forward_kernel(
    const Pass pass, const scalar_t* __restrict__ input, const SavedOffsets row_offsets, scalar_t* __restrict__ output,
    const SavedOffsets offsets) {
  using index_t = typename Pass::index_t;
  grid_stride_loop(pass.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = pass.work(index);
    const index_t plane = pass.plane(at, kVector);
    RunningMaximum<scalar_t, kVector> maximum;
    const int32_t first = static_cast<int32_t>(pass.first_tap(at));
#pragma unroll
    for (int v = 0; v < kVector; ++v) maximum.start(v, first);
    pass.for_each_tap(at, [&](index_t tap, index_t pixel) {
      const auto x = Vector<scalar_t, kVector>::load(input + plane + pixel);
#pragma unroll
      for (int v = 0; v < kVector; ++v) maximum.take(v, x[v], static_cast<int32_t>(tap));
    });
    maximum.store(output + index * kVector);
    if constexpr (Pass::kDown) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        int32_t& tap = maximum.taps[v];
        tap = tap * static_cast<int32_t>(pass.w.kernel) + row_offsets.load(plane + pass.pixel(at, tap) + v);
      }
    }
    offsets.store<kVector>(static_cast<int64_t>(index) * kVector, maximum.taps);
  });
}

// Where the maxima of rows end in the workspace, and their offsets begin.
int64_t value_bytes(const MaxPool2dProblem& problem) {
  return ceil_div(separable_numel(problem.geometry) * element_size(problem.dtype), 256) * 256;
}

template <bool kDown, typename scalar_t>
void run_pass(
    const MaxPool2dProblem& problem, bool aligned, const void* input, const SavedOffsets& row_offsets, void* output,
    const SavedOffsets& offsets, void* stream) {
  const Pool2dGeometry& geometry = problem.geometry;
  dispatch_pool<scalar_t>(
      geometry, aligned,
      [&](auto type, auto vector) {
        using Pass = LinePass<typename decltype(type)::type::index_t, kDown>;
        const Pass pass(geometry, vector.value);
        launch(
            "max_pool2d", max_pool2d_separable_forward_kernel<scalar_t, Pass, vector.value>,
            blocks_for(pass.work_count), kBlockThreads, 0, stream, pass, static_cast<const scalar_t*>(input),
            row_offsets, static_cast<scalar_t*>(output), offsets);
      },
      separable_numel(geometry));
}

}  // namespace

int64_t max_pool2d_separable_workspace(const MaxPool2dProblem& problem) {
  if (problem.pass == MaxPool2dPass::forward) return value_bytes(problem);
  if (problem.pass != MaxPool2dPass::forward_with_offsets) return 0;
  const int64_t offset_bytes = problem.geometry.taps() <= kMaxByteTaps ? sizeof(uint8_t) : sizeof(int32_t);
  return value_bytes(problem) + separable_numel(problem.geometry) * offset_bytes;
}

void max_pool2d_separable_forward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  SavedOffsets row_offsets{}, offsets{};
  if (problem.pass == MaxPool2dPass::forward_with_offsets) {
    void* const after_values = static_cast<char*>(arguments.workspace) + value_bytes(problem);
    dispatch_offsets(problem.geometry, after_values, [&](auto* to) { row_offsets.set(to); });
    dispatch_offsets(problem.geometry, arguments.offsets, [&](auto* to) { offsets.set(to); });
  }
  const bool aligned = is_aligned(arguments.input) && is_aligned(arguments.output) && is_aligned(offsets.bytes);
  dispatch_all("max_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    run_pass<false, scalar_t>(
        problem, aligned, arguments.input, {}, arguments.workspace, row_offsets, arguments.stream);
    run_pass<true, scalar_t>(
        problem, aligned, arguments.workspace, row_offsets, arguments.output, offsets, arguments.stream);
  });
}

}  // namespace convops
