// Forward, and grad_input of stride 1, on tiles of planes.
#include "depthwise_planes.cuh"

namespace convops {

namespace {

PlaneTiles plan_forward(const DepthwiseWindow& window, int64_t element) {
  const int run = static_cast<int>(kVectorBytes / element);
  // A window of any size is read by runs of its taps; more of a row is no fault.
  const int columns = (window.kernel_w - 1) / run + window.stride + 1;
  PlaneTiles tiles =
      plan_tiles(window, element, window.kernel_h, columns, int64_t{window.images} * window.channels, false);
  tiles.plane_tiles = static_cast<int>(ceil_div(int64_t{window.images} * window.channels, tiles.planes));
  return tiles;
}

// output(n, c, p, q) = bias(c) + sum over r, s of input(n, c, p stride + r - pad, q stride + s - pad) weight(c, r, s)
//
// Outputs that do not lie in whole aligned runs pass through shared memory where that makes them one stretch of memory.
template <typename scalar_t, int kKernel, int kStride>
__global__ void __launch_bounds__(kBlockThreads, kDepthwiseBlocks<accumulator_t<scalar_t>>)
    conv2d_depthwise_planes_kernel(
        const PlaneTiles tiles, const scalar_t* __restrict__ source, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ destination) {
  using acc_t = accumulator_t<scalar_t>;
  constexpr int kRun = kRunLength<scalar_t>;
  Run<scalar_t>* const tile = reinterpret_cast<Run<scalar_t>*>(dynamic_shared());
  const DepthwiseWindow& window = tiles.window;
  const TileOrigin origin(tiles, static_cast<int>(blockIdx.x));
  const int all_planes = window.images * window.channels, source_plane = window.height * window.width;
  const int planes = all_planes - origin.plane < tiles.planes ? all_planes - origin.plane : tiles.planes;
  tiles.source.load(
      tile, source + static_cast<int64_t>(origin.plane) * source_plane, source_plane, planes,
      origin.row * kStride - window.pad_h, origin.column * kStride - window.pad_w, window.height, window.width, source,
      source + static_cast<int64_t>(all_planes) * source_plane);
  __syncthreads();

  const TilePart part(tiles, static_cast<int>(threadIdx.x));
  const int row = origin.row + part.row, column = origin.column + part.run * kRun;
  const bool computes = part.plane < planes && row < window.out_height && column < window.out_width;
  acc_t sums[kThreadRows][kRun] = {};
  if (computes) {
    const Run<scalar_t>* const from = tile + part.source_run(tiles);
    const int channel = (origin.plane + part.plane) % window.channels, taps = window.taps();
    const scalar_t* const filter = weight + channel * taps + (window.turned ? taps - 1 : 0);
    const int step = window.turned ? -1 : 1;
    if constexpr (kKernel > 0) {
      constexpr int kRuns = runs_of_row(kRun, kStride, kKernel);
      acc_t weights[kKernel * kKernel];
#pragma unroll
      for (int t = 0; t < kKernel * kKernel; ++t) weights[t] = static_cast<acc_t>(filter[t * step]);
#pragma unroll
      for (int i = 0; i < (kThreadRows - 1) * kStride + kKernel; ++i) {
        acc_t x[kRuns * kRun];
        widen_runs<acc_t, kRuns, scalar_t>(from + i * tiles.source.pitch, x);
#pragma unroll
        for (int a = 0; a < kThreadRows; ++a) {
          const int r = i - a * kStride;
          if (r < 0 || r >= kKernel) continue;
#pragma unroll
          for (int s = 0; s < kKernel; ++s) {
#pragma unroll
            for (int v = 0; v < kRun; ++v) sums[a][v] += x[v * kStride + s] * weights[r * kKernel + s];
          }
        }
      }
    } else {
      constexpr int kRuns = runs_of_row(kRun, kStride, kRun);
      for (int r = 0; r < window.kernel_h; ++r) {
        for (int first = 0; first < window.kernel_w; first += kRun) {
          acc_t weights[kRun];
#pragma unroll
          for (int s = 0; s < kRun; ++s) {
            if (first + s < window.kernel_w) {
              weights[s] = static_cast<acc_t>(filter[(r * window.kernel_w + first + s) * step]);
            }
          }
#pragma unroll
          for (int a = 0; a < kThreadRows; ++a) {
            acc_t x[kRuns * kRun];
            widen_runs<acc_t, kRuns, scalar_t>(from + (a * kStride + r) * tiles.source.pitch + first / kRun, x);
#pragma unroll
            for (int s = 0; s < kRun; ++s) {
              // A tap that is not there must not meet an infinite pixel with a zero.
              if (first + s >= window.kernel_w) break;
#pragma unroll
              for (int v = 0; v < kRun; ++v) sums[a][v] += x[v * kStride + s] * weights[s];
            }
          }
        }
      }
    }
    if (bias != nullptr) {
#pragma unroll
      for (int a = 0; a < kThreadRows; ++a) {
#pragma unroll
        for (int v = 0; v < kRun; ++v) sums[a][v] += static_cast<acc_t>(bias[channel]);
      }
    }
  }

  // The block's outputs are the stretch of memory from `first` on, if its tile is as wide as the image.
  const int rows = window.out_height - origin.row < tiles.rows ? window.out_height - origin.row : tiles.rows;
  scalar_t* const first = destination +
                          (static_cast<int64_t>(origin.plane) * window.out_height + origin.row) * window.out_width +
                          origin.column;
  scalar_t* const staged = shared_stretch(tile, first);
  const auto write = [&](scalar_t* to, int plane_step, bool by_runs) {
    to += part.plane * plane_step + part.row * window.out_width + part.run * kRun;
#pragma unroll
    for (int a = 0; a < kThreadRows; ++a) {
      if (row + a >= window.out_height) break;
      Run<scalar_t> result;
#pragma unroll
      for (int v = 0; v < kRun; ++v) result[v] = static_cast<scalar_t>(sums[a][v]);
      if (by_runs) {
        result.store(to + a * window.out_width);
      } else {
#pragma unroll
        for (int v = 0; v < kRun; ++v) {
          if (column + v < window.out_width) to[a * window.out_width + v] = result[v];
        }
      }
    }
  };
  if (!tiles.staged_store) {
    if (computes) write(first, window.out_height * window.out_width, tiles.vector_store);
    return;
  }
  // Nobody reads the tile any more.
  __syncthreads();
  if (computes) write(staged, rows * window.out_width, false);
  __syncthreads();
  store_stretch(tile, staged, first, planes * rows * window.out_width);
}

template <typename scalar_t, int kKernel, int kStride>
void run_planes(const DepthwiseWindow& window, const Conv2dArguments& arguments) {
  PlaneTiles tiles = plan_forward(window, sizeof(scalar_t));
  const void* const source = window.turned ? arguments.output : arguments.input;
  void* const destination = window.turned ? arguments.input : arguments.output;
  tiles.vector_store = window.out_width % kRunLength<scalar_t> == 0 && is_aligned(destination);
  tiles.staged_store = !tiles.vector_store && tiles.column_tiles == 1;
  launch(
      "conv2d", conv2d_depthwise_planes_kernel<scalar_t, kKernel, kStride>,
      int64_t{tiles.plane_tiles} * tiles.row_tiles * tiles.column_tiles, kBlockThreads, tiles.shared_bytes,
      arguments.stream, tiles, static_cast<const scalar_t*>(source), static_cast<const scalar_t*>(arguments.weight),
      static_cast<const scalar_t*>(arguments.bias), static_cast<scalar_t*>(destination));
}

}  // namespace

bool depthwise_planes_supports(const DepthwiseWindow& window, const Conv2dProblem& problem) {
  if (problem.geometry.channels_last) return false;
  const int64_t bytes = problem.pass == Conv2dPass::grad_weight
                            ? depthwise_planes_slices_size(window, problem.dtype).shared_bytes
                            : plan_forward(window, element_size(problem.dtype)).shared_bytes;
  return bytes <= kMostTileBytes;
}

void depthwise_planes_run(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto stride) {
    run_planes<typename decltype(tag)::type, side.value, stride.value>(window, arguments);
  });
}

}  // namespace convops
