// Depthwise convolution of contiguous images, on tiles of planes in shared memory.
//
// A thread computes kThreadRows rows of a run of outputs, 16 bytes of each: in half types 32 outputs, from (3 + kernel)
// rows of two runs. So one 16-byte read of shared memory serves 16 multiply-adds or more for each tap row, against one
// read from L1 for each multiply-add in a kernel without tiles. What a multiply-add costs beside itself are
// conversions: 3 x 3 in half types takes 9 + 3 instructions an output, 7 x 7 takes 49 + 4. An SM of an H100 issues 128
// lanes a clock and has 13 bytes of memory for it, so that 4 bytes an output pay for 38 instructions: 3 x 3 and 5 x 5
// can reach the memory's speed, 7 x 7 two thirds of it, and larger windows are bound by multiply-adds.
#include "depthwise_window.cuh"
#include "plane_tile.cuh"

namespace convops {

namespace {

constexpr int kThreadRows = 4;
// Shared memory of a block: so little that an SM holds several, or where a window is large what every GPU has.
constexpr int64_t kGoodTileBytes = 32 * 1024, kMostTileBytes = 96 * 1024;

// Runs that a thread reads of a row: its own outputs' windows, or of a window of any size those of a run of its taps.
constexpr int runs_of_row(int run, int stride, int taps) {
  return ((run - 1) * stride + taps + run - 1) / run;
}

// How planes are cut into tiles, and a tile into threads.
struct PlaneTiles {
  DepthwiseWindow window;
  PlaneTile source;
  int rows, columns, planes;                 // outputs of a tile, rounded up to whole threads
  int row_tiles, column_tiles, plane_tiles;  // tiles of a plane; blocks of planes
  int64_t shared_bytes;
  Divisor<int32_t> by_row_tiles, by_column_tiles, by_column_threads, by_row_threads;
  bool vector_store, staged_store;
};

// `source_taps` rows and columns of the window are read at once from a tile. Planes are held together while the rest
// of the block would be idle; `most_planes` of them at most.
PlaneTiles plan_tiles(
    const DepthwiseWindow& window, int64_t element, int source_rows, int source_columns, int64_t most_planes,
    bool with_gradient) {
  const int run = static_cast<int>(kVectorBytes / element), stride = window.stride;
  PlaneTiles tiles{};
  tiles.window = window;
  const auto cut = [&](int columns, int rows, int64_t planes) {
    tiles.columns = columns, tiles.rows = rows, tiles.planes = static_cast<int>(planes);
    tiles.source = PlaneTile((columns / run - 1) * stride + source_columns, (rows - 1) * stride + source_rows);
    // The outputs wait in the tile's place, shifted by less than a run.
    const int64_t gradient = with_gradient ? planes * PlaneTile(columns / run, rows).plane_pitch : 0;
    tiles.shared_bytes = kVectorBytes * (1 + gradient + planes * tiles.source.plane_pitch);
  };
  const auto round_up = [](int64_t n, int64_t to) { return static_cast<int>(ceil_div(n, to) * to); };
  int columns = std::min(round_up(window.out_width, run), 16 * run);
  const int threads_across = columns / run;
  int rows =
      std::min(round_up(window.out_height, kThreadRows), std::max(1, kBlockThreads / threads_across) * kThreadRows);
  cut(columns, rows, 1);
  while (tiles.shared_bytes > kGoodTileBytes && rows > kThreadRows) {
    rows = round_up(rows / 2, kThreadRows);
    cut(columns, rows, 1);
  }
  while (tiles.shared_bytes > kMostTileBytes && columns > run) {
    columns = round_up(columns / 2, run);
    cut(columns, rows, 1);
  }
  if (columns >= window.out_width && rows >= window.out_height) {
    const int64_t threads = columns / run * (rows / kThreadRows), bytes = tiles.shared_bytes;
    cut(columns, rows, std::max<int64_t>(1, std::min({kBlockThreads / threads, kGoodTileBytes / bytes, most_planes})));
  }
  tiles.row_tiles = static_cast<int>(ceil_div(window.out_height, rows));
  tiles.column_tiles = static_cast<int>(ceil_div(window.out_width, columns));
  tiles.by_row_tiles = Divisor<int32_t>(tiles.row_tiles);
  tiles.by_column_tiles = Divisor<int32_t>(tiles.column_tiles);
  tiles.by_column_threads = Divisor<int32_t>(columns / run);
  tiles.by_row_threads = Divisor<int32_t>(rows / kThreadRows);
  return tiles;
}

PlaneTiles plan_forward(const DepthwiseWindow& window, int64_t element) {
  const int run = static_cast<int>(kVectorBytes / element);
  // A window of any size is read by runs of its taps; more of a row is no fault.
  const int columns = (window.kernel_w - 1) / run + window.stride + 1;
  PlaneTiles tiles =
      plan_tiles(window, element, window.kernel_h, columns, int64_t{window.images} * window.channels, false);
  tiles.plane_tiles = static_cast<int>(ceil_div(int64_t{window.images} * window.channels, tiles.planes));
  return tiles;
}

// What a block computes: outputs from (row, column) on of planes from `plane` on.
struct TileOrigin {
  int plane, row, column;

  __device__ TileOrigin(const PlaneTiles& tiles, int tile) {
    column = take_digit(tile, tiles.by_column_tiles) * tiles.columns;
    row = take_digit(tile, tiles.by_row_tiles) * tiles.rows;
    plane = tile * tiles.planes;
  }
};

// The part of a tile that a thread computes: a run of outputs and kThreadRows - 1 more below it.
struct TilePart {
  int plane, row, run;

  __device__ TilePart(const PlaneTiles& tiles, int part) {
    run = take_digit(part, tiles.by_column_threads);
    row = take_digit(part, tiles.by_row_threads) * kThreadRows;
    plane = part;
  }
  // Where its windows begin in the tile of what is read.
  __device__ int source_run(const PlaneTiles& tiles) const {
    const int stride = tiles.window.stride;
    return plane * tiles.source.plane_pitch + row * stride * tiles.source.pitch + run * stride;
  }
};

// kRuns runs of a tile in the type of arithmetic.
template <typename acc_t, int kRuns, typename scalar_t>
__device__ void widen_runs(const Run<scalar_t>* from, acc_t (&to)[kRuns * kRunLength<scalar_t>]) {
#pragma unroll
  for (int j = 0; j < kRuns; ++j) {
    const Run<scalar_t> run = from[j];
#pragma unroll
    for (int e = 0; e < kRunLength<scalar_t>; ++e) to[j * kRunLength<scalar_t> + e] = static_cast<acc_t>(run[e]);
  }
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

// --- grad_weight

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
  const auto take = [&](int count) {
    const int digit = block % count;
    block /= count;
    return digit;
  };
  const int first_column = take(slices.tap_columns) * Taps::kColumns, first_row = take(slices.tap_rows) * Taps::kRows;
  const int channel = take(window.channels), slice = block;
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

bool depthwise_planes_supports(const DepthwiseWindow& window, const Conv2dProblem& problem) {
  if (problem.geometry.channels_last) return false;
  int64_t bytes = 0;
  if (problem.pass == Conv2dPass::grad_weight) {
    dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto) {
      bytes = plan_slices<typename decltype(tag)::type, side.value>(window).tiles.shared_bytes;
    });
  } else {
    bytes = plan_forward(window, element_size(problem.dtype)).shared_bytes;
  }
  return bytes <= kMostTileBytes;
}

int64_t depthwise_planes_slices(const DepthwiseWindow& window, const Conv2dProblem& problem) {
  int64_t slices = 0;
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto) {
    slices = plan_slices<typename decltype(tag)::type, side.value>(window).slices();
  });
  return slices;
}

void depthwise_planes_run(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto stride) {
    run_planes<typename decltype(tag)::type, side.value, stride.value>(window, arguments);
  });
}

void depthwise_planes_grad_weight(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto stride) {
    run_grad_weight<typename decltype(tag)::type, side.value, stride.value>(window, arguments);
  });
}

}  // namespace convops
