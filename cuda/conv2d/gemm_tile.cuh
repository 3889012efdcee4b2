// Tiles of A and B in shared memory, and the threads' ways of filling them.
#pragma once

#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/tensor_core.cuh"
#include "../common/vector.cuh"
#include "gemm_plan.cuh"

namespace convops {

// Byte offset of a 16-byte chunk in a tile whose rows are 64 bytes of reduction. Chunks of two rows fill the 32
// banks; the exclusive or spreads the same chunk of 8 rows over all of them.
__device__ inline int chunk_along_reduction(int row, int chunk) {
  return row * kTileReductionBytes + ((chunk ^ (row >> 1)) & 3) * 16;
}

// The same in a tile whose lines, one for each index of the reduction, are kRows two-byte elements.
template <int kRows>
__device__ inline int chunk_along_rows(int line, int chunk) {
  return line * kRows * 2 + (chunk ^ (line & 7)) * 16;
}

// The share of one thread in copying a tile: kLoads chunks. Their rows stay the same from tile to tile; the positions
// of the reduction's indices come from a table that the block keeps in shared memory. A loader that is not kBordered
// takes the border for zeros.
template <typename scalar_t, Access kAccess, int kRows, int kThreads, bool kBordered>
struct TileLoader {
  static constexpr int kChunk = 16 / sizeof(scalar_t);
  static constexpr int kLoads = kRows * (kTileReductionBytes / 16) / kThreads;
  static constexpr int kBytes = kRows * kTileReductionBytes;
  static_assert(kAccess != Access::along_rows || sizeof(scalar_t) == 2);

  const scalar_t* rows[kLoads];
  int h[kLoads], w[kLoads];
  Vector<scalar_t, kChunk> held[kAccess == Access::gather ? kLoads : 1];

  __device__ TileLoader(const Operand& operand, const void* base, int64_t group, int64_t first_row, int64_t end_row) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const Position position = operand.rows.at(first_row + row(i), end_row);
      rows[i] = static_cast<const scalar_t*>(base) + group * operand.group_step + position.offset;
      h[i] = position.h, w[i] = position.w;
    }
  }

  // Lanes run along the fastest axis in memory, or along rows where there is none.
  __device__ static int row(int i) {
    const int load = i * kThreads + static_cast<int>(threadIdx.x);
    if constexpr (kAccess == Access::gather) return load % kRows;
    if constexpr (kAccess == Access::along_reduction) return load / 4;
    return load % (kRows / kChunk) * kChunk;
  }
  __device__ static int reduction(int i) {
    const int load = i * kThreads + static_cast<int>(threadIdx.x);
    if constexpr (kAccess == Access::gather) return load / kRows * kChunk;
    if constexpr (kAccess == Access::along_reduction) return load % 4 * kChunk;
    return load / (kRows / kChunk);
  }
  __device__ static int destination(int i) {
    if constexpr (kAccess == Access::along_rows) return chunk_along_rows<kRows>(reduction(i), row(i) / kChunk);
    return chunk_along_reduction(row(i), reduction(i) / kChunk);
  }

  // Starts the copies. Gathered elements wait in registers for store().
  __device__ void fetch(const Operand& operand, const Position* table, unsigned char* tile) {
    // All chunks of a thread are of the same place in the reduction; the table is not read again behind a copy.
    const Position place = table[reduction(0)];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      // Whether a step from the row reaches an element, not a zero. A step into the padding is moved to what it shows.
      const auto reaches = [&](Position& step) {
        const Position position{step.offset, h[i] + step.h, w[i] + step.w};
        const bool inside = operand.contains(position);
        if constexpr (kBordered) {
          if (!inside && !position.is_nowhere()) {
            step.offset += operand.border_offset(position);
            return true;
          }
        }
        return inside;
      };
      if constexpr (kAccess == Access::gather) {
#pragma unroll
        for (int e = 0; e < kChunk; ++e) {
          Position step = table[reduction(i) + e];
          held[i][e] = reaches(step) ? rows[i][step.offset] : static_cast<scalar_t>(0.0f);
        }
      } else {
        Position step = kAccess == Access::along_reduction ? place : table[reduction(i)];
        const bool valid = reaches(step);
        copy_async(tile + destination(i), rows[i] + step.offset, valid);
      }
    }
  }

  __device__ void store(unsigned char* tile) const {
    if constexpr (kAccess == Access::gather) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) held[i].store(reinterpret_cast<scalar_t*>(tile + destination(i)));
    }
  }
};

}  // namespace convops
