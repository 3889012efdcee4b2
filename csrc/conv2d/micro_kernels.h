// The two inner loops that every dense convolution spends its time in. Both keep a tile of accumulators in registers:
// a column of scalars times two vectors of channels.
#pragma once

#include "../common/simd.h"

namespace convops {
namespace CONVOPS_ISA {

// A stretch of packed scalars to walk through, and the packed weights that belong to it.
struct Run {
  int64_t source, weight, length;
};

// Target channels of a tile.
template <typename T>
constexpr int kBlock = 2 * kLanes<T>;
// Scalars of a tile: 14 x 2 accumulators, two weights and one broadcast use 31 of 32 registers, 6 x 2 use 15 of 16.
constexpr int kMaxScalars = kVectorRegisters == 32 ? 14 : 6;

// out[j][:] = from[j * from_step + :] + sum over runs and their positions i of source[run.source + i + j * step] *
// weight[run.weight + i][:]
// One step loads 2 vectors and kMaxScalars scalars for 2 * kMaxScalars FMAs. from is a bias (from_step 0) or what
// earlier runs came to. kVectors is 1 for a block whose channels fit one vector: the second half is then neither read
// nor written.
template <typename T, int kScalars, int kVectors = 2>
void multiply_tile(
    const T* source, int64_t step, const Run* runs, int64_t run_count, const T* weight, const T* from,
    int64_t from_step, T* out, int64_t out_step) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[kScalars][kVectors] = {};
  const int64_t step3 = 3 * step;
  for (const Run* run = runs; run < runs + run_count; ++run) {
    // Four base pointers and two strides address 14 scalars without an index register each.
    const T* a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) a[i] = source + run->source + 4 * i * step;
    const T* w = weight + run->weight;
    for (int64_t i = 0; i < run->length; ++i) {
      Vector<T> values[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) values[v] = load(w + v * lanes);
#pragma GCC unroll 16
      for (int j = 0; j < kScalars; ++j) {
        const T* p = a[j / 4] + i;
        Vector<T> x = broadcast(p[j % 4 == 0 ? 0 : j % 4 == 1 ? step : j % 4 == 2 ? 2 * step : step3]);
        CONVOPS_PIN(x);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[j][v] += x * values[v];
      }
      w += kBlock<T>;
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kScalars; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      store(out + j * out_step + v * lanes, load(from + j * from_step + v * lanes) + sum[j][v]);
  }
}

template <typename T>
using MultiplyTile = void (*)(const T*, int64_t, const Run*, int64_t, const T*, const T*, int64_t, T*, int64_t);

template <typename T>
MultiplyTile<T> multiply_tile_instance(int64_t scalars, int64_t vectors) {
  return select_instance<kMaxScalars>(scalars, []<int N>() {
    return +[](int64_t n) { return n == 1 ? &multiply_tile<T, N, 1> : &multiply_tile<T, N, 2>; };
  })(vectors);
}

// out[m][:] += sum over rows i and columns j of rows[i][offset + j * step + m] * gradient[i * pitch + j][:]
// A null row is a row of padding. The sum of a tile starts from zero, so that rounding grows with the tile and the
// number of tiles, not with the whole image. kVectors as above.
template <typename T, int kScalars, int kVectors = 2>
void accumulate_outer(
    const T* const* rows, int64_t offset, int64_t step, const T* gradient, int64_t pitch, int64_t row_count,
    int64_t columns, T* out) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[kScalars][kVectors] = {};
  for (int64_t i = 0; i < row_count; ++i) {
    if (rows[i] == nullptr) continue;
    const T* x = rows[i] + offset;
    const T* g = gradient + i * pitch * kBlock<T>;
    for (int64_t j = 0; j < columns; ++j) {
      Vector<T> values[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) values[v] = load(g + v * lanes);
#pragma GCC unroll 16
      for (int m = 0; m < kScalars; ++m) {
        Vector<T> b = broadcast(x[m]);
        CONVOPS_PIN(b);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[m][v] += b * values[v];
      }
      x += step;
      g += kBlock<T>;
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kScalars; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      T* to = out + m * kBlock<T> + v * lanes;
      store(to, load(to) + sum[m][v]);
    }
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
