// Depthwise convolution of contiguous images, on tiles of planes in shared memory.
//
// A thread computes kThreadRows rows of a run of outputs, 16 bytes of each: in half types 32 outputs, from (3 + kernel)
// rows of two runs. So one 16-byte read of shared memory serves 16 multiply-adds or more for each tap row, against one
// read from L1 for each multiply-add in a kernel without tiles. What a multiply-add costs beside itself are
// conversions: 3 x 3 in half types takes 9 + 3 instructions an output, 7 x 7 takes 49 + 4. An SM of an H100 issues 128
// lanes a clock and has 13 bytes of memory for it, so that 4 bytes an output pay for 38 instructions: 3 x 3 and 5 x 5
// can reach the memory's speed, 7 x 7 two thirds of it, and larger windows are bound by multiply-adds.
#pragma once

#include "../common/dtype.cuh"
#include "depthwise_window.cuh"
#include "plane_tile.cuh"

namespace convops {

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
inline PlaneTiles plan_tiles(
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

// Shared memory that the tiles of grad_weight take, and slices of them.
struct PlaneSlicesSize {
  int64_t shared_bytes, slices;
};
PlaneSlicesSize depthwise_planes_slices_size(const DepthwiseWindow& window, DType dtype);

}  // namespace convops
