// How a Conv2dGemm is cut into blocks: tiles of D, and slices of a long reduction where tiles are too few to fill a
// GPU.
#pragma once

#include "gemm.cuh"

namespace convops {

constexpr int kTileRows = 128;
// A tile reaches this many bytes along the reduction: four 16-byte chunks.
constexpr int kTileReductionBytes = 64;

// How neighbouring elements of a matrix lie in memory.
enum class Access {
  gather,           // anywhere: one load per element, lanes along the rows
  along_reduction,  // 16-byte runs along the reduction
  along_rows,       // 16-byte runs along the rows, of two-byte elements: ldmatrix transposes no others
};

// The widest access that an operand allows.
inline Access access_of(const Operand& operand, const void* data, int64_t element_bytes) {
  const int64_t run = 16 / element_bytes;
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || operand.group_step % run != 0) return Access::gather;
  const bool bordered = operand.border != Border::zeros;
  if (bordered && (operand.row_step % run != 0 || operand.column_step % run != 0)) return Access::gather;
  if (operand.reduction.runs_of(run) && operand.rows.offsets_divide_by(run, true)) return Access::along_reduction;
  if (element_bytes == 2 && operand.rows.runs_of(run) && operand.reduction.offsets_divide_by(run, true)) {
    return Access::along_rows;
  }
  return Access::gather;
}

// The accesses of both operands, as far as tensor cores have a kernel for the pair (tensor_core_pairs.cuh): beside
// runs along rows of A, and beside gathered elements of A, those of B must be the same or along the reduction.
struct Accesses {
  Access a, b;

  Accesses(const Conv2dGemm& gemm, int64_t element_bytes)
      : a(access_of(gemm.a, nullptr, element_bytes)), b(access_of(gemm.b, nullptr, element_bytes)) {
    if (a == Access::along_rows && b != Access::along_rows) a = Access::gather;
    if (a == Access::gather && b == Access::along_rows) b = Access::gather;
  }
  bool gather() const { return a == Access::gather || b == Access::gather; }
};

constexpr int kWideColumns = 128, kNarrowColumns = 64;

struct Conv2dGemmPlan {
  int64_t rows, columns;  // of the largest residue
  bool wide;              // tiles of kWideColumns, else of kNarrowColumns
  int64_t row_tiles, column_tiles;
  int64_t slices, slice_length;
  bool rows_fastest;  // D lies along its rows, not its columns
  bool vector_store;  // and takes 16-byte stores along them

  void tile_columns(bool wide_tiles) {
    wide = wide_tiles;
    column_tiles = ceil_div(columns, wide ? kWideColumns : kNarrowColumns);
  }
  int64_t blocks(const Conv2dGemm& gemm) const {
    return row_tiles * column_tiles * gemm.h_residues * gemm.w_residues * gemm.groups * slices;
  }
  // Elements of the workspace.
  int64_t partials(const Conv2dGemm& gemm) const { return slices == 1 ? 0 : slices * gemm.groups * rows * columns; }
};

// Depends on the geometry alone, never on the device or an address: results are the same everywhere, every time.
inline Conv2dGemmPlan plan_gemm(const Conv2dGemm& gemm, int64_t element_bytes, bool allow_wide) {
  Conv2dGemmPlan plan{};
  plan.rows = gemm.d_rows.count();
  plan.columns = gemm.d_columns.count();
  plan.row_tiles = ceil_div(plan.rows, kTileRows);
  // Gathered operands leave no registers for a wide tile; up to 64 columns, or the last 64 of 192, would waste half
  // of one.
  plan.tile_columns(
      allow_wide && plan.columns > 64 && (plan.columns <= 128 || plan.columns > 192) &&
      !Accesses(gemm, element_bytes).gather());

  // Two blocks for each of the 132 SMs of an H100, but no slice so short that filling the pipeline dominates it.
  constexpr int64_t kBlocksWanted = 264, kTilesPerSlice = 16;
  const int64_t tile = kTileReductionBytes / element_bytes;
  const int64_t tiles = ceil_div(gemm.a.reduction.count(), tile);
  const int64_t blocks_of_slice = plan.row_tiles * plan.column_tiles * gemm.groups;
  plan.slices = 1;
  plan.slice_length = kMaxWalk;
  // Residues differ in their reductions, and are many blocks as it is.
  if (gemm.h_residues * gemm.w_residues == 1 && tiles > 0 && blocks_of_slice > 0) {
    const int64_t wanted = std::min(kBlocksWanted / blocks_of_slice, tiles / kTilesPerSlice);
    const int64_t least = ceil_div(tiles * tile, kMaxWalk / 2);
    plan.slice_length = ceil_div(tiles, std::max<int64_t>({1, wanted, least})) * tile;
    plan.slices = ceil_div(tiles * tile, plan.slice_length);
  }

  const int64_t run = 16 / element_bytes;
  plan.rows_fastest = gemm.d_columns.digits[2].step.offset != 1 && gemm.d_rows.digits[2].step.offset == 1;
  const IndexMap& fast = plan.rows_fastest ? gemm.d_rows : gemm.d_columns;
  const IndexMap& slow = plan.rows_fastest ? gemm.d_columns : gemm.d_rows;
  plan.vector_store = fast.runs_of(run) && slow.offsets_divide_by(run, true) && gemm.d_group_step % run == 0;
  return plan;
}

}  // namespace convops
