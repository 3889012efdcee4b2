// From a convolution problem to the launch of its kernel on a Hopper GPU.
#pragma once

#include "conv2d.cuh"
#include "wgmma_kernel.cuh"

namespace convops {

// The weight of phases, [(i, j, c)][(u, v)][k]: pixel (i, j) of a square of the input meets output (first + u) through
// the tap that lies there, if any. Some thousand elements.
struct PhaseWeight {
  TransposedAxis h, w;
  int first_h, first_w;  // outputs before the square's own
  int taps_h, taps_w;
  int64_t C, K, padded_K;
  ImageSteps<int64_t> steps;  // of the weight: filters, channels, rows and columns
};

__device__ inline int64_t phase_tap(const TransposedAxis& axis, int64_t residue, int64_t output) {
  const TransposedAxis::Residue of = axis.residue(residue);
  const int64_t back = of.first_output - output;
  return back >= 0 && back < of.taps ? of.first_tap + back * axis.tap_step : -1;
}

template <typename scalar_t>
__global__ void conv2d_implicit_gemm_wgmma_phase_weight_kernel(
    const PhaseWeight phases, const scalar_t* weight, scalar_t* to, int64_t count) {
  grid_stride_loop<int64_t>(count, [&](int64_t i) {
    int64_t rest = i;
    const int64_t k = take_digit(rest, phases.padded_K);
    const int64_t v = take_digit(rest, int64_t{phases.taps_w}), u = take_digit(rest, int64_t{phases.taps_h});
    const int64_t c = take_digit(rest, phases.C), column = take_digit(rest, phases.w.residues());
    const int64_t r = phase_tap(phases.h, rest, phases.first_h + u),
                  s = phase_tap(phases.w, column, phases.first_w + v);
    const bool exists = k < phases.K && r >= 0 && s >= 0;
    const ImageSteps<int64_t>& steps = phases.steps;
    to[i] = exists ? weight[k * steps.n + c * steps.c + r * steps.h + s * steps.w] : static_cast<scalar_t>(0.0f);
  });
}

template <typename scalar_t>
void copy_phase_weight(
    const Conv2dProblem& problem, const WgmmaPlan& plan, const void* weight, void* to, void* stream) {
  const Conv2dGeometry& g = problem.geometry;
  const WgmmaPart part = plan.part(problem, 0);
  const PhaseWeight phases{
      TransposedAxis(without_unused_steps(g.h)),
      TransposedAxis(without_unused_steps(g.w)),
      part.h.first,
      part.w.first,
      part.h.taps,
      part.w.taps,
      g.channels_per_group(),
      g.filters_per_group(),
      plan.packing.layouts.K,
      plan.packing.layouts.weight.steps};
  launch(
      "conv2d", conv2d_implicit_gemm_wgmma_phase_weight_kernel<scalar_t>, blocks_for(plan.phase_weights), kBlockThreads,
      0, stream, phases, static_cast<const scalar_t*>(weight), static_cast<scalar_t*>(to), plan.phase_weights);
}

// The map of A and all else that kernels of this tile read, but for the parts.
template <typename Kernel>
WgmmaParameters wgmma_parameters(
    const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dGemmPointers& pointers, const void* windows) {
  using scalar_t = typename Kernel::scalar_t;
  const Conv2dGeometry& g = problem.geometry;
  const Conv2dLayouts& read = plan.packing.layouts;
  const Conv2dLayouts written = layouts_of(g);
  const int64_t C = g.channels_per_group(), K = g.filters_per_group(), taps = g.h.kernel * g.w.kernel;
  WgmmaParameters parameters{};
  parameters.row_tiles = Divisor<int32_t>(plan.row_tiles);
  parameters.groups = Divisor<int32_t>(plan.groups);
  parameters.column_tiles = Divisor<int32_t>(plan.column_tiles);
  parameters.tiles_of_part = Divisor<int32_t>(plan.tiles());
  parameters.chunks = Divisor<int32_t>(plan.chunks);
  parameters.rows = static_cast<int>(plan.rows);
  parameters.S = static_cast<int>(g.w.kernel);
  parameters.slice_steps = static_cast<int>(plan.slice_steps);
  parameters.channels_outside = Kernel::kRegions || g.h.stride * g.w.stride == 1;
  parameters.bias = pointers.bias;
  parameters.d = pointers.d;

  const bool forward = problem.pass == Conv2dPass::forward;
  const ImageSteps<int64_t>& weight = read.weight.steps;
  const ImageSteps<int64_t>& d = forward                                  ? written.output.steps
                                 : problem.pass == Conv2dPass::grad_input ? written.input.steps
                                                                          : written.weight.steps;
  if constexpr (Kernel::kSliced) {
    // Of a contiguous range of pixels, in the order of memory.
    const int64_t pixels = g.N * g.h.output * g.w.output, filters = g.groups * read.K;
    parameters.a = map_boxes<scalar_t, 3>(
        pointers.a, {filters, pixels, 1}, {read.output.steps.w, pixels * read.output.steps.w}, {kLineElements, 1});
    parameters.a_group_step = static_cast<int>(read.K);
    parameters.b_group_step = static_cast<int>(read.C);
    parameters.partials = plan.slices > 1 ? static_cast<float*>(pointers.partials) : nullptr;
    parameters.partial_columns = static_cast<int>(read.C);
    parameters.channels = static_cast<int>(C);
    parameters.d_group_step = written.weight.group_step;
    parameters.d_row_step = d.n;
    parameters.d_n = d.c, parameters.d_h = d.h, parameters.d_w = d.w;
  } else {
    const Axis h = without_unused_steps(g.h), w = without_unused_steps(g.w);
    parameters.b_group_step = static_cast<int>(forward ? read.C : read.K);
    parameters.d_group_step = forward ? written.output.group_step : written.input.group_step;
    parameters.d_n = d.n;
    if (plan.phases) {
      const WgmmaPart part = plan.part(problem, 0);
      const int64_t phase_taps = part.taps();
      parameters.a = map_boxes<scalar_t, 3>(
          pointers.a, {read.K, phase_taps, plan.rows}, {read.K, phase_taps * read.K}, {1, Kernel::kTile.rows()});
      parameters.S = part.w.taps;
      parameters.has_phases = true;
      parameters.phases = {
          Divisor<int32_t>(C),
          Divisor<int32_t>(TransposedAxis(w).residues()),
          d.c,
          d.h,
          d.w,
          TransposedAxis(h),
          TransposedAxis(w),
          windows,
          pointers.a,
          read.output.steps,
          static_cast<int>(K),
          static_cast<int>(read.K),
          static_cast<int>(g.h.output),
          static_cast<int>(g.w.output)};
    } else {
      // Taps lie one behind the other.
      parameters.a = map_boxes<scalar_t, 3>(
          pointers.a, {read.C, taps, g.K}, {taps > 1 ? weight.w : weight.n, weight.n},
          {1, Kernel::kAcrossA ? kLineElements : Kernel::kTile.rows()});
      parameters.a_group_step = static_cast<int>(K);
      parameters.d_row_step = d.c;
      parameters.d_h = d.h * (forward ? 1 : h.stride);
      parameters.d_w = d.w * (forward ? 1 : w.stride);
    }
  }

  const WgmmaRegion& region = plan.region;
  parameters.b_stages = static_cast<int>(Kernel::kRegions ? region.stages() : Kernel::kBStages);
  parameters.b_stage_bytes = static_cast<int>(Kernel::kRegions ? region.stage_bytes() : Kernel::kTile.b_bytes());
  if constexpr (Kernel::kRegions) {
    parameters.region = {static_cast<int>(region.rows),     static_cast<int>(region.span),
                         static_cast<int>(region.pitch),    static_cast<int>(region.bytes()),
                         Divisor<int32_t>(region.pitch),    Divisor<int32_t>(region.segments),
                         Divisor<int32_t>(region.row_tiles)};
  }

  // Runs of eight results that lie side by side, from a multiple of 16 bytes on.
  parameters.rows_fastest = parameters.d_row_step == 1;
  const auto are_runs = [](auto... steps) { return ((steps % 8 == 0) && ...); };
  const int64_t image = parameters.d_n, row = parameters.d_h, column = parameters.d_w, across = parameters.d_row_step;
  const bool whole = parameters.rows_fastest ? are_runs(plan.rows, image, row, column)
                     : Kernel::kSliced       ? parameters.d_n == 1 && are_runs(C, across, row, column)
                                       // Planes whose pixels are all written, in order.
                                       : !Kernel::kRegions && !plan.phases && plan.parts == 1 && column == 1 &&
                                             are_runs(image, across);
  parameters.vector_store = whole && is_aligned(pointers.d) && are_runs(parameters.d_group_step);
  return parameters;
}

template <typename Kernel>
void run_wgmma_tile(const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dArguments& arguments) {
  using scalar_t = typename Kernel::scalar_t;
  const Conv2dGeometry& g = problem.geometry;
  const Conv2dPacking& packing = plan.packing;
  Conv2dGemmPointers pointers = gemm_pointers(problem.pass, arguments);
  unsigned char* const workspace = static_cast<unsigned char*>(arguments.workspace);
  const PackedOperands packed = pack_operands(
      packing, sizeof(scalar_t), pointers.a, pointers.b, workspace + plan.a_begin(), workspace + plan.b_begin(),
      arguments.stream);
  // Packing knows the images as A. Here they are windows, B, except for the gradient in grad_weight.
  const void* const windows = packed.a;
  pointers.a = packed.b;
  if (plan.phases) {
    pointers.a = workspace + plan.b_begin();
    copy_phase_weight<scalar_t>(problem, plan, packed.b, workspace + plan.b_begin(), arguments.stream);
  }
  WgmmaParameters parameters = wgmma_parameters<Kernel>(problem, plan, pointers, windows);

  const bool over_output = problem.pass == Conv2dPass::grad_input;
  const Conv2dLayouts::Tensor& image = over_output ? packing.layouts.output : packing.layouts.input;
  const int64_t channels = g.groups * (over_output ? packing.layouts.K : packing.layouts.C);
  int sms = 0, device = 0;
  check_cuda("conv2d", cudaGetDevice(&device));
  check_cuda("conv2d", cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  for (int64_t first = 0; first < plan.parts; first += kPartsOfLaunch) {
    const int64_t count = std::min<int64_t>(kPartsOfLaunch, plan.parts - first);
    for (int64_t i = 0; i < count; ++i) {
      const WgmmaPart part = plan.part(problem, first + i);
      WgmmaPartParameters& to = parameters.parts[i];
      const int64_t pixels = g.N * part.h.count * part.w.count;
      to = {
          {},
          part.h,
          part.w,
          Divisor<int32_t>(part.h.count),
          Divisor<int32_t>(part.w.count),
          part.d_origin,
          static_cast<int>(pixels),
          static_cast<int>(Kernel::kSliced ? plan.steps : part.taps() * plan.chunks)};
      if (to.steps == 0) continue;
      if constexpr (Kernel::kRegions) {
        const int64_t rows = over_output ? g.h.output : g.h.input, across = over_output ? g.w.output : g.w.input;
        to.windows = map_boxes<scalar_t, 4>(
            windows, {channels, across, rows, g.N}, {image.steps.w, image.steps.h, image.steps.n},
            {plan.region.pitch, plan.region.box_rows, 1});
        continue;
      }
      to.windows = map_windows<scalar_t>(
          windows, g.N, channels, part.h.starts(over_output ? g.h.output : g.h.input),
          part.w.starts(over_output ? g.w.output : g.w.input), {image.steps.w, image.steps.h, image.steps.n},
          Kernel::kSliced ? kLineElements : Kernel::kColumns);
    }
    parameters.tiles = static_cast<int>(count * plan.tiles());
    const int64_t shared_bytes = Kernel::kAStages * Kernel::kABytes +
                                 int64_t{parameters.b_stages} * parameters.b_stage_bytes + 2 * kBoxBytes +
                                 kSwizzlePeriod;
    launch(
        "conv2d", conv2d_implicit_gemm_wgmma_kernel<Kernel>, std::min<int64_t>(parameters.tiles, sms), kWgmmaThreads,
        shared_bytes, arguments.stream, parameters);
  }
  if (plan.slices > 1) {
    const Conv2dGemm gemm = make_conv2d_gemm(problem, packing.layouts);
    Conv2dGemmPlan reduction{};
    reduction.rows = plan.columns, reduction.columns = plan.rows, reduction.slices = plan.slices;
    launch(
        "conv2d", conv2d_implicit_gemm_reduce_kernel<scalar_t>, blocks_for(plan.partials() / plan.slices),
        kBlockThreads, 0, arguments.stream, gemm, reduction, pointers);
  }
}

template <typename scalar_t, Conv2dPass kPass, size_t... kTiles>
void run_wgmma_pass(
    const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dArguments& arguments,
    std::index_sequence<kTiles...>) {
  const auto run_if_planned = [&](auto number) {
    constexpr WgmmaTile kTile = kWgmmaTiles[number()];
    if constexpr (kPass != Conv2dPass::grad_weight || !kTile.regions) {
      if (plan.tile == kTile) {
        run_wgmma_tile<WgmmaKernel<scalar_t, kPass, kTile.row_blocks, kTile.columns, kTile.regions>>(
            problem, plan, arguments);
      }
    }
  };
  (run_if_planned(std::integral_constant<size_t, kTiles>()), ...);
}

template <typename scalar_t>
void run_wgmma(const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dArguments& arguments) {
  constexpr auto kTiles = std::make_index_sequence<kWgmmaTiles.size()>();
  switch (problem.pass) {
    case Conv2dPass::forward: return run_wgmma_pass<scalar_t, Conv2dPass::forward>(problem, plan, arguments, kTiles);
    case Conv2dPass::grad_input:
      // The weight of phases is copied as that of a forward pass over the output.
      if (plan.phases) return run_wgmma_pass<scalar_t, Conv2dPass::forward>(problem, plan, arguments, kTiles);
      return run_wgmma_pass<scalar_t, Conv2dPass::grad_input>(problem, plan, arguments, kTiles);
    default: return run_wgmma_pass<scalar_t, Conv2dPass::grad_weight>(problem, plan, arguments, kTiles);
  }
}

}  // namespace convops
