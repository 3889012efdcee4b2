// The kernel of the implicit matrix product on Hopper GPUs.
//
// One block an SM walks over tiles. Of its three warpgroups one only starts copies, which run several steps ahead
// through a ring of stages in shared memory; the other two take turns with whole tiles, so that one writes its results
// while the other's products keep the tensor cores busy. An order between them makes each issue the products of a tile
// in one go: the second does not wait for stages that the first has not read.
//
// Per step a tile of 128 x 192 reads 40 KB for 3.1 Mflop, which is 9 TB/s at 690 Tflop/s; most of it hits L2, since the
// blocks of a wave read neighbouring windows and the same weight.
#pragma once

#include "../common/vector.cuh"
#include "gemm_kernel.cuh"
#include "wgmma_plan.cuh"

namespace convops {

constexpr int kWarpgroup = 128, kWgmmaThreads = 3 * kWarpgroup;
// A box of 64 lines, and the room in which a warpgroup turns 64 x 64 results round.
constexpr int kBoxBytes = 64 * kLineBytes;
// Of an SM of compute capability 9.0, for one block.
constexpr int kSharedBytes = 227 * 1024;

template <typename scalar, Conv2dPass kThePass, int kTileRowBlocks, int kTileColumns>
struct WgmmaKernel {
  using scalar_t = scalar;
  static constexpr Conv2dPass kPass = kThePass;
  static constexpr int kRowBlocks = kTileRowBlocks, kColumns = kTileColumns;
  static constexpr WgmmaTile kTile{kRowBlocks, kColumns};
  static constexpr bool kSliced = kPass == Conv2dPass::grad_weight;
  // Whether lines run across the reduction.
  static constexpr bool kAcrossA = kPass != Conv2dPass::forward, kAcrossB = kSliced;
  static constexpr int kABytes = kTile.rows() * kLineBytes, kStageBytes = kTile.step_bytes();
  // Stages lie on multiples of 1024 bytes, the swizzle's period; barriers are static.
  static constexpr int kStages = (kSharedBytes - 3 * 1024 - 2 * kBoxBytes) / kStageBytes;
  static constexpr int kDynamicBytes = kStages * kStageBytes + 2 * kBoxBytes + 1024;
  // Three warpgroups start with 168 registers a thread. Those that multiply take over what the one that copies can do
  // without: with 192 sums a thread all but the least.
  static constexpr bool kManySums = kRowBlocks * kColumns > 256;
  static constexpr int kCopyRegisters = kManySums ? 24 : 40, kMultiplyRegisters = kManySums ? 240 : 232;
};

// A part as the kernel reads it.
struct WgmmaPartParameters {
  CUtensorMap windows;
  WgmmaAxis h, w;
  Divisor<int32_t> rows, columns;  // windows of an image
  int64_t d_origin;
  int pixels, steps;
};

constexpr int kPartsOfLaunch = 4;

struct WgmmaParameters {
  CUtensorMap a;
  WgmmaPartParameters parts[kPartsOfLaunch];
  Divisor<int32_t> row_tiles, groups, tiles_of_part, chunks, column_tiles;
  int tiles;
  int rows, S;                     // of D of a group; of the weight
  int a_group_step, b_group_step;  // of the operands' coordinates
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
};

template <typename Kernel>
__device__ WgmmaTileAt wgmma_tile_at(const WgmmaParameters& parameters, int tile) {
  WgmmaTileAt at{};
  at.part = tile;
  tile = take_digit(at.part, parameters.tiles_of_part);
  // Tiles of the same columns are neighbours in time: they share the larger operand.
  at.row = take_digit(tile, parameters.row_tiles) * Kernel::kTile.rows();
  at.group = take_digit(tile, parameters.groups);
  const int column_tile = Kernel::kSliced ? take_digit(tile, parameters.column_tiles) : tile;
  at.column = column_tile * (Kernel::kSliced ? Kernel::kColumns / kLineElements : Kernel::kColumns);
  at.slice = Kernel::kSliced ? tile : 0;
  at.first_step = at.slice * parameters.slice_steps;
  const int left = parameters.parts[at.part].steps - at.first_step;
  at.steps = Kernel::kSliced && left > parameters.slice_steps ? parameters.slice_steps : left;
  if (!Kernel::kSliced && at.column >= parameters.parts[at.part].pixels) at.steps = 0;
  return at;
}

// A place in the ring: the stage and the parity of its phase.
template <int kStages>
struct RingPosition {
  int stage = 0, parity = 0;

  __device__ void advance(int steps = 1) {
    const int next = stage + steps;
    parity ^= next / kStages & 1;
    stage = next % kStages;
  }
};

template <int kStages>
struct Ring {
  uint64_t full[kStages], empty[kStages];
};

// The first window of a tile, as TMA wants it.
struct WindowAt {
  int n, h, w;

  __device__ WindowAt(const WgmmaPartParameters& part, int pixel) {
    const int q = take_digit(pixel, part.columns), p = take_digit(pixel, part.rows);
    n = pixel, h = part.h.first + p * part.h.stride, w = part.w.first + q * part.w.stride;
  }
};

// One thread starts the copies of all tiles of its block.
template <typename Kernel>
__device__ void wgmma_copy(const WgmmaParameters& parameters, unsigned char* stages, Ring<Kernel::kStages>& ring) {
  RingPosition<Kernel::kStages> position;
  const auto begin = [&](int bytes) {
    barrier_wait(&ring.empty[position.stage], position.parity ^ 1);
    barrier_arrive_expecting(&ring.full[position.stage], bytes);
    return stages + position.stage * Kernel::kStageBytes;
  };
  for (int tile = static_cast<int>(blockIdx.x); tile < parameters.tiles; tile += static_cast<int>(gridDim.x)) {
    const WgmmaTileAt at = wgmma_tile_at<Kernel>(parameters, tile);
    const WgmmaPartParameters& part = parameters.parts[at.part];
    const auto copy_window = [&](unsigned char* to, const WindowAt& window, int c, int r, int s) {
      copy_pixels(
          to, part.windows, &ring.full[position.stage], at.group * parameters.b_group_step + c, window.w, window.h,
          window.n, static_cast<uint16_t>(s * part.w.offset_step), static_cast<uint16_t>(r * part.h.offset_step));
    };
    if constexpr (Kernel::kSliced) {
      const int columns = static_cast<int>(parameters.chunks.divisor) * part.h.taps * part.w.taps - at.column;
      constexpr int kLines = Kernel::kColumns / kLineElements;
      const int lines = columns < kLines ? columns : kLines;
      for (int step = at.first_step; step < at.first_step + at.steps; ++step) {
        const int pixel = step * kLineElements;
        const WindowAt window(part, pixel);
        unsigned char* to = begin(Kernel::kABytes + lines * kBoxBytes);
        for (int i = 0; i < Kernel::kRowBlocks; ++i) {
          copy_box(
              to + i * kBoxBytes, parameters.a, &ring.full[position.stage],
              at.group * parameters.a_group_step + at.row + i * 64, pixel, 0);
        }
        for (int i = 0; i < lines; ++i) {
          int tap = at.column + i;
          const int chunk = take_digit(tap, parameters.chunks);
          copy_window(
              to + Kernel::kABytes + i * kBoxBytes, window, chunk * kLineElements, tap / part.w.taps,
              tap % part.w.taps);
        }
        position.advance();
      }
    } else {
      if (at.steps == 0) continue;
      const WindowAt window(part, at.column);
      const int chunks = static_cast<int>(parameters.chunks.divisor);
      const int outside = parameters.channels_outside ? chunks : 1, inside = chunks / outside;
      for (int outer = 0; outer < outside; ++outer) {
        for (int r = 0; r < part.h.taps; ++r) {
          for (int s = 0; s < part.w.taps; ++s) {
            for (int inner = 0; inner < inside; ++inner) {
              const int c = (outer + inner) * kLineElements;
              const int tap = (part.h.weight_first + r * part.h.weight_step) * parameters.S + part.w.weight_first +
                              s * part.w.weight_step;
              unsigned char* to = begin(Kernel::kStageBytes);
              uint64_t* full = &ring.full[position.stage];
              if constexpr (Kernel::kAcrossA) {
                for (int i = 0; i < Kernel::kRowBlocks; ++i) {
                  copy_box(
                      to + i * kBoxBytes, parameters.a, full, at.row + i * 64, tap,
                      at.group * parameters.a_group_step + c);
                }
              } else {
                copy_box(to, parameters.a, full, c, tap, at.group * parameters.a_group_step + at.row);
              }
              copy_window(to + Kernel::kABytes, window, c, r, s);
              position.advance();
            }
          }
        }
      }
    }
  }
}

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

  float sums[Kernel::kRowBlocks][kSums];

  // Starts the products of a stage.
  __device__ void multiply(const unsigned char* stage, bool adds_up) {
    const uint32_t a_tile = shared_address(stage), b_tile = a_tile + Kernel::kABytes;
    constexpr int kIndices = 16;  // of the reduction, in one product
    constexpr uint32_t kAlong = kIndices * sizeof(scalar_t), kAcross = kIndices * kLineBytes;
#pragma unroll
    for (int i = 0; i < kLineElements / kIndices; ++i) {
      const uint64_t b =
          matrix_descriptor(b_tile + i * (Kernel::kAcrossB ? kAcross : kAlong), kBoxBytes, 8 * kLineBytes);
#pragma unroll
      for (int block = 0; block < Kernel::kRowBlocks; ++block) {
        const uint64_t a = matrix_descriptor(
            a_tile + block * kBoxBytes + i * (Kernel::kAcrossA ? kAcross : kAlong), kBoxBytes, 8 * kLineBytes);
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
    for (int i = 0; i < 8; i += 2) {
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

  // Elements from the group's first, or -1 where D has no such row or column. A column is given by its number in the
  // tile.
  __device__ int64_t row_offset(int row) const {
    return at.row + row < parameters.rows ? (at.row + row) * parameters.d_row_step : -1;
  }
  __device__ int64_t column_offset(int column) const {
    if constexpr (Kernel::kSliced) {
      int tap = at.column + column / kLineElements;
      const int c = take_digit(tap, parameters.chunks) * kLineElements + column % kLineElements;
      const int r = tap / part.w.taps, s = tap - r * part.w.taps;
      return r < part.h.taps && c < parameters.channels ? r * parameters.d_h + s * parameters.d_w + c * parameters.d_n
                                                        : -1;
    } else {
      int pixel = at.column + column;
      if (pixel >= part.pixels) return -1;
      const int q = take_digit(pixel, part.columns), p = take_digit(pixel, part.rows);
      return part.d_origin + pixel * parameters.d_n + p * parameters.d_h + q * parameters.d_w;
    }
  }

  __device__ void write(const WgmmaSums<Kernel>& sums, unsigned char* staged, int barrier) const {
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    if constexpr (Kernel::kSliced) {
      if (parameters.partials != nullptr) return write_partials(sums);
    }
    const bool rows_fastest = parameters.rows_fastest;
    scalar_t* const d = static_cast<scalar_t*>(parameters.d) + at.group * parameters.d_group_step;
    for_each_block([&](auto block) {
      float bias[2] = {0, 0};
      if (parameters.bias != nullptr) {
        const scalar_t* of_group = static_cast<const scalar_t*>(parameters.bias) + at.group * parameters.rows;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = at.row + block() * 64 + thread / 32 * 16 + thread % 32 / 4 + i * 8;
          if (row < parameters.rows) bias[i] = static_cast<float>(of_group[row]);
        }
      }
      for_each_chunk([&](auto chunk) {
        // The room is free once all have read it.
        named_barrier_sync(barrier, kWarpgroup);
        sums.stage(block(), chunk(), rows_fastest, bias, staged);
        named_barrier_sync(barrier, kWarpgroup);
        const auto offset = [&](int line, int place) {
          const int row = block() * 64 + (rows_fastest ? place : line);
          const int column = chunk() * 64 + (rows_fastest ? line : place);
          const int64_t of_row = row_offset(row), of_column = column_offset(column);
          return of_row < 0 || of_column < 0 ? -1 : of_row + of_column;
        };
        const auto from = [&](int line, int place) {
          return reinterpret_cast<const scalar_t*>(staged + line * kLineBytes + (place / 8 ^ line % 8) * 16) +
                 place % 8;
        };
        if (parameters.vector_store) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int line = i * 16 + thread / 8, place = thread % 8 * 8;
            const int64_t to = offset(line, place);
            if (to >= 0) Vector<scalar_t, 8>::load(from(line, place)).store(d + to);
          }
        } else {
          for (int i = 0; i < 32; ++i) {
            const int line = i * 2 + thread / 64, place = thread % 64;
            const int64_t to = offset(line, place);
            if (to >= 0) d[to] = *from(line, place);
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
    unrolled<Kernel::kColumns / 64>(body);
  }
};

// What a warpgroup that multiplies does, number `turn` of two.
template <typename Kernel>
__device__ void wgmma_multiply(
    const WgmmaParameters& parameters, const unsigned char* stages, unsigned char* staged, Ring<Kernel::kStages>& ring,
    int turn) {
  const int lane = static_cast<int>(threadIdx.x) % 32, blocks = static_cast<int>(gridDim.x);
  const int staging_barrier = 1 + turn, own_turn = 3 + turn, other_turn = 4 - turn;
  RingPosition<Kernel::kStages> position;
  WgmmaSums<Kernel> result;
  int tile = static_cast<int>(blockIdx.x);
  // The other's tile before and after each of one's own.
  const auto skip = [&] {
    if (tile < parameters.tiles) position.advance(wgmma_tile_at<Kernel>(parameters, tile).steps);
    tile += blocks;
  };
  if (turn == 1) {
    skip();
    named_barrier_arrive(other_turn, 2 * kWarpgroup);
  }
  while (tile < parameters.tiles) {
    const WgmmaTileAt at = wgmma_tile_at<Kernel>(parameters, tile);
    named_barrier_sync(own_turn, 2 * kWarpgroup);
    int reading = -1;
    for (int step = 0; step < at.steps; ++step) {
      barrier_wait(&ring.full[position.stage], position.parity);
      products_begin();
      result.multiply(stages + position.stage * Kernel::kStageBytes, step > 0);
      products_commit();
      // The step before has been read.
      products_wait<1>();
      if (reading >= 0 && lane == 0) barrier_arrive(&ring.empty[reading]);
      reading = position.stage;
      position.advance();
    }
    named_barrier_arrive(other_turn, 2 * kWarpgroup);
    products_wait<0>();
    if (reading >= 0 && lane == 0) barrier_arrive(&ring.empty[reading]);
    if (at.steps == 0) result.set_zero();
    WgmmaOutput<Kernel>(parameters, at).write(result, staged, staging_barrier);
    tile += blocks;
    skip();
  }
}

template <typename Kernel>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    conv2d_implicit_gemm_wgmma_kernel(const __grid_constant__ WgmmaParameters parameters) {
#ifdef CONVOPS_SM90A
  __shared__ Ring<Kernel::kStages> ring;
  unsigned char* shared = dynamic_shared();
  shared += (1024 - shared_address(shared) % 1024) % 1024;
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Kernel::kStages; ++i) {
      barrier_init(&ring.full[i], 1);
      barrier_init(&ring.empty[i], kWarpgroup / 32);
    }
    barrier_fence_init();
  }
  __syncthreads();
  if (warpgroup == 0) {
    shrink_registers<Kernel::kCopyRegisters>();
    if (threadIdx.x == 0) wgmma_copy<Kernel>(parameters, shared, ring);
  } else {
    grow_registers<Kernel::kMultiplyRegisters>();
    unsigned char* const staged = shared + Kernel::kStages * Kernel::kStageBytes + (warpgroup - 1) * kBoxBytes;
    wgmma_multiply<Kernel>(parameters, shared, staged, ring, warpgroup - 1);
  }
#endif
}

}  // namespace convops
