// The one kernel of the implicit matrix product, for every pass and either engine.
//
// A block owns a 128 x kColumns tile of D and walks the reduction in steps of 64 bytes. Copies into shared memory run
// kStages - 1 tiles ahead of the engine. Per step a block reads 64 (128 + kColumns) bytes and does
// 2 * 128 * kColumns * (64 / element) flops: for 128 columns of bfloat16, 16 KB and 1 Mflop, 64 flops a byte,
// most of the reads being hits in L2 (neighbouring blocks share a tile of A, all blocks share B).
//
// Where the reduction's indices lie is worked out once for each step, by two warps, into a table in shared memory; it
// spares all other index arithmetic but an addition and two comparisons for each copy. Kernels that read a border are
// of their own (kBordered), so that the others do not pay for it.
#pragma once

#include "gemm_tile.cuh"

namespace convops {

struct Conv2dGemmPointers {
  const void* a;
  const void* b;
  const void* bias;  // of D's columns, or null
  void* d;
  void* partials;  // (slice, group, row, column) in acc_t, where the plan has several slices
};

inline Conv2dGemmPointers gemm_pointers(Conv2dPass pass, const Conv2dArguments& arguments) {
  switch (pass) {
    case Conv2dPass::forward:
      return {arguments.input, arguments.weight, arguments.bias, arguments.output, arguments.workspace};
    case Conv2dPass::grad_input:
      return {arguments.output, arguments.weight, arguments.bias, arguments.input, arguments.workspace};
    default: return {arguments.input, arguments.output, nullptr, arguments.weight, arguments.workspace};
  }
}

// Room in shared memory for a struct that has constructors, which shared variables must not.
template <typename T>
struct SharedStorage {
  alignas(T) unsigned char bytes[sizeof(T)];

  __device__ T& get() { return *reinterpret_cast<T*>(bytes); }
  __device__ void copy_by_block(const T& from) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 4 == 0);
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof(T) / 4);
         i += static_cast<int>(blockDim.x)) {
      reinterpret_cast<uint32_t*>(bytes)[i] = reinterpret_cast<const uint32_t*>(&from)[i];
    }
  }
};

// What a block computes of D, and from which part of the reduction.
struct BlockOrigin {
  int64_t row, column, group, slice;
};

// Tiles of A and B in shared memory: one being multiplied, the others on their way.
constexpr int kStages = 4;
// Elements between the lines of D in shared memory, which spread what a warp writes at once over the banks: pairs of
// 8 rows along a line, or single elements across lines.
constexpr int kPaddingAlong = 8, kPaddingAcross = 4;

template <typename Engine>
constexpr int64_t gemm_shared_bytes() {
  using acc_t = typename Engine::acc_t;
  constexpr int64_t pipeline = kStages * (kTileRows + Engine::kColumns) * kTileReductionBytes;
  constexpr int64_t lines_of_columns = kTileRows * (Engine::kColumns + kPaddingAlong) * sizeof(acc_t);
  constexpr int64_t lines_of_rows = Engine::kColumns * (kTileRows + kPaddingAcross) * sizeof(acc_t);
  return std::max({pipeline, lines_of_columns, lines_of_rows});
}

// Writes the block's part of D, which the engine holds in registers. It passes through shared memory so that lanes
// write neighbouring elements whichever way D lies. Rows of a negative offset are not there.
template <typename out_t, typename Engine>
__device__ void store_tile(
    const Engine& engine, typename Engine::acc_t* staged, const int64_t* row_offsets, const int64_t* column_offsets,
    int columns, bool rows_fastest, bool vector_store, const typename Engine::scalar_t* bias, out_t* d) {
  using acc_t = typename Engine::acc_t;
  constexpr int kRun = 16 / sizeof(out_t), kNeighbours = Engine::kNeighbours;
  const int line = rows_fastest ? kTileRows : Engine::kColumns;
  const int pitch = line + (rows_fastest ? kPaddingAcross : kPaddingAlong);
  engine.for_each([&](int row, int column, const Vector<acc_t, kNeighbours>& sums) {
    if (rows_fastest) {
#pragma unroll
      for (int i = 0; i < kNeighbours; ++i) staged[(column + i) * pitch + row] = sums[i];
    } else {
      sums.store(staged + row * pitch + column);
    }
  });
  __syncthreads();

  const int run = vector_store ? kRun : 1;
  const int runs = line / run;  // a power of two, as is the block
  const int at = static_cast<int>(threadIdx.x) % runs * run;
  for (int other = static_cast<int>(threadIdx.x) / runs; other < kTileRows * Engine::kColumns / line;
       other += Engine::kThreads / runs) {
    const int row = rows_fastest ? at : other, column = rows_fastest ? other : at;
    if (row_offsets[row] < 0 || column >= columns) continue;
    const acc_t* from = staged + other * pitch + at;
    out_t* to = d + row_offsets[row] + column_offsets[column];
    const auto value = [&](acc_t sum, int i) {
      if (bias != nullptr) sum += static_cast<acc_t>(bias[column + (rows_fastest ? 0 : i)]);
      return static_cast<out_t>(sum);
    };
    if (vector_store) {
      constexpr int kLoad = 16 / sizeof(acc_t);
      Vector<out_t, kRun> values;
#pragma unroll
      for (int i = 0; i < kRun; i += kLoad) {
        const auto sums = Vector<acc_t, kLoad>::load(from + i);
#pragma unroll
        for (int e = 0; e < kLoad; ++e) values[i + e] = value(sums[e], i + e);
      }
      values.store(to);
    } else {
      *to = value(*from, 0);
    }
  }
}

template <typename Engine, Access kAccessA, Access kAccessB, bool kBordered>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocksPerSm) conv2d_implicit_gemm_kernel(
    const __grid_constant__ Conv2dGemm problem, const Conv2dGemmPlan plan, const Conv2dGemmPointers pointers) {
  using scalar_t = typename Engine::scalar_t;
  using acc_t = typename Engine::acc_t;
  using LoaderA = TileLoader<scalar_t, kAccessA, kTileRows, Engine::kThreads, kBordered>;
  using LoaderB = TileLoader<scalar_t, kAccessB, Engine::kColumns, Engine::kThreads, false>;
  constexpr int kReduction = kTileReductionBytes / sizeof(scalar_t);
  constexpr int kStageBytes = LoaderA::kBytes + LoaderB::kBytes;
  unsigned char* const shared_storage = dynamic_shared();
  __shared__ Position tables[2][2][kReduction];  // tile parity, operand
  __shared__ int64_t row_offsets[kTileRows], column_offsets[Engine::kColumns];
  // The residue's own copy, kept out of registers.
  __shared__ SharedStorage<Conv2dGemm> gemm_storage;
  __shared__ SharedStorage<IndexWalk> walks[2];
  Conv2dGemm& gemm = gemm_storage.get();
  const int thread = static_cast<int>(threadIdx.x);

  __shared__ BlockOrigin origin;

  gemm_storage.copy_by_block(problem);
  __syncthreads();
  if (thread == 0) {
    int64_t block = blockIdx.x;
    // Column tiles are neighbours in time: they share the tile of A, the larger matrix.
    origin.column = take_digit(block, plan.column_tiles) * Engine::kColumns;
    origin.row = take_digit(block, plan.row_tiles) * kTileRows;
    origin.group = take_digit(block, problem.groups);
    origin.slice = take_digit(block, plan.slices);
    if (problem.h_residues * problem.w_residues > 1) {
      const int64_t j = take_digit(block, problem.w_residues);
      gemm.select_residue(block, j);
    }
  }
  __syncthreads();
  if (origin.row >= gemm.d_rows.count()) return;  // beyond a smaller residue

  // The block's part of the reduction.
  const int64_t begin = origin.slice * plan.slice_length, rest = gemm.a.reduction.count() - begin;
  const int length = static_cast<int>(rest < plan.slice_length ? rest : plan.slice_length);
  const int tiles = (length + kReduction - 1) / kReduction;
  if (thread % 32 == 0 && thread < 64 && length > 0) {
    walks[thread / 32].get() = IndexWalk(thread == 0 ? gemm.a.reduction : gemm.b.reduction, begin);
  }

  LoaderA loader_a(gemm.a, pointers.a, origin.group, origin.row, gemm.d_rows.count());
  LoaderB loader_b(gemm.b, pointers.b, origin.group, origin.column, plan.columns);
  const auto fill_table = [&](int tile) {
    if (thread < 2 * kReduction) {
      const int operand = thread / kReduction, index = tile * kReduction + thread % kReduction;
      tables[tile % 2][operand][thread % kReduction] =
          index < length ? walks[operand].get()(index) : Position{0, kNowhere, kNowhere};
    }
  };

  Engine engine;
  __syncthreads();
  fill_table(0);
  // Step j starts the copies of tile j and multiplies tile j - (kStages - 1).
#pragma unroll 1
  for (int j = 0; j < tiles + kStages - 1; ++j) {
    copy_async_wait<kStages - 2>();
    // Now everybody's copies of the tile to multiply have arrived, and the stage and table to be overwritten are
    // free.
    __syncthreads();
    unsigned char* incoming = shared_storage + j % kStages * kStageBytes;
    if (j < tiles) {
      fill_table(j + 1);
      loader_a.fetch(problem.a, tables[j % 2][0], incoming);
      loader_b.fetch(problem.b, tables[j % 2][1], incoming + LoaderA::kBytes);
    }
    if (j >= kStages - 1) {
      const unsigned char* ready = shared_storage + (j + 1) % kStages * kStageBytes;
      engine.template multiply<kAccessA, kAccessB>(ready, ready + LoaderA::kBytes);
    }
    if (j < tiles) {
      loader_a.store(incoming);
      loader_b.store(incoming + LoaderA::kBytes);
    }
    copy_async_commit();
  }

  const bool split = plan.slices > 1;
  const int64_t rows = gemm.d_rows.count();
  if (thread < kTileRows) {
    const int64_t row = origin.row + thread;
    const Position position = gemm.d_rows.at(row, rows);
    const bool exists = row < rows && position.h < gemm.d_height;
    row_offsets[thread] = !exists ? -1 : split ? row * plan.columns : position.offset;
  }
  if (thread < Engine::kColumns) {
    const int64_t column = origin.column + thread;
    column_offsets[thread] = split ? column : gemm.d_columns.at(column, plan.columns).offset;
  }
  // Also the last use of the tiles, whose place the lines of D take.
  __syncthreads();
  acc_t* staged = reinterpret_cast<acc_t*>(shared_storage);
  const int columns_left = static_cast<int>(
      plan.columns - origin.column < Engine::kColumns ? plan.columns - origin.column : Engine::kColumns);
  if (split) {
    acc_t* partials =
        static_cast<acc_t*>(pointers.partials) + (origin.slice * problem.groups + origin.group) * rows * plan.columns;
    store_tile<acc_t>(engine, staged, row_offsets, column_offsets, columns_left, false, false, nullptr, partials);
  } else {
    const scalar_t* bias = static_cast<const scalar_t*>(pointers.bias);
    if (bias != nullptr) bias += origin.group * plan.columns + origin.column;
    scalar_t* d = static_cast<scalar_t*>(pointers.d) + origin.group * problem.d_group_step;
    store_tile<scalar_t>(
        engine, staged, row_offsets, column_offsets, columns_left, plan.rows_fastest, plan.vector_store, bias, d);
  }
}

// Adds the slices in order. Reads slices * |D| * sizeof(acc_t) bytes, written by the kernel above a moment ago.
template <typename scalar_t>
__global__ void conv2d_implicit_gemm_reduce_kernel(
    const Conv2dGemm gemm, const Conv2dGemmPlan plan, const Conv2dGemmPointers pointers) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t product = plan.rows * plan.columns, count = gemm.groups * product;
  const acc_t* partials = static_cast<const acc_t*>(pointers.partials);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t group = i / product, element = i - group * product;
    const int64_t row = element / plan.columns, column = element - row * plan.columns;
    const Position position = gemm.d_rows(row);
    if (position.h >= gemm.d_height) continue;
    acc_t sum = 0;
    for (int64_t slice = 0; slice < plan.slices; ++slice) sum += partials[slice * count + i];
    if (pointers.bias != nullptr) {
      sum += static_cast<acc_t>(static_cast<const scalar_t*>(pointers.bias)[group * plan.columns + column]);
    }
    static_cast<scalar_t*>(pointers.d)[group * gemm.d_group_step + position.offset + gemm.d_columns(column).offset] =
        static_cast<scalar_t>(sum);
  }
}

}  // namespace convops
