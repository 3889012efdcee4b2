// Operands of the implicit matrix product that it could only gather, element by element, copied first to where it
// reads them in 16-byte runs: contiguous images, whose rows a tap shifts by one pixel, and channels_last ones whose
// channels are not whole runs.
//
// In a copy the channels of a group (of the weight in grad_input: its filters) lie side by side, with zeros behind them
// up to a whole run. It is read in every pass as a channels_last tensor is; D is written the way the result lies.
//
// A copy moves every element twice through memory: 4 bytes of a half type, 1.6 us for a million elements at 2.5 TB/s.
// Gathering takes about twenty instructions more for each element and tap, once for every tile of columns: 132 SMs
// that issue 128 lanes a cycle take 0.7 us for a million. And the tile of a gathered operand is half as wide. What a
// launch costs, some 2 us, is left out.
#pragma once

#include "../common/dtype.cuh"
#include "gemm_plan.cuh"

namespace convops {

// Gathered loads that take as long as the copy of an element.
constexpr double kLoadsOfCopy = 2.5;
// Below, zeros would be most of a run.
constexpr int64_t kLeastPackedChannels = 5;

// 64 channels x 128 bytes of pixels, or as many 16-byte runs of whole pixels: two for each thread.
constexpr int64_t kPackChannels = 64, kPackPixelBytes = 128, kPackRuns = 512;

// A copy of `matrices` matrices, of channels x pixels if `transposes`, else of pixels x channels, as matrices of pixels
// x packed_channels whose rows take turns, those of `interleaved` matrices at a time.
struct PackJob {
  bool transposes;
  int64_t matrices, interleaved, channels, pixels, packed_channels;

  int64_t numel() const { return matrices * pixels * packed_channels; }
  // A block copies a tile: up to kPackChannels x kPackPixelBytes, or some pixels with all channels.
  int64_t tile_pixels(int64_t element_bytes) const {
    if (transposes) return kPackPixelBytes / element_bytes;
    return std::clamp<int64_t>(kPackRuns * 16 / element_bytes / std::max<int64_t>(packed_channels, 1), 1, kPackRuns);
  }
  int64_t tiles(int64_t element_bytes) const {
    if (numel() == 0) return 0;
    return matrices * ceil_div(pixels, tile_pixels(element_bytes)) *
           (transposes ? ceil_div(packed_channels, kPackChannels) : 1);
  }
};

struct Conv2dPacking {
  Conv2dLayouts layouts;
  PackJob a, b;  // without a matrix where the operand is read where it lies

  double cost() const { return kLoadsOfCopy * static_cast<double>(a.numel() + b.numel()); }
  int64_t tiles(int64_t element_bytes) const { return a.tiles(element_bytes) + b.tiles(element_bytes); }
};

enum class WeightPacking { none, by_channels, by_filters };

// The images that a pass reads, A in each and in grad_weight also B, and its weight, copied or not.
struct PackingChoice {
  bool image = false, other_image = false;
  WeightPacking weight = WeightPacking::none;
};

inline PackJob pack_image(bool channels_last, int64_t N, int64_t groups, int64_t C, int64_t pixels, int64_t packed) {
  if (channels_last || pixels == 1) return {false, 1, 1, C, N * pixels * groups, packed};
  // Whole groups side by side are one.
  if (packed == C) return {true, N, 1, groups * C, pixels, groups * C};
  return {true, N * groups, groups, C, pixels, packed};
}

inline Conv2dPacking make_packing(const Conv2dProblem& problem, const PackingChoice& choice) {
  const Conv2dGeometry& g = problem.geometry;
  const int64_t run = 16 / element_size(problem.dtype), taps = g.h.kernel * g.w.kernel;
  const int64_t C = g.channels_per_group(), K = g.filters_per_group();
  const int64_t packed_C = ceil_div(C, run) * run, packed_K = ceil_div(K, run) * run;
  Conv2dPacking packing{layouts_of(g), {}, {}};
  Conv2dLayouts& layouts = packing.layouts;

  const auto pack_input = [&] {
    layouts.C = packed_C;
    layouts.input = {{true, g.groups * packed_C, g.h.input, g.w.input}, packed_C};
    return pack_image(g.channels_last, g.N, g.groups, C, g.h.input * g.w.input, packed_C);
  };
  const auto pack_output = [&] {
    layouts.K = packed_K;
    layouts.output = {{true, g.groups * packed_K, g.h.output, g.w.output}, packed_K};
    return pack_image(g.channels_last, g.N, g.groups, K, g.h.output * g.w.output, packed_K);
  };
  if (choice.image) packing.a = problem.pass == Conv2dPass::grad_input ? pack_output() : pack_input();
  if (choice.other_image) packing.b = pack_output();

  ImageSteps<int64_t>& weight = layouts.weight.steps;
  if (choice.weight == WeightPacking::by_channels) {
    layouts.C = packed_C;
    layouts.weight = {{true, packed_C, g.h.kernel, g.w.kernel}, K * taps * packed_C};
    packing.b = pack_image(g.weight_channels_last, g.K, 1, C, taps, packed_C);
  } else if (choice.weight == WeightPacking::by_filters) {
    // A group's filters change places with all that is in a filter, in the order of memory.
    layouts.K = packed_K;
    layouts.weight.group_step = C * taps * packed_K;
    weight.c *= packed_K, weight.h *= packed_K, weight.w *= packed_K, weight.n = 1;
    packing.b = {true, g.groups, 1, K, C * taps, packed_K};
  }
  return packing;
}

// The copies that let the pass run fastest, none where nothing is gathered without. Like the plan of the product it
// depends on the geometry alone.
inline Conv2dPacking plan_packing(const Conv2dProblem& problem) {
  const Conv2dGeometry& g = problem.geometry;
  const int64_t bytes = element_size(problem.dtype), run = 16 / bytes;
  const int64_t C = g.channels_per_group(), K = g.filters_per_group();
  const double products = static_cast<double>(g.output_numel()) * static_cast<double>(C * g.h.kernel * g.w.kernel);
  const bool whole_channels = C % run == 0, whole_filters = K % run == 0;

  Conv2dPacking best{};
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](const PackingChoice& choice) {
    const Conv2dPacking packing = make_packing(problem, choice);
    const Conv2dGemm gemm = make_conv2d_gemm(problem, packing.layouts);
    const Accesses accesses(gemm, bytes);
    // An element in shared memory serves all columns of a tile (or rows, if it is of B).
    const int64_t rows = std::min<int64_t>(gemm.d_rows.count(), kTileRows);
    const int64_t columns = std::min<int64_t>(gemm.d_columns.count(), kNarrowColumns);
    const double loads = (accesses.a == Access::gather ? products / static_cast<double>(columns) : 0) +
                         (accesses.b == Access::gather ? products / static_cast<double>(rows) : 0);
    // A grid holds no more blocks.
    if (packing.tiles(bytes) <= INT32_MAX && packing.cost() + loads < least) {
      least = packing.cost() + loads, best = packing;
    }
    return accesses.gather();
  };
  if (!consider({}) || products == 0) return best;
  // What is reduced over must have as many zeros behind it in both operands.
  switch (problem.pass) {
    case Conv2dPass::forward:
      if (whole_channels) consider({.weight = WeightPacking::by_channels});
      // Beside a contiguous image that can be read in runs of pixels.
      consider({.weight = WeightPacking::by_filters});
      if (C < kLeastPackedChannels) break;
      if (whole_channels) consider({.image = true});
      consider({.image = true, .weight = WeightPacking::by_channels});
      break;
    case Conv2dPass::grad_input:
      if (whole_filters) consider({.weight = WeightPacking::by_filters});
      if (K < kLeastPackedChannels) break;
      if (whole_filters) consider({.image = true});
      consider({.image = true, .weight = WeightPacking::by_filters});
      break;
    default:
      if (C >= kLeastPackedChannels) consider({.image = true});
      if (K >= kLeastPackedChannels) consider({.other_image = true});
      if (C >= kLeastPackedChannels && K >= kLeastPackedChannels) consider({.image = true, .other_image = true});
      break;
  }
  return best;
}

// Parts of a workspace begin at multiples of 256 bytes.
inline int64_t workspace_part(int64_t bytes) {
  return ceil_div(bytes, int64_t{256}) * 256;
}

// All that is known before the launch, and the parts of the workspace, from multiples of 256 bytes on: partial sums,
// then the copies of A and B.
struct GemmWork {
  Conv2dPass pass;
  int64_t element_bytes;
  Conv2dPacking packing;
  Conv2dGemm gemm;
  Conv2dGemmPlan plan;

  GemmWork(const Conv2dProblem& problem, bool tensor_cores)
      : pass(problem.pass),
        element_bytes(element_size(problem.dtype)),
        packing(tensor_cores ? plan_packing(problem) : Conv2dPacking{layouts_of(problem.geometry), {}, {}}),
        gemm(make_conv2d_gemm(problem, packing.layouts)),
        plan(plan_gemm(gemm, element_bytes, tensor_cores)) {}

  int64_t a_begin() const { return workspace_part(plan.partials(gemm) * (element_bytes == 8 ? 8 : 4)); }
  int64_t b_begin() const { return a_begin() + workspace_part(packing.a.numel() * element_bytes); }
  int64_t workspace() const { return b_begin() + workspace_part(packing.b.numel() * element_bytes); }
};

// Makes the copies, in one launch, and returns where the operands are to be read.
struct PackedOperands {
  const void* a;
  const void* b;
};
PackedOperands pack_operands(
    const Conv2dPacking& packing, int64_t element_bytes, const void* a, const void* b, void* copy_of_a, void* copy_of_b,
    void* stream);

}  // namespace convops
