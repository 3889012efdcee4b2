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

// Where the scalars of a tile, or the vectors that belong to them, are: `next` apart in a line, lines `line` apart.
struct TileSteps {
  int64_t next, line;
};

// Scalar j of line l: out[l][j][:] = from[l][j][:] + sum over runs and their positions i of
// source[l][j][run.source + i] * weight[run.weight + i][:]
// One step loads 2 vectors and a scalar for each 2 FMAs. Lines are those of several images, so that narrow ones fill
// the registers, too. from is a bias (of no steps) or what earlier runs came to. kVectors is 1 for a block whose
// channels fit one vector: the second half is then neither read nor written.
template <typename T, int kScalars, int kVectors = 2, int kLines = 1>
void multiply_tile(
    const T* source, TileSteps steps, const Run* runs, int64_t run_count, const T* weight, const T* from,
    TileSteps from_steps, T* out, TileSteps out_steps) {
  constexpr int lanes = kLanes<T>, pointers = (kScalars + 3) / 4;  // of a line
  static_assert(kLines * pointers <= 4 && kLines * kScalars <= kMaxScalars);
  Vector<T> sum[kLines][kScalars][kVectors] = {};
  const int64_t step = steps.next, step3 = 3 * step;
  for (const Run* run = runs; run < runs + run_count; ++run) {
    // Four base pointers and two strides address 14 scalars without an index register each.
    const T* a[kLines][pointers];
#pragma GCC unroll 4
    for (int l = 0; l < kLines; ++l) {
#pragma GCC unroll 4
      for (int i = 0; i < pointers; ++i) a[l][i] = source + run->source + l * steps.line + 4 * i * step;
    }
    const T* w = weight + run->weight;
    for (int64_t i = 0; i < run->length; ++i) {
      Vector<T> values[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) values[v] = load(w + v * lanes);
#pragma GCC unroll 4
      for (int l = 0; l < kLines; ++l) {
#pragma GCC unroll 16
        for (int j = 0; j < kScalars; ++j) {
          const T* p = a[l][j / 4] + i;
          Vector<T> x = broadcast(p[j % 4 == 0 ? 0 : j % 4 == 1 ? step : j % 4 == 2 ? 2 * step : step3]);
          CONVOPS_PIN(x);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sum[l][j][v] += x * values[v];
        }
      }
      w += kBlock<T>;
    }
  }
#pragma GCC unroll 4
  for (int l = 0; l < kLines; ++l) {
#pragma GCC unroll 16
    for (int j = 0; j < kScalars; ++j) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const Vector<T> start = load(from + l * from_steps.line + j * from_steps.next + v * lanes);
        store(out + l * out_steps.line + j * out_steps.next + v * lanes, start + sum[l][j][v]);
      }
    }
  }
}

template <typename T>
using MultiplyTile = void (*)(const T*, TileSteps, const Run*, int64_t, const T*, const T*, TileSteps, T*, TileSteps);

// The most lines of so many scalars that fit a tile.
constexpr int most_lines(int scalars) {
  const int by_registers = kMaxScalars / scalars, by_pointers = 4 / ((scalars + 3) / 4);
  return by_registers < by_pointers ? by_registers : by_pointers;
}

template <typename T>
MultiplyTile<T> multiply_tile_instance(int64_t scalars, int64_t vectors, int64_t lines = 1) {
  return select_instance<kMaxScalars>(scalars, []<int N>() {
    return +[](int64_t v, int64_t count) {
      return select_instance<most_lines(N)>(count, []<int L>() {
        return +[](int64_t n) { return n == 1 ? &multiply_tile<T, N, 1, L> : &multiply_tile<T, N, 2, L>; };
      })(v);
    };
  })(vectors, lines);
}

// out[m][:] += sum over rows i and columns j of rows[i][offset + j * step + m] * gradient[i][j][:]
// A null row is a row of padding. The sum of a tile starts from zero, so that rounding grows with the tile and the
// number of tiles, not with the whole image. kVectors as above.
template <typename T, int kScalars, int kVectors = 2>
void accumulate_outer(
    const T* const* rows, int64_t offset, int64_t step, const T* gradient, TileSteps gradient_steps, int64_t row_count,
    int64_t columns, T* out) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[kScalars][kVectors] = {};
  for (int64_t i = 0; i < row_count; ++i) {
    if (rows[i] == nullptr) continue;
    const T* x = rows[i] + offset;
    const T* g = gradient + i * gradient_steps.line;
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
      g += gradient_steps.next;
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

template <typename T>
using AccumulateOuter = void (*)(const T* const*, int64_t, int64_t, const T*, TileSteps, int64_t, int64_t, T*);

template <typename T>
AccumulateOuter<T> accumulate_outer_instance(int64_t scalars, int64_t vectors) {
  return select_instance<kMaxScalars>(scalars, []<int N>() {
    return +[](int64_t v) { return v == 1 ? &accumulate_outer<T, N, 1> : &accumulate_outer<T, N, 2>; };
  })(vectors);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
