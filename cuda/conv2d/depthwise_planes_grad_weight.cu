// grad_weight on tiles of planes.
#include "depthwise_planes.cuh"

namespace convops {

namespace {

// Taps that a thread sums at once: all of a known window, else kThreadRows rows of a run.
template <typename scalar_t, int kKernel>
struct TapBlock {
  static constexpr int kRows = kKernel > 0 ? kKernel : 4, kColumns = kKernel > 0 ? kKernel : kRunLength<scalar_t>;
  static constexpr int kTaps = kRows * kColumns;
};

// A block sums a block of taps of one channel over a slice of its tiles.
struct PlaneSlices {
  PlaneTiles tiles;
  PlaneTile gradient;
  int tap_rows, tap_columns;  // blocks of taps
  int all_tiles, slice_tiles;
  int64_t slices() const { return ceil_div(all_tiles, slice_tiles); }
};

template <typename scalar_t, int kKernel>
PlaneSlices plan_slices(const DepthwiseWindow& window) {
  using Taps = TapBlock<scalar_t, kKernel>;
  constexpr int kRun = kRunLength<scalar_t>;
  PlaneSlices slices{};
  slices.tiles = plan_tiles(
      window, sizeof(scalar_t), Taps::kRows, runs_of_row(kRun, window.stride, Taps::kColumns), window.images, true);
  PlaneTiles& tiles = slices.tiles;
  tiles.plane_tiles = static_cast<int>(ceil_div(window.images, tiles.planes));
  slices.gradient = PlaneTile(tiles.columns / kRun, tiles.rows);
  slices.tap_rows = static_cast<int>(ceil_div(window.kernel_h, Taps::kRows));
  slices.tap_columns = static_cast<int>(ceil_div(window.kernel_w, Taps::kColumns));
  slices.all_tiles = std::max(1, tiles.plane_tiles * tiles.row_tiles * tiles.column_tiles);
  // Enough blocks to fill a GPU of about 132 SMs eight times over.
  const int64_t blocks = int64_t{window.channels} * slices.tap_rows * slices.tap_columns;
  const int64_t wanted = std::max<int64_t>(1, 1056 / std::max<int64_t>(1, blocks));
  slices.slice_tiles = static_cast<int>(ceil_div(slices.all_tiles, wanted));
  return slices;
}

// weight(c, r, s) = sum over n, p, q of output(n, c, p, q) input(n, c, p stride + r - pad, q stride + s - pad)
//
// A thread takes parts of tiles as in the kernel above, now with a sum for each tap. Its sums meet in the warp, then in
// the block, in the same order every time.
template <typename scalar_t, int kKernel, int kStride>
__global__ void __launch_bounds__(kBlockThreads, kDepthwiseBlocks<accumulator_t<scalar_t>>)
    conv2d_depthwise_planes_grad_weight_kernel(
        const PlaneSlices slices, const scalar_t* __restrict__ input, const scalar_t* __restrict__ grad_output,
        accumulator_t<scalar_t>* __restrict__ partials) {
  using acc_t = accumulator_t<scalar_t>;
  using Taps = TapBlock<scalar_t, kKernel>;
  constexpr int kRun = kRunLength<scalar_t>, kRuns = runs_of_row(kRun, kStride, Taps::kColumns);
  constexpr int kWarps = kBlockThreads / 32;
  __shared__ acc_t warp_sums[Taps::kTaps][kWarps];
  const PlaneTiles& tiles = slices.tiles;
  const DepthwiseWindow& window = tiles.window;
  Run<scalar_t>* const tile = reinterpret_cast<Run<scalar_t>*>(dynamic_shared());
  Run<scalar_t>* const gradients = tile + tiles.planes * tiles.source.plane_pitch;

  // Blocks of one image and neighbouring channels are neighbours in time: what they read lies side by side.
  int block = static_cast<int>(blockIdx.x);
  const int first_column = take_digit(block, slices.tap_columns) * Taps::kColumns,
            first_row = take_digit(block, slices.tap_rows) * Taps::kRows;
  const int channel = take_digit(block, window.channels), slice = block;
  const int source_plane = window.height * window.width, gradient_plane = window.out_height * window.out_width;
  const int64_t all_planes = static_cast<int64_t>(window.images) * window.channels;
  const int end = slices.all_tiles - slice * slices.slice_tiles < slices.slice_tiles ? slices.all_tiles
                                                                                     : (slice + 1) * slices.slice_tiles;

  acc_t sums[Taps::kRows][Taps::kColumns] = {};
  for (int at = slice * slices.slice_tiles; at < end; ++at) {
    const TileOrigin origin(tiles, at);
    const int planes = window.images - origin.plane < tiles.planes ? window.images - origin.plane : tiles.planes;
    const int64_t first_plane = static_cast<int64_t>(origin.plane) * window.channels + channel;
    __syncthreads();
    tiles.source.load(
        tile, input + first_plane * source_plane, static_cast<int64_t>(window.channels) * source_plane, planes,
        origin.row * kStride - window.pad_h + first_row, origin.column * kStride - window.pad_w + first_column,
        window.height, window.width, input, input + all_planes * source_plane);
    slices.gradient.load(
        gradients, grad_output + first_plane * gradient_plane, static_cast<int64_t>(window.channels) * gradient_plane,
        planes, origin.row, origin.column, window.out_height, window.out_width, grad_output,
        grad_output + all_planes * gradient_plane);
    __syncthreads();
    const int parts = tiles.by_column_threads.multiply(tiles.by_row_threads.multiply(planes));
    for (int i = static_cast<int>(threadIdx.x); i < parts; i += kBlockThreads) {
      const TilePart part(tiles, i);
      const int rows = window.out_height - origin.row - part.row;
      const int columns = window.out_width - origin.column - part.run * kRun;
      if (rows <= 0 || columns <= 0) continue;
      const Run<scalar_t>* const from = tile + part.source_run(tiles);
      const Run<scalar_t>* const gradient =
          gradients + part.plane * slices.gradient.plane_pitch + part.row * slices.gradient.pitch + part.run;
      acc_t g[kThreadRows][kRun];
#pragma unroll
      for (int a = 0; a < kThreadRows; ++a) {
        widen_runs<acc_t, 1, scalar_t>(gradient + a * slices.gradient.pitch, g[a]);
      }
      // Outputs beyond the image must not meet an infinite pixel with their zeros.
      const auto accumulate = [&](auto whole) {
#pragma unroll
        for (int j = 0; j < (kThreadRows - 1) * kStride + Taps::kRows; ++j) {
          acc_t x[kRuns * kRun];
          widen_runs<acc_t, kRuns, scalar_t>(from + j * tiles.source.pitch, x);
#pragma unroll
          for (int a = 0; a < kThreadRows; ++a) {
            const int r = j - a * kStride;
            if (r < 0 || r >= Taps::kRows || (!whole.value && a >= rows)) continue;
#pragma unroll
            for (int v = 0; v < kRun; ++v) {
              if (!whole.value && v >= columns) continue;
#pragma unroll
              for (int s = 0; s < Taps::kColumns; ++s) sums[r][s] += g[a][v] * x[v * kStride + s];
            }
          }
        }
      };
      if (rows >= kThreadRows && columns >= kRun) {
        accumulate(std::true_type());
      } else {
        accumulate(std::false_type());
      }
    }
  }

  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int t = 0; t < Taps::kTaps; ++t) {
    acc_t sum = sums[t / Taps::kColumns][t % Taps::kColumns];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (thread % 32 == 0) warp_sums[t][thread / 32] = sum;
  }
  __syncthreads();
  const int r = first_row + thread / Taps::kColumns, s = first_column + thread % Taps::kColumns;
  if (thread < Taps::kTaps && r < window.kernel_h && s < window.kernel_w) {
    acc_t sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[thread][warp];
    partials[(static_cast<int64_t>(slice) * window.channels + channel) * window.taps() + r * window.kernel_w + s] = sum;
  }
}

template <typename scalar_t, int kKernel, int kStride>
void run_grad_weight(const DepthwiseWindow& window, const Conv2dArguments& arguments) {
  using acc_t = accumulator_t<scalar_t>;
  const PlaneSlices slices = plan_slices<scalar_t, kKernel>(window);
  launch(
      "conv2d", conv2d_depthwise_planes_grad_weight_kernel<scalar_t, kKernel, kStride>,
      slices.slices() * window.channels * slices.tap_rows * slices.tap_columns, kBlockThreads,
      slices.tiles.shared_bytes, arguments.stream, slices, static_cast<const scalar_t*>(arguments.input),
      static_cast<const scalar_t*>(arguments.output), static_cast<acc_t*>(arguments.workspace));
  const int64_t count = int64_t{window.channels} * window.taps();
  launch(
      "conv2d", sum_slices_kernel<scalar_t>, blocks_for(count), kBlockThreads, 0, arguments.stream,
      static_cast<const acc_t*>(arguments.workspace), static_cast<scalar_t*>(arguments.weight), count, slices.slices());
}

}  // namespace

PlaneSlicesSize depthwise_planes_slices_size(const DepthwiseWindow& window, DType dtype) {
  PlaneSlicesSize size{};
  dispatch_depthwise_window(window, dtype, [&](auto tag, auto side, auto) {
    const PlaneSlices slices = plan_slices<typename decltype(tag)::type, side.value>(window);
    size = {slices.tiles.shared_bytes, slices.slices()};
  });
  return size;
}

int64_t depthwise_planes_slices(const DepthwiseWindow& window, const Conv2dProblem& problem) {
  return depthwise_planes_slices_size(window, problem.dtype).slices;
}

void depthwise_planes_grad_weight(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto stride) {
    run_grad_weight<typename decltype(tag)::type, side.value, stride.value>(window, arguments);
  });
}

}  // namespace convops
