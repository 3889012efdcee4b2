// The implicit matrix product on Hopper GPUs: what its kernel (wgmma_kernel.cuh) is told, which tile is whose, and the
// way from the sums of a warpgroup to D.
//
// Sums are rounded and turned round in shared memory, 64 x 64 at a time, so that lanes write neighbouring elements
// whichever way D lies: eight lanes a line of 128 bytes, or 64 lanes a line element by element.
#pragma once

#include "../common/transposed_axis.cuh"
#include "../common/vector.cuh"
#include "gemm_kernel.cuh"
#include "wgmma_plan.cuh"

namespace convops {

constexpr int kWarpgroup = 128, kWgmmaThreads = 3 * kWarpgroup;
// A box of 64 lines, and the room in which a warpgroup turns 64 x 64 results round.
constexpr int kBoxBytes = 64 * kLineBytes;

template <typename scalar, Conv2dPass kThePass, int kTileRowBlocks, int kTileColumns, bool kOfRegions>
struct WgmmaKernel {
  using scalar_t = scalar;
  static constexpr Conv2dPass kPass = kThePass;
  static constexpr int kRowBlocks = kTileRowBlocks, kColumns = kTileColumns;
  static constexpr bool kRegions = kOfRegions;
  static constexpr WgmmaTile kTile{kRowBlocks, kColumns, kRegions};
  static constexpr bool kSliced = kPass == Conv2dPass::grad_weight;
  // Whether lines run across the reduction.
  static constexpr bool kAcrossA = kPass != Conv2dPass::forward, kAcrossB = kSliced;
  static constexpr int kABytes = kTile.a_bytes(), kAStages = kTile.a_stages();
  static constexpr int kBStages = kRegions ? kMostRegions : kAStages;
  // Three warpgroups start with 168 registers a thread. The two that multiply take over what the one that copies can do
  // without, and with 192 sums a thread more than that.
  static constexpr bool kManySums = kRowBlocks * kColumns > 256;
  static constexpr int kCopyRegisters = kManySums ? 24 : 40, kMultiplyRegisters = kManySums ? 240 : 232;
};

// A part as the kernel reads it.
struct WgmmaPartParameters {
  CUtensorMap windows;  // or regions
  WgmmaAxis h, w;
  Divisor<int32_t> rows, columns;  // windows of an image
  int64_t d_origin;
  int pixels, steps;
};

struct WgmmaRegionParameters {
  int rows, span;  // of windows
  int pitch;       // lines from a row to the next
  int copied_bytes;
  Divisor<int32_t> of_pitch, segments, row_tiles;
};

// Where the rows of phases lie: row (i, j, c) of window (p, q) is channel c of pixel (p * stride + i, q * stride + j),
// with each axis' stride.
struct WgmmaPhases {
  Divisor<int32_t> channels, across;  // residues across
  int64_t d_c, d_h, d_w;
  TransposedAxis residues_h, residues_w;

  // For results that are not finite. The zeros in the weight, of taps that a residue does not have, may have met an
  // infinity or a NaN: such a result is summed up once more, over the taps that it has.
  const void* gradient;
  const void* weight;
  ImageSteps<int64_t> steps;  // of the gradient
  int K, padded_K, output_h, output_w;
};

constexpr int kPartsOfLaunch = 4;

struct WgmmaParameters {
  CUtensorMap a;
  WgmmaPartParameters parts[kPartsOfLaunch];
  WgmmaRegionParameters region;
  WgmmaPhases phases;
  bool has_phases;
  Divisor<int32_t> row_tiles, groups, tiles_of_part, chunks, column_tiles;
  int tiles;
  int rows, S;                     // of D of a group; of the weight
  int a_group_step, b_group_step;  // of the operands' coordinates
  int b_stages, b_stage_bytes;
  int slice_steps;
  bool channels_outside;  // the order of steps: taps for each chunk of channels, or chunks for each tap

  const void* bias;  // of D's rows, or null
  void* d;
  float* partials;  // (slice, group, column, row), where there are several slices
  int64_t d_group_step, d_row_step;
  // Of D's columns: of an image and a pixel's row and column; in grad_weight of a channel and a tap's row and column.
  int64_t d_n, d_h, d_w;
  int channels;         // that D has of a chunked column (grad_weight)
  int partial_columns;  // channels in a tap of the partial sums
  bool rows_fastest;    // D's rows lie side by side, else its columns
  bool vector_store;    // in whole 16-byte runs
};

// Which tile a block works on.
struct WgmmaTileAt {
  int part, row, group, column, slice;
  int first_step, steps;

  // A region serves all taps.
  template <typename Kernel>
  __device__ int copies_of_b(const WgmmaParameters& parameters) const {
    return Kernel::kRegions && steps > 0 ? static_cast<int>(parameters.chunks.divisor) : steps;
  }
};

template <typename Kernel>
__device__ WgmmaTileAt wgmma_tile_at(const WgmmaParameters& parameters, int tile) {
  WgmmaTileAt at{};
  at.part = tile;
  tile = take_digit(at.part, parameters.tiles_of_part);
  // Tiles of the same columns are neighbours in time: they share the larger operand.
  at.row = take_digit(tile, parameters.row_tiles) * Kernel::kTile.rows();
  at.group = take_digit(tile, parameters.groups);
  at.column = Kernel::kSliced ? take_digit(tile, parameters.column_tiles) : tile;
  at.slice = Kernel::kSliced ? tile : 0;
  // Chunks or pixels; the number of a region stays one.
  if (!Kernel::kRegions) at.column *= Kernel::kSliced ? Kernel::kColumns / kLineElements : Kernel::kColumns;
  at.first_step = at.slice * parameters.slice_steps;
  const int left = parameters.parts[at.part].steps - at.first_step;
  at.steps = Kernel::kSliced && left > parameters.slice_steps ? parameters.slice_steps : left;
  // A part may have fewer pixels than the largest.
  if (!Kernel::kSliced && !Kernel::kRegions && at.column >= parameters.parts[at.part].pixels) at.steps = 0;
  return at;
}

// A window's image, row and column.
struct WindowAt {
  int n, p, q;

  __device__ WindowAt(const WgmmaPartParameters& part, int number) {
    q = take_digit(number, part.columns), p = take_digit(number, part.rows), n = number;
  }
  // The first of a region.
  __device__ WindowAt(const WgmmaPartParameters&, const WgmmaRegionParameters& region, int number) {
    q = take_digit(number, region.segments) * region.span;
    p = take_digit(number, region.row_tiles) * region.rows;
    n = number;
  }
};

template <typename scalar_t>
__device__ uint32_t rounded_pair(float low, float high) {
  union {
    scalar_t values[2];
    uint32_t bits;
  } pair;
  pair.values[0] = static_cast<scalar_t>(low), pair.values[1] = static_cast<scalar_t>(high);
  return pair.bits;
}

// The sums of a warpgroup's tile.
template <typename Kernel>
struct WgmmaSums {
  using scalar_t = typename Kernel::scalar_t;
  using Product = WarpgroupProduct<scalar_t, Kernel::kColumns>;
  static constexpr int kSums = Kernel::kColumns / 2;

  static constexpr int kIndices = 16;  // of the reduction, in one product

  float sums[Kernel::kRowBlocks][kSums];

  // Of a tile's indices 16 i .. Lines that run across the reduction come in boxes of 64 rows.
  template <bool kAcross>
  __device__ static uint64_t descriptor(uint32_t tile, int i) {
    if constexpr (kAcross) return matrix_descriptor(tile + i * kIndices * kLineBytes, kBoxBytes, 8 * kLineBytes);
    return matrix_descriptor(tile + i * kIndices * sizeof(scalar_t), 16, 8 * kLineBytes);
  }

  // Starts the products of a step.
  __device__ void multiply(const unsigned char* a_stage, const unsigned char* b_stage, bool adds_up) {
    const uint32_t a_tile = shared_address(a_stage), b_tile = shared_address(b_stage);
#pragma unroll
    for (int i = 0; i < kLineElements / kIndices; ++i) {
      const uint64_t b = descriptor<Kernel::kAcrossB>(b_tile, i);
#pragma unroll
      for (int block = 0; block < Kernel::kRowBlocks; ++block) {
        const uint64_t a = descriptor<Kernel::kAcrossA>(a_tile + block * kBoxBytes, i);
        Product::template add<Kernel::kAcrossA, Kernel::kAcrossB>(sums[block], a, b, adds_up || i > 0);
      }
    }
  }

  __device__ void set_zero() {
#pragma unroll
    for (int block = 0; block < Kernel::kRowBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[block][i] = 0;
    }
  }

  // Writes rows 64 block .. and columns 64 chunk .., rounded, as lines along the rows or the columns.
  __device__ void stage(int block, int chunk, bool rows_fastest, const float (&bias)[2], unsigned char* staged) const {
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, warp = thread / 32, lane = thread % 32;
    const int matrix = lane / 8, of_matrix = lane % 8;
#pragma unroll
    for (int i = 0; i < 8 && (chunk * 8 + i) * 8 < Kernel::kColumns; i += 2) {
      const float* from = &sums[block][(chunk * 8 + i) * 4];
      const uint32_t pairs[4] = {
          rounded_pair<scalar_t>(from[0] + bias[0], from[1] + bias[0]),
          rounded_pair<scalar_t>(from[2] + bias[1], from[3] + bias[1]),
          rounded_pair<scalar_t>(from[4] + bias[0], from[5] + bias[0]),
          rounded_pair<scalar_t>(from[6] + bias[1], from[7] + bias[1])};
      // Matrices 0 and 1 are the upper and lower eight rows, 2 and 3 the same of the next eight columns.
      const int eight_rows = warp * 2 + matrix % 2, eight_columns = i + matrix / 2;
      const int line = (rows_fastest ? eight_columns : eight_rows) * 8 + of_matrix;
      const int place = (rows_fastest ? eight_rows : eight_columns) ^ line % 8;
      if (rows_fastest) {
        store_matrices_transposed(staged + line * kLineBytes + place * 16, pairs);
      } else {
        store_matrices(staged + line * kLineBytes + place * 16, pairs);
      }
    }
  }
};

// Where a warpgroup writes its tile.
template <typename Kernel>
struct WgmmaOutput {
  using scalar_t = typename Kernel::scalar_t;
  const WgmmaParameters& parameters;
  const WgmmaTileAt& at;
  const WgmmaPartParameters& part;

  __device__ WgmmaOutput(const WgmmaParameters& parameters, const WgmmaTileAt& at)
      : parameters(parameters), at(at), part(parameters.parts[at.part]) {}

  // The window of a column of the tile; false where there is none.
  __device__ bool find_window(int column, WindowAt& window) const {
    if constexpr (Kernel::kRegions) {
      window = WindowAt(part, parameters.region, at.column);
      int row = column;
      const int across = take_digit(row, parameters.region.of_pitch);
      window.p += row, window.q += across;
      return row < parameters.region.rows && across < parameters.region.span && window.p < part.h.count &&
             window.q < part.w.count;
    } else {
      window = WindowAt(part, at.column + column);
      return at.column + column < part.pixels;
    }
  }

  // Elements from the group's first to row and column of the tile, or -1 where D has no such.
  __device__ int64_t offset(int row, int column) const {
    row += at.row;
    if (row >= parameters.rows) return -1;
    const int64_t of_row = row * parameters.d_row_step;
    if constexpr (Kernel::kSliced) {
      int tap = at.column + column / kLineElements;
      const int c = take_digit(tap, parameters.chunks) * kLineElements + column % kLineElements;
      const int r = tap / part.w.taps, s = tap - r * part.w.taps;
      if (r >= part.h.taps || c >= parameters.channels) return -1;
      return of_row + r * parameters.d_h + s * parameters.d_w + c * parameters.d_n;
    } else {
      WindowAt window(part, 0);
      if (!find_window(column, window)) return -1;
      if (parameters.has_phases) return phase_offset(row, window);
      return of_row + part.d_origin + window.n * parameters.d_n + window.p * parameters.d_h + window.q * parameters.d_w;
    }
  }

  __device__ int64_t phase_offset(int row, const WindowAt& window) const {
    const WgmmaPhases& phases = parameters.phases;
    const int c = take_digit(row, phases.channels), j = take_digit(row, phases.across);
    const int64_t h = window.p * phases.residues_h.stride + row, w = window.q * phases.residues_w.stride + j;
    if (h >= phases.residues_h.input || w >= phases.residues_w.input) return -1;
    return window.n * parameters.d_n + h * phases.d_h + w * phases.d_w + c * phases.d_c;
  }

  // Row and column of the tile without the zeros of the phases' weight.
  __device__ __noinline__ scalar_t exact_phase(int row, int column) const {
    const WgmmaPhases& phases = parameters.phases;
    WindowAt window(part, 0);
    find_window(column, window);
    int i = at.row + row;
    take_digit(i, phases.channels);
    const int j = take_digit(i, phases.across);
    const TransposedAxis::Residue of_h = phases.residues_h.residue(i), of_w = phases.residues_w.residue(j);
    const scalar_t* const gradient = static_cast<const scalar_t*>(phases.gradient) + window.n * phases.steps.n;
    const scalar_t* const weight = static_cast<const scalar_t*>(phases.weight);
    float sum = bias(row);
    for (int64_t t = 0; t < of_h.taps; ++t) {
      const int64_t p = window.p + of_h.first_output - t;
      if (p < 0 || p >= phases.output_h) continue;
      for (int64_t s = 0; s < of_w.taps; ++s) {
        const int64_t q = window.q + of_w.first_output - s;
        if (q < 0 || q >= phases.output_w) continue;
        const int64_t u = p - window.p - part.h.first, v = q - window.q - part.w.first;
        const scalar_t* const pixel = gradient + p * phases.steps.h + q * phases.steps.w;
        const scalar_t* const filter =
            weight + (int64_t{at.row + row} * part.h.taps * part.w.taps + u * part.w.taps + v) * phases.padded_K;
        for (int k = 0; k < phases.K; ++k) sum += static_cast<float>(pixel[k]) * static_cast<float>(filter[k]);
      }
    }
    return static_cast<scalar_t>(sum);
  }

  // Of a row of the tile.
  __device__ float bias(int row) const {
    row += at.row;
    if (parameters.bias == nullptr || row >= parameters.rows) return 0;
    if (parameters.has_phases) row = take_digit(row, parameters.phases.channels);
    return static_cast<float>(static_cast<const scalar_t*>(parameters.bias)[at.group * parameters.rows + row]);
  }

  __device__ void write(const WgmmaSums<Kernel>& sums, unsigned char* staged, int barrier) const {
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    if constexpr (Kernel::kSliced) {
      if (parameters.partials != nullptr) return write_partials(sums);
    }
    const bool rows_fastest = parameters.rows_fastest;
    scalar_t* const d = static_cast<scalar_t*>(parameters.d) + at.group * parameters.d_group_step;
    for_each_block([&](auto block) {
      const int first_row = block() * 64 + thread / 32 * 16 + thread % 32 / 4;
      const float biases[2] = {bias(first_row), bias(first_row + 8)};
      for_each_chunk([&](auto chunk) {
        // The room is free once all have read it.
        named_barrier_sync(barrier, kWarpgroup);
        sums.stage(block(), chunk(), rows_fastest, biases, staged);
        named_barrier_sync(barrier, kWarpgroup);
        const auto to = [&](int line, int place) {
          return offset(block() * 64 + (rows_fastest ? place : line), chunk() * 64 + (rows_fastest ? line : place));
        };
        const auto from = [&](int line, int place) {
          return reinterpret_cast<const scalar_t*>(staged + line * kLineBytes + (place / 8 ^ line % 8) * 16) +
                 place % 8;
        };
        if (parameters.vector_store) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int line = i * 16 + thread / 8, place = thread % 8 * 8;
            const int64_t place_of_d = to(line, place);
            if (place_of_d >= 0) Vector<scalar_t, 8>::load(from(line, place)).store(d + place_of_d);
          }
        } else {
          for (int i = 0; i < 32; ++i) {
            const int line = i * 2 + thread / 64, place = thread % 64;
            if (!rows_fastest && at.row + block() * 64 + line >= parameters.rows) break;
            const int64_t place_of_d = to(line, place);
            if (place_of_d < 0) continue;
            scalar_t value = *from(line, place);
            if constexpr (Kernel::kPass == Conv2dPass::forward && Kernel::kRowBlocks == 1) {
              const float result = static_cast<float>(value);
              const bool finite = result - result == 0;
              if (parameters.has_phases && !finite) value = exact_phase(line, chunk() * 64 + place);
            }
            d[place_of_d] = value;
          }
        }
      });
    });
  }

  // Eight lanes write eight rows side by side.
  __device__ void write_partials(const WgmmaSums<Kernel>& sums) const {
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = thread % 32;
    const int taps = part.h.taps * part.w.taps, groups = static_cast<int>(parameters.groups.divisor);
    const int64_t rows = parameters.rows, lines = parameters.partial_columns;
    float* const of_slice = parameters.partials + (int64_t{at.slice} * groups + at.group) * taps * lines * rows;
    for_each_chunk([&](auto chunk) {
      int tap = at.column + chunk();
      const int c = take_digit(tap, parameters.chunks) * kLineElements + lane % 4 * 2;
      const int channels = tap < taps ? parameters.partial_columns - c : 0;
      for_each_block([&](auto block) {
        const int row = at.row + block() * 64 + thread / 32 * 16 + lane / 4;
        float* const to = of_slice + (tap * lines + c) * rows + row;
#pragma unroll
        for (int upper = 0; upper < 2; ++upper) {
          if (row + upper * 8 >= parameters.rows) continue;
#pragma unroll
          for (int i = 0; i < 8; ++i) {
#pragma unroll
            for (int next = 0; next < 2; ++next) {
              if (i * 8 + next < channels) {
                to[(i * 8 + next) * rows + upper * 8] = sums.sums[block()][(chunk() * 8 + i) * 4 + upper * 2 + next];
              }
            }
          }
        }
      });
    });
  }

  // Registers are indexed by constants only.
  template <int kCount, typename Body>
  __device__ static void unrolled(const Body& body) {
    if constexpr (kCount > 0) {
      unrolled<kCount - 1>(body);
      body(std::integral_constant<int, kCount - 1>());
    }
  }
  template <typename Body>
  __device__ static void for_each_block(const Body& body) {
    unrolled<Kernel::kRowBlocks>(body);
  }
  template <typename Body>
  __device__ static void for_each_chunk(const Body& body) {
    unrolled<(Kernel::kColumns + 63) / 64>(body);
  }
};

}  // namespace convops
