// The tile product on tensor cores, by mma.sync.
//
// Four warps share a tile, each with 64 rows and half of the columns: per 32 bytes of the reduction a warp of the wide
// tile loads 8 blocks of fragments (4 KB) for 32 instructions, 64 flops a byte. With the copies that come in, a wide
// step moves 48 KB through shared memory, 384 cycles of 128 bytes, for 1 Mflop, 256 cycles at an H100's peak and about
// 400 at what mma.sync reaches of it; with eight warps of 64 x 32 it would be 64 KB, 512 cycles. 64 x 64 sums and two
// blocks on an SM leave 127 registers for all else. Gathered elements wait in registers: there eight warps of 32 x 32.
#pragma once

#include "gemm_tile.cuh"

namespace convops {

template <typename scalar, int kTileColumns, bool kGathers>
struct TensorCoreEngine {
  using scalar_t = scalar;
  using acc_t = float;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = kGathers ? 256 : 128;
  static constexpr int kBlocksPerSm = kGathers || kColumns > 64 ? 2 : 3;
  static constexpr int kNeighbours = 2;

  static constexpr int kWarpsAcross = 2, kWarpColumns = kColumns / kWarpsAcross;
  static constexpr int kWarpRows = kTileRows * kWarpsAcross / (kThreads / 32);
  static constexpr int kRowBlocks = kWarpRows / 16, kColumnBlocks = kWarpColumns / 8;

  float sums[kRowBlocks][kColumnBlocks][4] = {};

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp_row() { return static_cast<int>(threadIdx.x) / 32 / kWarpsAcross * kWarpRows; }
  __device__ static int warp_column() { return static_cast<int>(threadIdx.x) / 32 % kWarpsAcross * kWarpColumns; }

  // Loads a 16 x 32-byte block. A wants its four 8 x 16-byte matrices by rows first, B by the reduction first, so
  // lanes 8..15 and 16..23 trade places.
  template <Access kAccess, int kRows, bool kRowsFirst>
  __device__ static void load_block(uint32_t (&block)[4], const unsigned char* tile, int row, int step) {
    const int low = lane() / 8 % 2 * 8, high = lane() / 16 * 8;
    const int in_rows = kRowsFirst ? low : high, in_reduction = kRowsFirst ? high : low;
    if constexpr (kAccess == Access::along_rows) {
      const int line = step * 16 + in_reduction + lane() % 8;
      load_matrices_transposed(block, tile + chunk_along_rows<kRows>(line, (row + in_rows) / 8));
    } else {
      const int chunk = step * 2 + in_reduction / 8;
      load_matrices(block, tile + chunk_along_reduction(row + in_rows + lane() % 8, chunk));
    }
    if constexpr (sizeof(scalar_t) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) block[i] = round_to_tf32(block[i]);
    }
  }

  template <Access kAccessA, Access kAccessB>
  __device__ void multiply(const unsigned char* a_tile, const unsigned char* b_tile) {
#pragma unroll
    for (int step = 0; step < kTileReductionBytes / 32; ++step) {
      uint32_t a[kRowBlocks][4], b[kColumnBlocks][2];
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
        load_block<kAccessA, kTileRows, true>(a[i], a_tile, warp_row() + i * 16, step);
      }
#pragma unroll
      for (int j = 0; j < kColumnBlocks; j += 2) {
        uint32_t pair[4];
        load_block<kAccessB, kColumns, false>(pair, b_tile, warp_column() + j * 8, step);
        b[j][0] = pair[0], b[j][1] = pair[1];
        b[j + 1][0] = pair[2], b[j + 1][1] = pair[3];
      }
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
        for (int j = 0; j < kColumnBlocks; ++j) multiply_accumulate<scalar_t>(sums[i][j], a[i], b[j]);
      }
    }
  }

  // Calls function(row, column, sums of this column and the next) for what this thread holds.
  template <typename Function>
  __device__ void for_each(const Function& function) const {
    const int row = warp_row() + lane() / 4, column = warp_column() + lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          function(row + i * 16 + e * 8, column + j * 8, Vector<float, 2>{{sums[i][j][2 * e], sums[i][j][2 * e + 1]}});
        }
      }
    }
  }
};

}  // namespace convops
