// Depthwise convolution of contiguous images in half types with large windows, on tensor cores.
//
// A row of taps over a row of pixels is a product with a band matrix: with B(k, n) = weight(r, k - n), zero off the
// band, outputs (m, n) of 16 rows and 8 columns are the sum over r of X(m + r, k) B(k, n) over kernel_w + 7 pixels k.
// Of 7 taps a row 7 / 16 of each instruction is of use, of 31 taps 31 / 48. Instructions bound neither: of an SM of an
// H100 31 x 31 takes about a clock of tensor cores an output, where multiply-adds take 961 / 128. What bounds it are
// reads of shared memory, 14 clocks for 4 instructions: 2.5 clocks an output. 7 x 7 takes 0.2, of 0.3 that memory pays
// for. X comes by ldmatrix, a run of 8 pixels shared by neighbouring blocks of outputs. The filter lies in shared
// memory with zeros around its rows, twice, one pixel apart: so every pair of the band is an aligned word.
//
// Off the band zeros meet pixels that the output does not read. Where a tile holds an infinity or a NaN its outputs are
// added up one by one instead.
#include "../common/dtype.cuh"
#include "../common/tensor_core.cuh"
#include "depthwise_window.cuh"
#include "plane_tile.cuh"

namespace convops {

namespace {

// A warp computes 16 rows of kColumnBlocks * 8 outputs.
constexpr int kUnitRows = 16, kColumnBlocks = 4, kUnitColumns = 8 * kColumnBlocks;
constexpr int kWarps = kBlockThreads / 32;
constexpr int64_t kMostSharedBytes = 96 * 1024;

// A block computes tiles of the same place and channel in several images, so that it prepares one filter.
struct ToeplitzTiles {
  DepthwiseWindow window;
  PlaneTile source;
  int rows, columns, planes;  // outputs of a tile, in whole units; images of a block
  int row_tiles, column_tiles, plane_tiles;
  int steps;        // of 16 pixels, the depth of an instruction, over a row of the band
  int filter_line;  // elements of a padded row of the filter
  int64_t shared_bytes;
};

ToeplitzTiles plan_toeplitz(const DepthwiseWindow& window) {
  constexpr int kRun = kRunLength<uint16_t>;
  const auto units = [](int outputs, int unit) { return static_cast<int>(ceil_div(outputs, unit)); };
  ToeplitzTiles tiles{};
  tiles.window = window;
  tiles.steps = units(window.kernel_w + 7, 16);
  tiles.filter_line = 16 * tiles.steps + 16;
  const int across = std::min(units(window.out_width, kUnitColumns), 4);
  const int down = std::min(units(window.out_height, kUnitRows), kWarps / across);
  tiles.rows = down * kUnitRows, tiles.columns = across * kUnitColumns;
  tiles.row_tiles = units(window.out_height, tiles.rows);
  tiles.column_tiles = units(window.out_width, tiles.columns);
  tiles.source = PlaneTile(tiles.columns / kRun - 1 + 2 * tiles.steps, tiles.rows - 1 + window.kernel_h);
  const int64_t filter = 2 * window.kernel_h * tiles.filter_line * int64_t{sizeof(uint16_t)};
  const int64_t plane = kVectorBytes * int64_t{tiles.source.plane_pitch};
  tiles.planes = static_cast<int>(std::max<int64_t>(
      1, std::min<int64_t>({kWarps / (across * down), (kMostSharedBytes - filter) / plane, window.images})));
  tiles.plane_tiles = units(window.images, tiles.planes);
  tiles.shared_bytes = filter + tiles.planes * plane;
  return tiles;
}

// Whether a run holds an infinity or a NaN: an exponent of ones.
template <typename scalar_t>
__device__ bool has_special(const Run<scalar_t>& run) {
  constexpr uint32_t kExponent = std::is_same_v<scalar_t, __half> ? 0x7c00 : 0x7f80;
  const auto words = reinterpret_cast<const Vector<uint32_t, 4>&>(run);
  bool special = false;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    special = special || (words[i] & kExponent) == kExponent || (words[i] >> 16 & kExponent) == kExponent;
  }
  return special;
}

// output(n, c, p, q) = bias(c) + sum over r, s of input(n, c, p + r - pad, q + s - pad) weight(c, r, s)
template <typename scalar_t>
__global__ void __launch_bounds__(kBlockThreads, 2) conv2d_depthwise_toeplitz_kernel(
    const ToeplitzTiles tiles, const scalar_t* __restrict__ source, const scalar_t* __restrict__ weight,
    const scalar_t* __restrict__ bias, scalar_t* __restrict__ destination) {
  constexpr int kRun = kRunLength<scalar_t>;
  const DepthwiseWindow& window = tiles.window;
  Run<scalar_t>* const tile = reinterpret_cast<Run<scalar_t>*>(dynamic_shared());
  scalar_t* const filter = reinterpret_cast<scalar_t*>(tile + tiles.planes * tiles.source.plane_pitch);

  int block = static_cast<int>(blockIdx.x);
  const int channel = take_digit(block, window.channels);
  const int first_column = take_digit(block, tiles.column_tiles) * tiles.columns,
            first_row = take_digit(block, tiles.row_tiles) * tiles.rows;
  const int first_image = block * tiles.planes;
  const int planes = window.images - first_image < tiles.planes ? window.images - first_image : tiles.planes;
  const int64_t first_plane = static_cast<int64_t>(first_image) * window.channels + channel;
  const int64_t source_plane = window.height * window.width, out_plane = window.out_height * window.out_width;

  bool special = false;
  tiles.source.load(
      tile, source + first_plane * source_plane, window.channels * source_plane, planes, first_row - window.pad_h,
      first_column - window.pad_w, window.height, window.width, source,
      source + static_cast<int64_t>(window.images) * window.channels * source_plane,
      [&](const Run<scalar_t>& run) { special = special || has_special<scalar_t>(run); });
  const scalar_t* const taps = weight + channel * window.taps() + (window.turned ? window.taps() - 1 : 0);
  const int tap_step = window.turned ? -1 : 1;
  // Line 2 r has tap (r, s) at s + 8, line 2 r + 1 at s + 7.
  for (int i = static_cast<int>(threadIdx.x); i < 2 * window.kernel_h * tiles.filter_line; i += kBlockThreads) {
    const int line = i / tiles.filter_line, s = i - line * tiles.filter_line + line % 2 - 8;
    filter[i] =
        s >= 0 && s < window.kernel_w ? taps[(line / 2 * window.kernel_w + s) * tap_step] : static_cast<scalar_t>(0.0f);
  }
  special = __syncthreads_or(special);

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int across = tiles.columns / kUnitColumns, down = tiles.rows / kUnitRows;
  const int unit = static_cast<int>(threadIdx.x) / 32;
  const int unit_column = unit % across * kUnitColumns, unit_row = unit / across % down * kUnitRows;
  const int plane = unit / (across * down);
  const bool computes =
      plane < planes && first_row + unit_row < window.out_height && first_column + unit_column < window.out_width;
  Run<scalar_t>* const plane_tile = tile + plane * tiles.source.plane_pitch;
  // Outputs as multiply_accumulate holds them.
  const auto for_each_output = [&](const auto& visit) {
#pragma unroll
    for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        visit(j, e, unit_row + lane / 4 + e / 2 * 8, unit_column + j * 8 + lane % 4 * 2 + e % 2);
      }
    }
  };

  float sums[kColumnBlocks][4] = {};
  if (computes && !special) {
    const Run<scalar_t>* const from =
        plane_tile + (unit_row + lane % 16) * tiles.source.pitch + unit_column / kRun + lane / 16;
    const int pair = lane % 4 * 2 - lane / 4 + 8;
    const scalar_t* const band = filter + pair % 2 * tiles.filter_line + pair / 2 * 2;
    for (int r = 0; r < window.kernel_h; ++r) {
      for (int step = 0; step < tiles.steps; ++step) {
        constexpr int kLoads = kColumnBlocks / 2 + 1;
        uint32_t x[kLoads][4], b[2];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          load_matrices(x[i], from + r * tiles.source.pitch + 2 * (step + i));
        }
        const scalar_t* const words = band + 2 * r * tiles.filter_line + 16 * step;
#pragma unroll
        for (int i = 0; i < 2; ++i) b[i] = *reinterpret_cast<const uint32_t*>(words + 8 * i);
#pragma unroll
        for (int j = 0; j < kColumnBlocks; ++j) {
          const uint32_t a[4] = {
              x[j / 2][j % 2 * 2], x[j / 2][j % 2 * 2 + 1], x[(j + 1) / 2][(j + 1) % 2 * 2],
              x[(j + 1) / 2][(j + 1) % 2 * 2 + 1]};
          multiply_accumulate<scalar_t>(sums[j], a, b);
        }
      }
    }
  } else if (computes) {
    for_each_output([&](int j, int e, int row, int column) {
#pragma unroll 1
      for (int r = 0; r < window.kernel_h; ++r) {
        const scalar_t* const x =
            reinterpret_cast<const scalar_t*>(plane_tile + (row + r) * tiles.source.pitch) + column;
#pragma unroll 1
        for (int s = 0; s < window.kernel_w; ++s) {
          sums[j][e] += static_cast<float>(x[s]) * static_cast<float>(taps[(r * window.kernel_w + s) * tap_step]);
        }
      }
    });
  }

  const float offset = bias == nullptr ? 0.0f : static_cast<float>(bias[channel]);
  const int rows = window.out_height - first_row < tiles.rows ? window.out_height - first_row : tiles.rows;
  const auto write = [&](scalar_t* to) {
    for_each_output([&](int j, int e, int row, int column) {
      if (row < rows && first_column + column < window.out_width) {
        to[row * window.out_width + column] = static_cast<scalar_t>(sums[j][e] + offset);
      }
    });
  };
  const auto first_output = [&](int image) {
    return destination + (first_plane + static_cast<int64_t>(image) * window.channels) * out_plane +
           first_row * window.out_width + first_column;
  };
  if (tiles.column_tiles > 1) {
    if (computes) write(first_output(plane));
    return;
  }
  // Rows of a whole image are one stretch of memory. Nobody reads the tiles any more.
  __syncthreads();
  if (computes) write(shared_stretch(plane_tile, first_output(plane)));
  __syncthreads();
  for (int image = 0; image < planes; ++image) {
    Run<scalar_t>* const staged = tile + image * tiles.source.plane_pitch;
    scalar_t* const to = first_output(image);
    store_stretch(staged, shared_stretch(staged, to), to, rows * window.out_width);
  }
}

template <typename scalar_t>
void run(const DepthwiseWindow& window, const Conv2dArguments& arguments) {
  const ToeplitzTiles tiles = plan_toeplitz(window);
  const void* const source = window.turned ? arguments.output : arguments.input;
  void* const destination = window.turned ? arguments.input : arguments.output;
  launch(
      "conv2d", conv2d_depthwise_toeplitz_kernel<scalar_t>,
      int64_t{window.channels} * tiles.column_tiles * tiles.row_tiles * tiles.plane_tiles, kBlockThreads,
      tiles.shared_bytes, arguments.stream, tiles, static_cast<const scalar_t*>(source),
      static_cast<const scalar_t*>(arguments.weight), static_cast<const scalar_t*>(arguments.bias),
      static_cast<scalar_t*>(destination));
}

}  // namespace

// Smaller windows are bound by memory without tensor cores too.
bool depthwise_toeplitz_supports(const DepthwiseWindow& window, const Conv2dProblem& problem) {
  const bool half = problem.dtype == DType::bfloat16 || problem.dtype == DType::float16;
  return half && problem.pass != Conv2dPass::grad_weight && !problem.geometry.channels_last && window.stride == 1 &&
         window.kernel_w >= 7 && window.kernel_h >= 5 && plan_toeplitz(window).shared_bytes <= kMostSharedBytes;
}

void depthwise_toeplitz_run(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  if (problem.dtype == DType::bfloat16) return run<__nv_bfloat16>(window, arguments);
  run<__half>(window, arguments);
}

}  // namespace convops
