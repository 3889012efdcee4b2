// The implicit matrix product of Hopper GPUs: which problems it takes, their tiles and their tensor maps.
//
//   pass         rows (filters, or channels)   columns               reduction
//   forward      k                             (n, p, q) of output   (r, s, c)  weight: [k][c]    windows of the input
//   grad_input   c                             (n, h, w) of input    (r, s, k)  weight: [k][c]    windows of the output
//   grad_weight  k                             (r, s, c) of weight   (n, p, q)  output: [pixel][k] windows of the input
//
// Operands come by TMA as lines of 64 elements of what lies side by side in memory: channels or filters. A step is 64
// of the reduction. Tap (r, s) of 192 windows is one copy (im2col): padding, strides and the ends of rows and images
// are the hardware's business. The reduction runs along the lines, but in grad_input across those of the weight, and in
// grad_weight across all lines; wgmma takes either.
//
// In grad_input of a stride and few channels the residues are rows, too: the pixels of a square of the input are
// channels of the one window over the output that they all read, and the weight is copied with zeros for the taps that
// a residue does not have. A 7x7 convolution of stride 2 from 3 channels has 12 rows of 16 taps, instead of 3 rows four
// times.
//
// What is not channels_last, or not in whole 16-byte runs, is copied first, as for the product by mma.sync
// (gemm_pack.cuh).
#pragma once

#include <limits>

#include "../common/tensor_map.cuh"
#include "gemm_pack.cuh"

namespace convops {

// What plans are made for: an H100, whichever GPU there is. The tests' emulation is of a smaller one.
#ifndef CONVOPS_PLANNED_SMS
#define CONVOPS_PLANNED_SMS 132
#endif
constexpr int64_t kPlannedSMs = CONVOPS_PLANNED_SMS;

// Of an SM of compute capability 9.0, for one block, but for barriers, the start of the swizzle and the room in which
// results are turned round.
constexpr int kStagesBytes = 227 * 1024 - 3 * 1024 - 2 * 64 * kLineBytes;
// Regions in flight, at most; stages of A beside them.
constexpr int kMostRegions = 4, kStagesBesideRegions = 8;

// 64 x row_blocks rows and `columns` columns: windows whose taps are copied one by one, or those of a region.
struct WgmmaTile {
  int row_blocks, columns;
  bool regions;

  constexpr int rows() const { return 64 * row_blocks; }
  constexpr int a_bytes() const { return rows() * kLineBytes; }
  constexpr int b_bytes() const { return columns * kLineBytes; }
  constexpr bool operator==(const WgmmaTile&) const = default;
  constexpr int a_stages() const { return regions ? kStagesBesideRegions : kStagesBytes / (a_bytes() + b_bytes()); }
};
// What kernels there are. 2 x 192 columns are 192 sums a thread; more would not fit the registers. Regions are of 64
// rows, so that the same sums are of as many columns as wgmma takes, or nearly: less lies between rows.
constexpr std::array<WgmmaTile, 6> kWgmmaTiles{
    {{2, 192, false}, {2, 128, false}, {1, 256, false}, {1, 128, false}, {1, 208, true}, {1, 240, true}}};

// A block of `rows` x `span` windows of stride 1 and what they read: box_rows rows of `pitch` pixels.
struct WgmmaRegion {
  int64_t rows = 0, span = 0, pitch = 0, box_rows = 0;
  int64_t row_tiles = 0, segments = 0;  // regions of an image, down and across

  int64_t bytes() const { return box_rows * pitch * kLineBytes; }
  int64_t stage_bytes() const { return ceil_div(bytes(), int64_t{kSwizzlePeriod}) * kSwizzlePeriod; }
  int64_t stages() const {
    return std::min<int64_t>((kStagesBytes - kStagesBesideRegions * 64 * kLineBytes) / stage_bytes(), kMostRegions);
  }
};

// One axis of the windows as the kernel walks it.
struct WgmmaAxis {
  int first, stride, count;       // of window starts, in pixels
  int offset_step, taps;          // from a tap to the next, in pixels of the window
  int weight_first, weight_step;  // of the taps' numbers in the weight

  WindowStarts starts(int64_t pixels) const { return {pixels, first, count, stride}; }
  CONVOPS_HOST_DEVICE int start(int window) const { return first + window * stride; }
  int64_t reach() const { return taps > 0 ? int64_t{taps - 1} * offset_step : 0; }
};

// The windows of the forward pass and of grad_weight.
inline WgmmaAxis wgmma_axis(const Axis& axis) {
  return {
      static_cast<int>(-axis.pad_lower),
      static_cast<int>(axis.stride),
      static_cast<int>(axis.output),
      static_cast<int>(axis.dilation),
      static_cast<int>(axis.kernel),
      0,
      1};
}
// Those of one residue of grad_input, over the output. Its taps step back; here they are counted from the last.
inline WgmmaAxis wgmma_axis(const TransposedAxis& axis, const TransposedAxis::Residue& residue) {
  const int64_t last = residue.taps > 0 ? residue.taps - 1 : 0;
  return {
      static_cast<int>(residue.first_output - last * axis.output_step),
      1,
      static_cast<int>(residue.pixels),
      static_cast<int>(axis.output_step),
      static_cast<int>(residue.taps),
      static_cast<int>(residue.first_tap + last * axis.tap_step),
      static_cast<int>(-axis.tap_step)};
}

// Those that all residues read, each with taps of its own in them.
inline WgmmaAxis wgmma_axis_of_phases(const TransposedAxis& axis) {
  int64_t first = 0, end = 0;
  for (int64_t i = 0; i < axis.residues(); ++i) {
    const TransposedAxis::Residue residue = axis.residue(i);
    if (residue.taps == 0) continue;
    const int64_t begin = residue.first_output - residue.taps + 1;
    first = first < end ? std::min(first, begin) : begin;
    end = std::max(end, residue.first_output + 1);
  }
  const int64_t taps = std::max<int64_t>(end - first, 0);
  return {static_cast<int>(first), 1, static_cast<int>(axis.residue(0).pixels), 1, static_cast<int>(taps), 0, 1};
}

// A residue of grad_input, or all of another pass.
struct WgmmaPart {
  WgmmaAxis h, w;
  int64_t d_origin;  // of the first pixel written, in elements

  int64_t taps() const { return int64_t{h.taps} * w.taps; }
};

struct WgmmaPlan {
  Conv2dPass pass;
  Conv2dPacking packing;
  bool takes;  // whether the kernels do it
  int64_t groups;
  int64_t rows, columns;  // of a group; columns of the largest part
  int64_t chunks;         // lines that a group's channels take: of the reduction, or of the columns (grad_weight)
  int64_t steps;          // of the reduction, of all parts together
  int64_t parts;
  bool phases;            // residues are rows
  int64_t phase_weights;  // elements of their weight, [row][tap][k]
  WgmmaTile tile;
  WgmmaRegion region;  // of such a tile
  int64_t row_tiles, column_tiles;
  int64_t slices, slice_steps;
  double microseconds;  // about, on an H100, without copies of operands

  WgmmaPart part(const Conv2dProblem& problem, int64_t i) const;
  int64_t tiles() const { return row_tiles * column_tiles * groups * slices; }
  int64_t partials() const { return slices == 1 ? 0 : slices * groups * rows * columns; }

  int64_t a_begin() const { return workspace_part(partials() * 4); }
  int64_t b_begin() const { return a_begin() + workspace_part(packing.a.numel() * 2); }
  int64_t workspace() const { return b_begin() + workspace_part((packing.b.numel() + phase_weights) * 2); }
};

inline WgmmaPart WgmmaPlan::part(const Conv2dProblem& problem, int64_t i) const {
  const Axis h = without_unused_steps(problem.geometry.h), w = without_unused_steps(problem.geometry.w);
  if (problem.pass != Conv2dPass::grad_input) return {wgmma_axis(h), wgmma_axis(w), 0};
  const TransposedAxis rows(h), across(w);
  if (phases) return {wgmma_axis_of_phases(rows), wgmma_axis_of_phases(across), 0};
  const int64_t r = i / across.residues(), s = i % across.residues();
  const ImageSteps<int64_t>& d = packing.layouts.input.steps;
  return {wgmma_axis(rows, rows.residue(r)), wgmma_axis(across, across.residue(s)), r * d.h + s * d.w};
}

// How long a wave of tiles takes a step, in microseconds: at what measured kernels of this kind reached on an H100, 690
// Tflop/s of bfloat16, or reading the operands at 8.5 TB/s.
inline double wgmma_step_time(const WgmmaTile& tile, double b_bytes) {
  constexpr double kFlopsPerUs = 690e6 / 132, kBytesPerUs = 8.5e6 / 132;  // of an SM
  const double flops = 2.0 * tile.rows() * tile.columns * kLineElements;
  return std::max(flops / kFlopsPerUs, (tile.a_bytes() + b_bytes) / kBytesPerUs);
}

// The regions of a tile that leave least of its columns between rows; none where two do not fit into shared memory.
// P x Q windows an image, which reach so many pixels down and across beyond the last ones.
inline WgmmaRegion plan_region(const WgmmaTile& tile, int64_t P, int64_t Q, int64_t reach_h, int64_t reach_w) {
  WgmmaRegion best;
  const int64_t least = ceil_div(Q, int64_t{tile.columns});
  for (int64_t segments = least; segments < least + 3 && segments <= Q; ++segments) {
    WgmmaRegion region;
    region.segments = segments;
    region.span = ceil_div(Q, segments);
    region.pitch = region.span + reach_w;
    // As many rows as fit, but the same for all.
    region.row_tiles = ceil_div(P, 1 + (tile.columns - region.span) / region.pitch);
    region.rows = ceil_div(P, region.row_tiles);
    region.box_rows = region.rows + reach_h;
    const bool fits = region.pitch <= kMostBox && region.box_rows <= kMostBox && region.stages() >= 2;
    const auto regions = [](const WgmmaRegion& of) { return of.segments * of.row_tiles; };
    if (fits && (best.rows == 0 || regions(region) < regions(best))) best = region;
  }
  return best;
}

// Sets the tile and the slices that take least. Only grad_weight's reduction, over pixels, is cut into slices. Regions
// are for windows of more than one tap and stride 1, and results that lie along the rows or are written one by one.
inline void plan_wgmma_tiles(WgmmaPlan& plan, const Conv2dGeometry& g, const WgmmaPart& largest) {
  constexpr double kLaunchUs = 3, kReductionBytesPerUs = 2.5e6;
  const bool sliced = plan.pass == Conv2dPass::grad_weight;
  // Filling the pipeline and writing the tile, as far as no other tile's products hide it.
  const int kOverheadSteps = sliced ? 6 : 2;
  const int64_t taps = g.h.kernel * g.w.kernel;
  const bool allow_regions = !sliced && largest.taps() > 1 && (g.channels_last || plan.phases) &&
                             (plan.pass == Conv2dPass::grad_input || g.h.stride * g.w.stride == 1);
  plan.microseconds = std::numeric_limits<double>::infinity();
  for (const WgmmaTile& tile : kWgmmaTiles) {
    if (plan.phases && tile.row_blocks > 1) continue;
    WgmmaRegion region;
    if (tile.regions) {
      if (!allow_regions) continue;
      region = plan_region(tile, largest.h.count, largest.w.count, largest.h.reach(), largest.w.reach());
      if (region.rows == 0) continue;
    }
    const double b_bytes = tile.regions ? static_cast<double>(region.bytes()) / static_cast<double>(largest.taps())
                                        : static_cast<double>(tile.b_bytes());
    const int64_t row_tiles = ceil_div(plan.rows, int64_t{tile.rows()});
    const int64_t column_tiles = sliced         ? ceil_div(taps * plan.chunks, int64_t{tile.columns / kLineElements})
                                 : tile.regions ? g.N * region.row_tiles * region.segments
                                                : ceil_div(plan.columns, int64_t{tile.columns});
    const int64_t tiles = row_tiles * column_tiles * plan.groups;
    const int64_t most = sliced ? plan.steps / kOverheadSteps : 1;
    // As many as fill the GPU once or twice.
    for (const int64_t filling : {int64_t{1}, kPlannedSMs / tiles, 2 * kPlannedSMs / tiles}) {
      const int64_t wanted = std::clamp<int64_t>(filling, 1, std::max<int64_t>(most, 1));
      const int64_t slice_steps = std::max<int64_t>(ceil_div(plan.steps, wanted), 1);
      const int64_t slices = std::max<int64_t>(ceil_div(plan.steps, slice_steps), 1);
      const double waves = static_cast<double>(ceil_div(tiles * slices * plan.parts, kPlannedSMs));
      const double steps = static_cast<double>(slice_steps) / static_cast<double>(plan.parts) + kOverheadSteps;
      double time = kLaunchUs + waves * steps * wgmma_step_time(tile, b_bytes);
      if (slices > 1) {
        const double bytes = 8.0 * static_cast<double>(slices * plan.groups * plan.rows * plan.columns);
        time += kLaunchUs + bytes / kReductionBytesPerUs;
      }
      if (time >= plan.microseconds) continue;
      plan.microseconds = time;
      plan.tile = tile;
      plan.region = region;
      plan.row_tiles = row_tiles, plan.column_tiles = column_tiles;
      plan.slices = slices, plan.slice_steps = slice_steps;
    }
  }
}

// The copies of operands that TMA cannot read where they are: it reads what has neighbouring channels, in whole 16-byte
// runs.
inline PackingChoice wgmma_packing(const Conv2dProblem& problem, bool phases) {
  const Conv2dLayouts lies = layouts_of(problem.geometry);
  const auto in_place = [](const Conv2dLayouts::Tensor& image) {
    const ImageSteps<int64_t>& steps = image.steps;
    return steps.c == 1 && steps.n % 8 == 0 && steps.h % 8 == 0 && steps.w % 8 == 0 && image.group_step % 8 == 0;
  };
  const bool weight = lies.weight.steps.c == 1 && lies.C % 8 == 0;
  PackingChoice choice;
  switch (problem.pass) {
    case Conv2dPass::forward: choice.image = !in_place(lies.input); break;
    case Conv2dPass::grad_input: choice.image = !in_place(lies.output); break;
    default: choice.image = !in_place(lies.input), choice.other_image = !in_place(lies.output); return choice;
  }
  if (!weight && !phases) choice.weight = WeightPacking::by_channels;
  return choice;
}

// Like the other plans it depends on the geometry alone.
inline WgmmaPlan plan_wgmma(const Conv2dProblem& problem) {
  const Conv2dGeometry& g = problem.geometry;
  const int64_t C = g.channels_per_group(), K = g.filters_per_group(), taps = g.h.kernel * g.w.kernel;
  const bool forward = problem.pass == Conv2dPass::forward, grad_input = problem.pass == Conv2dPass::grad_input;
  const bool sliced = problem.pass == Conv2dPass::grad_weight;
  WgmmaPlan plan{};
  plan.pass = problem.pass;
  plan.groups = g.groups;
  plan.packing = {layouts_of(g), {}, {}};
  const bool half = problem.dtype == DType::bfloat16 || problem.dtype == DType::float16;
  constexpr int64_t kMost = int64_t{1} << 30;
  if (!half || !is_contraction(problem.pass) || g.border() != Border::zeros || !conv2d_gemm_fits(g) || g.N == 0 ||
      g.C == 0 || g.N * g.h.output * g.w.output >= kMost || g.N * g.h.input * g.w.input >= kMost || g.C >= kMost ||
      g.K >= kMost) {
    return plan;
  }

  constexpr int64_t kMostParts = 64, kPhaseRows = 64;
  const int64_t residues =
      TransposedAxis(without_unused_steps(g.h)).residues() * TransposedAxis(without_unused_steps(g.w)).residues();
  if (grad_input && residues > kMostParts) return plan;
  plan.phases = grad_input && residues > 1 && g.groups == 1 && C * residues <= kPhaseRows && g.h.dilation == 1 &&
                g.w.dilation == 1;
  plan.parts = grad_input && !plan.phases ? residues : 1;

  plan.packing = make_packing(problem, wgmma_packing(problem, plan.phases));
  const Conv2dLayouts& layouts = plan.packing.layouts;
  const int64_t reduced = forward ? layouts.C : layouts.K;
  // A line of the reduction that reaches into the next group would read what is not to meet even a zero.
  if (plan.packing.tiles(2) > INT32_MAX || (!sliced && g.groups > 1 && reduced % kLineElements != 0)) return plan;
  plan.rows = plan.phases ? C * residues : grad_input ? C : K;
  plan.columns = sliced ? taps * layouts.C : 0;
  plan.chunks = ceil_div(sliced ? layouts.C : reduced, int64_t{kLineElements});

  WgmmaPart largest{};  // in each of its sizes
  for (int64_t i = 0; i < plan.parts; ++i) {
    const WgmmaPart part = plan.part(problem, i);
    for (const auto axis : {&WgmmaPart::h, &WgmmaPart::w}) {
      WgmmaAxis& most = largest.*axis;
      most.count = std::max(most.count, (part.*axis).count), most.taps = std::max(most.taps, (part.*axis).taps);
      most.offset_step = (part.*axis).offset_step;
    }
    const int64_t pixels = g.N * part.h.count * part.w.count;
    plan.steps += sliced ? ceil_div(pixels, int64_t{kLineElements}) : part.taps() * plan.chunks;
    if (!sliced) plan.columns = std::max(plan.columns, pixels);
    if (part.taps() == 0) continue;
    const bool starts = part.h.starts(grad_input ? g.h.output : g.h.input).fits() &&
                        part.w.starts(grad_input ? g.w.output : g.w.input).fits();
    if (!starts || part.h.reach() > kMostOffset || part.w.reach() > kMostOffset) return plan;
  }
  if (plan.phases) plan.phase_weights = plan.rows * largest.taps() * layouts.K;
  plan_wgmma_tiles(plan, g, largest);
  plan.takes = plan.tiles() * plan.parts < kMost;
  return plan;
}

// How long the product by mma.sync takes, which reaches half of the rate and reads at 5.5 TB/s, but cuts any reduction
// into slices, in parts of 32, and has narrower tiles for few filters, or channels.
inline double mma_microseconds(const Conv2dProblem& problem) {
  constexpr double kFlopsPerUs = 330e6, kBytesPerUs = 5.5e6, kLaunchUs = 3;
  constexpr int64_t kBlocks = 2 * kPlannedSMs, kLength = 128, kStep = 32, kStepsOfSlice = 16;
  const Conv2dGeometry& g = problem.geometry;
  const int64_t C = g.channels_per_group(), K = g.filters_per_group(), taps = g.h.kernel * g.w.kernel;
  const bool grad_input = problem.pass == Conv2dPass::grad_input, sliced = problem.pass == Conv2dPass::grad_weight;
  const int64_t pixels = g.N * (grad_input ? g.h.input * g.w.input : g.h.output * g.w.output);
  const int64_t length = sliced ? taps * C : pixels, across = grad_input ? C : K;
  // Of a strided grad_input each pixel meets one residue's taps.
  const int64_t strides = grad_input ? g.h.stride * g.w.stride : 1;
  const double reduction = static_cast<double>(sliced ? pixels : taps * (grad_input ? K : C));

  const int64_t width = across <= 64 ? 64 : 128;
  const int64_t tiles = ceil_div(length, kLength) * ceil_div(across, width) * g.groups;
  const double steps = reduction / static_cast<double>(strides * kStep);
  const double flops = 2.0 * kLength * static_cast<double>(width * kStep);
  const double bytes = 2.0 * kStep * static_cast<double>(kLength + width);
  // Blocks that are busy at once, of all that there is room for.
  const double waves = static_cast<double>(ceil_div(tiles, kBlocks));
  const double most = static_cast<double>(tiles) * (strides > 1 ? 1 : std::max(steps / kStepsOfSlice, 1.0));
  const double busy = tiles < kBlocks ? std::min<double>(most, kBlocks) : static_cast<double>(tiles) / waves;
  const double idle = static_cast<double>(kBlocks) / std::max(busy, 1.0);
  return kLaunchUs + static_cast<double>(tiles) * steps * std::max(flops / kFlopsPerUs, bytes / kBytesPerUs) * idle;
}

// The kernels of a plan, one file for each dtype.
void implicit_gemm_wgmma_bfloat16(
    const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dArguments& arguments);
void implicit_gemm_wgmma_float16(const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dArguments& arguments);

}  // namespace convops
