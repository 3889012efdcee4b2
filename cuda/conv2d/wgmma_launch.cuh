// From a convolution problem to the launch of its kernel on a Hopper GPU.
#pragma once

#include "conv2d.cuh"
#include "wgmma_kernel.cuh"

namespace convops {

// The operands' maps and all else that kernels of this tile read, but for the parts.
template <typename Kernel>
WgmmaParameters wgmma_parameters(
    const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dGemmPointers& pointers) {
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

  const ImageSteps<int64_t>& weight = read.weight.steps;
  const ImageSteps<int64_t>& d = problem.pass == Conv2dPass::forward      ? written.output.steps
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
    // Taps lie one behind the other.
    const int64_t tap_step = taps > 1 ? weight.w : weight.n;
    parameters.a = map_boxes<scalar_t, 3>(
        pointers.a, {read.C, taps, g.K}, {tap_step, weight.n},
        {1, Kernel::kAcrossA ? kLineElements : Kernel::kTile.rows()});
    parameters.a_group_step = static_cast<int>(K);
    const bool forward = problem.pass == Conv2dPass::forward;
    parameters.b_group_step = static_cast<int>(forward ? read.C : read.K);
    parameters.d_group_step = forward ? written.output.group_step : written.input.group_step;
    parameters.d_row_step = d.c;
    parameters.d_n = d.n;
    parameters.d_h = d.h * (forward ? 1 : without_unused_steps(g.h).stride);
    parameters.d_w = d.w * (forward ? 1 : without_unused_steps(g.w).stride);
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
  bool whole = is_aligned(pointers.d) && parameters.d_group_step % 8 == 0 && parameters.d_n % 8 == 0;
  if (parameters.rows_fastest) {
    whole = whole && plan.rows % 8 == 0 && parameters.d_h % 8 == 0 && parameters.d_w % 8 == 0;
  } else if (Kernel::kSliced) {
    whole = is_aligned(pointers.d) && parameters.d_group_step % 8 == 0 && parameters.d_row_step % 8 == 0 &&
            parameters.d_n == 1 && C % 8 == 0 && parameters.d_h % 8 == 0 && parameters.d_w % 8 == 0;
  } else {
    // Planes whose pixels are all written, in order.
    whole = whole && plan.parts == 1 && parameters.d_w == 1 && parameters.d_row_step % 8 == 0;
  }
  parameters.vector_store = whole;
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
  WgmmaParameters parameters = wgmma_parameters<Kernel>(problem, plan, pointers);

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
void run_wgmma(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const WgmmaPlan plan = plan_wgmma(problem);
  constexpr auto kTiles = std::make_index_sequence<kWgmmaTiles.size()>();
  switch (problem.pass) {
    case Conv2dPass::forward: return run_wgmma_pass<scalar_t, Conv2dPass::forward>(problem, plan, arguments, kTiles);
    case Conv2dPass::grad_input:
      return run_wgmma_pass<scalar_t, Conv2dPass::grad_input>(problem, plan, arguments, kTiles);
    default: return run_wgmma_pass<scalar_t, Conv2dPass::grad_weight>(problem, plan, arguments, kTiles);
  }
}

}  // namespace convops
