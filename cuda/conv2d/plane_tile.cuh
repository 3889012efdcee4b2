// Tiles of contiguous planes in shared memory, with the halo that a window needs, moved in 16-byte pieces although the
// rows of an image start anywhere: a run of a tile is cut out of the two aligned pieces of memory that hold it.
#pragma once

#include "../common/index.cuh"
#include "../common/launch.cuh"
#include "../common/vector.cuh"

namespace convops {

template <typename scalar_t>
constexpr int kRunLength = kVectorBytes / static_cast<int>(sizeof(scalar_t));

template <typename scalar_t>
using Run = Vector<scalar_t, kRunLength<scalar_t>>;

// Elements [column, column + run) of a row of that width, zeros beyond its ends. Nothing outside of [begin, end), where
// the tensor lies, is read.
template <typename scalar_t>
__device__ Run<scalar_t> load_run(
    const scalar_t* row, int column, int width, const scalar_t* begin, const scalar_t* end) {
  constexpr int kRun = kRunLength<scalar_t>;
  union {
    uint32_t words[8];
    Run<scalar_t> run;
  } held;
#pragma unroll
  for (int i = 0; i < 8; ++i) held.words[i] = 0;
  const int first = column < 0 ? -column : 0, last = width - column < kRun ? width - column : kRun;
  if (first >= last) return held.run;
  // Pointers, never made from integers: of those the compiler would not know that they are to global memory.
  const scalar_t* const from = row + column;
  const int shift = static_cast<int>(reinterpret_cast<uintptr_t>(from) % kVectorBytes);
  const scalar_t* const aligned = from - shift / static_cast<int>(sizeof(scalar_t));
  if (aligned < begin || aligned + (shift == 0 ? kRun : 2 * kRun) > end) {
#pragma unroll
    for (int e = 0; e < kRun; ++e) {
      if (e >= first && e < last) held.run[e] = row[column + e];
    }
    return held.run;
  }
  using Words = Vector<uint32_t, 4>;
  const uint32_t* const memory = reinterpret_cast<const uint32_t*>(aligned);
  const Words low = Words::load(memory);
  Words high = low;
  if (shift != 0) high = Words::load(memory + 4);
#pragma unroll
  for (int i = 0; i < 4; ++i) held.words[i] = low[i], held.words[i + 4] = high[i];
  // By 8 bytes, by 4 and, of elements of two bytes, by 2: registers have no addresses to shift by.
  if (shift & 8) {
#pragma unroll
    for (int i = 0; i < 6; ++i) held.words[i] = held.words[i + 2];
  }
  if constexpr (sizeof(scalar_t) <= 4) {
    if (shift & 4) {
#pragma unroll
      for (int i = 0; i < 5; ++i) held.words[i] = held.words[i + 1];
    }
  }
  if constexpr (sizeof(scalar_t) == 2) {
    if (shift & 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) held.words[i] = held.words[i] >> 16 | held.words[i + 1] << 16;
    }
  }
  if (first > 0 || last < kRun) {
#pragma unroll
    for (int e = 0; e < kRun; ++e) {
      if (e < first || e >= last) held.run[e] = static_cast<scalar_t>(0.0f);
    }
  }
  return held.run;
}

// `rows` rows of so many runs each, of several planes.
struct PlaneTile {
  Divisor<int32_t> runs, rows;
  int pitch, plane_pitch;  // runs from one row, or plane, to the next

  PlaneTile() = default;
  // Odd pitches spread neighbouring rows and planes over the banks.
  PlaneTile(int runs, int rows) : runs(runs), rows(rows), pitch(runs | 1), plane_pitch((runs | 1) * rows | 1) {}

  // The block's threads load `planes` planes from pixel (row, column) of each on; zeros lie around an image. Each calls
  // visit(run) for what it loads.
  template <typename scalar_t, typename Visit>
  __device__ void load(
      Run<scalar_t>* tile, const scalar_t* source, int64_t plane_step, int planes, int row, int column, int height,
      int width, const scalar_t* begin, const scalar_t* end, const Visit& visit) const {
    const int count = runs.multiply(rows.multiply(planes));
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kBlockThreads) {
      int plane = i;
      const int run = take_digit(plane, runs), line = take_digit(plane, rows), h = row + line;
      Run<scalar_t> values{};
      if (h >= 0 && h < height) {
        values = load_run(
            source + plane * plane_step + static_cast<int64_t>(h) * width, column + run * kRunLength<scalar_t>, width,
            begin, end);
      }
      tile[plane * plane_pitch + line * pitch + run] = values;
      visit(values);
    }
  }
  template <typename scalar_t>
  __device__ void load(
      Run<scalar_t>* tile, const scalar_t* source, int64_t plane_step, int planes, int row, int column, int height,
      int width, const scalar_t* begin, const scalar_t* end) const {
    load(tile, source, plane_step, planes, row, column, height, width, begin, end, [](const Run<scalar_t>&) {});
  }
};

// Elements that go to the stretch of memory from `to` on wait in shared memory from shared_stretch(runs, to) on, as far
// behind a multiple of 16 bytes as they will lie: then the block's threads write them in 16-byte pieces.
template <typename scalar_t>
__device__ scalar_t* shared_stretch(Run<scalar_t>* runs, const scalar_t* to) {
  return reinterpret_cast<scalar_t*>(runs) + reinterpret_cast<uintptr_t>(to) % kVectorBytes / sizeof(scalar_t);
}
template <typename scalar_t>
__device__ void store_stretch(const Run<scalar_t>* runs, const scalar_t* staged, scalar_t* to, int count) {
  constexpr int kRun = kRunLength<scalar_t>;
  const int before = static_cast<int>(staged - reinterpret_cast<const scalar_t*>(runs)), end = before + count;
  for (int i = static_cast<int>(threadIdx.x) * kRun; i < end; i += kBlockThreads * kRun) {
    if (i >= before && i + kRun <= end) {
      runs[i / kRun].store(to + (i - before));
    } else {
      for (int e = i < before ? before : i; e < i + kRun && e < end; ++e) to[e - before] = staged[e - before];
    }
  }
}

}  // namespace convops
