// The tile product by multiply-adds of single elements: 8 warps of 32 x kColumns / 2, and in a warp 4 x 8 lanes of 8
// x kColumns / 16. Per 16-byte chunk of the reduction a thread of the wide float32 tile loads 16 chunks and does 256
// multiply-adds. Lanes take neighbouring rows, so that the chunks of one load lie in different banks or are the same.
#pragma once

#include <type_traits>

#include "gemm_tile.cuh"

namespace convops {

template <typename scalar, int kTileColumns, bool>
struct SimtEngine {
  using scalar_t = scalar;
  using acc_t = accumulator_t<scalar_t>;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSm = sizeof(scalar_t) == 4 ? 2 : 1;
  static constexpr int kNeighbours = 1;

  static constexpr int kChunk = 16 / sizeof(scalar_t);
  static constexpr int kThreadRows = 8, kThreadColumns = kColumns / 16;

  // Of float32, whose results show it, long sums are sums of short ones, 128 products each: the rounding error grows
  // with the square root of the longest chain of additions.
  static constexpr bool kInParts = std::is_same_v<scalar_t, float>;
  static constexpr int kTilesInPart = 8;

  acc_t sums[kThreadRows][kThreadColumns] = {};
  acc_t parts[kInParts ? kThreadRows : 1][kThreadColumns] = {};
  int tiles = 0;

  __device__ static int row() {
    const int thread = static_cast<int>(threadIdx.x);
    return thread / 64 * 32 + thread % 32 / 8;
  }
  __device__ static int column() {
    const int thread = static_cast<int>(threadIdx.x);
    return thread / 32 % 2 * (kColumns / 2) + thread % 8;
  }

  template <Access, Access>
  __device__ void multiply(const unsigned char* a_tile, const unsigned char* b_tile) {
    using Chunk = Vector<scalar_t, kChunk>;
    const auto load = [](const unsigned char* tile, int row, int chunk) {
      return Chunk::load(reinterpret_cast<const scalar_t*>(tile + chunk_along_reduction(row, chunk)));
    };
#pragma unroll
    for (int chunk = 0; chunk < kTileReductionBytes / 16; ++chunk) {
      Chunk b[kThreadColumns];
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) b[j] = load(b_tile, column() + j * 8, chunk);
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
        const Chunk a = load(a_tile, row() + i * 4, chunk);
#pragma unroll
        for (int e = 0; e < kChunk; ++e) {
#pragma unroll
          for (int j = 0; j < kThreadColumns; ++j) {
            sums[i][j] += static_cast<acc_t>(a[e]) * static_cast<acc_t>(b[j][e]);
          }
        }
      }
    }
    if constexpr (kInParts) {
      if (++tiles % kTilesInPart == 0) {
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
          for (int j = 0; j < kThreadColumns; ++j) parts[i][j] += sums[i][j], sums[i][j] = 0;
        }
      }
    }
  }

  template <typename Function>
  __device__ void for_each(const Function& function) const {
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        const acc_t sum = kInParts ? parts[kInParts ? i : 0][j] + sums[i][j] : sums[i][j];
        function(row() + i * 4, column() + j * 8, Vector<acc_t, 1>{{sum}});
      }
    }
  }
};

}  // namespace convops
