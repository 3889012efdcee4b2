// Depthwise convolution: the choice of kernels, and of the general ones index type, vector width and slices.
#include "conv2d.cuh"
#include "depthwise.cuh"
#include "depthwise_window.cuh"

namespace convops {

namespace {

// Blocks of the grad_weight kernel for one slice of the pixels.
int64_t grad_weight_blocks(const Conv2dGeometry& geometry) {
  return ceil_div(geometry.h.kernel * geometry.w.kernel, kTapsPerBlock) *
         ceil_div(geometry.K, channels_per_block(geometry.channels_last));
}

int64_t grad_weight_pixels(const Conv2dGeometry& geometry) {
  return geometry.N * geometry.h.output * geometry.w.output;
}

int64_t grad_weight_slices(const Conv2dGeometry& geometry) {
  return pixel_slices(grad_weight_pixels(geometry), grad_weight_blocks(geometry), geometry.channels_last);
}

template <typename scalar_t, typename index_t, bool kBordered>
void run_grad_weight(const Conv2dGeometry& geometry, const Conv2dArguments& arguments) {
  using acc_t = accumulator_t<scalar_t>;
  const Axis h = without_unused_steps(geometry.h), w = without_unused_steps(geometry.w);
  const int64_t taps = h.kernel * w.kernel, slices = grad_weight_slices(geometry);
  DepthwiseWeightGeometry<index_t> work{
      .h = WindowAxis<index_t>(h),
      .w = WindowAxis<index_t>(w),
      .filters = static_cast<index_t>(geometry.K),
      .taps = static_cast<index_t>(taps),
      .pixels = static_cast<index_t>(grad_weight_pixels(geometry)),
      .slice_pixels = static_cast<index_t>(ceil_div(grad_weight_pixels(geometry), slices)),
      .input = {geometry.channels_last, geometry.C, h.input, w.input},
      .output = {geometry.channels_last, geometry.K, h.output, w.output},
      .multiplier = Divisor<index_t>(geometry.filters_per_group()),
      .h_output = Divisor<index_t>(h.output),
      .w_output = Divisor<index_t>(w.output),
      .tap_chunks = Divisor<index_t>(ceil_div(taps, kTapsPerBlock)),
      .channel_blocks = Divisor<index_t>(ceil_div(geometry.K, channels_per_block(geometry.channels_last))),
      .w_kernel = Divisor<index_t>(w.kernel),
      .border = geometry.border()};
  const auto kernel = geometry.channels_last
                          ? conv2d_depthwise_grad_weight_kernel<scalar_t, index_t, kChannelLanes, kBordered>
                          : conv2d_depthwise_grad_weight_kernel<scalar_t, index_t, 1, kBordered>;
  launch(
      "conv2d", kernel, grad_weight_blocks(geometry) * slices, kBlockThreads, 0, arguments.stream, work,
      static_cast<const scalar_t*>(arguments.input), static_cast<const scalar_t*>(arguments.output),
      static_cast<acc_t*>(arguments.workspace));
  launch(
      "conv2d", sum_slices_kernel<scalar_t>, blocks_for(geometry.K * taps), kBlockThreads, 0, arguments.stream,
      static_cast<const acc_t*>(arguments.workspace), static_cast<scalar_t*>(arguments.weight), geometry.K * taps,
      slices);
}

// Where lanes are channels: a copy of the weight, in the workspace, with the channels side by side.
template <typename scalar_t>
const scalar_t* transpose_weight(
    const Conv2dGeometry& geometry, const Conv2dArguments& arguments, const scalar_t* weight, bool turned) {
  scalar_t* const transposed = static_cast<scalar_t*>(arguments.workspace);
  launch(
      "conv2d", conv2d_depthwise_transpose_weight_kernel<scalar_t>, blocks_for(geometry.weight_numel()), kBlockThreads,
      0, arguments.stream, geometry.K, geometry.h.kernel * geometry.w.kernel, turned, weight, transposed);
  return transposed;
}

template <typename scalar_t, typename index_t, int kVector, bool kTransposed, bool kBordered>
void run_direct(const Conv2dGeometry& geometry, const Conv2dArguments& arguments) {
  const Axis h = without_unused_steps(geometry.h), w = without_unused_steps(geometry.w);
  const int64_t channels = (kTransposed ? geometry.C : geometry.K) / kVector;
  const int64_t rows = ceil_div(kTransposed ? h.input : h.output, kRowsPerThread);
  const int64_t columns = kTransposed ? w.input : w.output;
  const int64_t count = geometry.N * channels * rows * columns;
  DepthwiseGeometry<index_t> work{
      .h = WindowAxis<index_t>(h),
      .w = WindowAxis<index_t>(w),
      .multiplier = static_cast<index_t>(geometry.filters_per_group()),
      .weight_filter = static_cast<index_t>(geometry.channels_last ? 1 : h.kernel * w.kernel),
      .weight_tap = static_cast<index_t>(geometry.channels_last ? geometry.K : 1),
      .input = {geometry.channels_last, geometry.C, h.input, w.input},
      .output = {geometry.channels_last, geometry.K, h.output, w.output},
      .work = {geometry.channels_last, channels, rows, columns},
      .work_count = static_cast<index_t>(count),
      .multiplier_divisor = Divisor<index_t>(geometry.filters_per_group()),
      .h_stride = Divisor<index_t>(h.stride),
      .w_stride = Divisor<index_t>(w.stride),
      .border = geometry.border()};
  void* source = kTransposed ? arguments.output : arguments.input;
  void* destination = kTransposed ? arguments.input : arguments.output;
  const scalar_t* weight = static_cast<const scalar_t*>(arguments.weight);
  if (geometry.channels_last) weight = transpose_weight(geometry, arguments, weight, false);
  launch(
      "conv2d", conv2d_depthwise_kernel<scalar_t, index_t, kVector, kTransposed, kBordered>, blocks_for(count),
      kBlockThreads, 0, arguments.stream, work, static_cast<const scalar_t*>(source), weight,
      static_cast<const scalar_t*>(arguments.bias), static_cast<scalar_t*>(destination));
}

template <typename scalar_t, typename index_t, bool kTransposed, bool kBordered>
void run_direct(const Conv2dGeometry& geometry, const Conv2dArguments& arguments) {
  constexpr int kVector = kVectorBytes / sizeof(scalar_t);
  const bool vector = geometry.channels_last && geometry.filters_per_group() == 1 && geometry.C % kVector == 0 &&
                      is_aligned(arguments.input) && is_aligned(arguments.output);
  if (vector) {
    run_direct<scalar_t, index_t, kVector, kTransposed, kBordered>(geometry, arguments);
  } else {
    run_direct<scalar_t, index_t, 1, kTransposed, kBordered>(geometry, arguments);
  }
}

// Which kernels take the problem: those for the usual windows, of either layout, or the general ones.
enum class Kernels { toeplitz, planes, channels, general };
Kernels choose(const Conv2dProblem& problem, DepthwiseWindow& window) {
  if (!is_depthwise_window(problem, window)) return Kernels::general;
  if (depthwise_toeplitz_supports(window, problem)) return Kernels::toeplitz;
  if (depthwise_planes_supports(window, problem)) return Kernels::planes;
  return depthwise_channels_supports(window, problem) ? Kernels::channels : Kernels::general;
}

}  // namespace

bool depthwise_supports(const Conv2dProblem& problem) {
  return is_contraction(problem.pass) && problem.geometry.channels_per_group() == 1 && is_floating(problem.dtype);
}

int64_t depthwise_workspace(const Conv2dProblem& problem) {
  const Conv2dGeometry& geometry = problem.geometry;
  if (problem.pass != Conv2dPass::grad_weight) {
    return geometry.channels_last ? geometry.weight_numel() * element_size(problem.dtype) : 0;
  }
  DepthwiseWindow window{};
  // What the kernels for channels need they may leave to the general ones, for an address that is no multiple of 16.
  const Kernels kernels = choose(problem, window);
  const int64_t slices = kernels == Kernels::planes ? depthwise_planes_slices(window, problem)
                         : kernels == Kernels::channels
                             ? std::max(depthwise_channels_slices(window, problem), grad_weight_slices(geometry))
                             : grad_weight_slices(geometry);
  return slices * geometry.weight_numel() * (problem.dtype == DType::float64 ? 8 : 4);
}

void depthwise_run(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const Conv2dGeometry& geometry = problem.geometry;
  const bool weighs = problem.pass == Conv2dPass::grad_weight;
  DepthwiseWindow window{};
  const Kernels kernels = choose(problem, window);
  if (kernels == Kernels::toeplitz) return depthwise_toeplitz_run(window, problem, arguments);
  if (kernels == Kernels::planes) {
    return (weighs ? depthwise_planes_grad_weight : depthwise_planes_run)(window, problem, arguments);
  }
  if (kernels == Kernels::channels && is_aligned(arguments.input) && is_aligned(arguments.output)) {
    if (weighs) return depthwise_channels_grad_weight(window, problem, arguments);
    Conv2dArguments with_copy = arguments;
    dispatch_floating("conv2d", problem.dtype, [&](auto tag) {
      using scalar_t = typename decltype(tag)::type;
      const scalar_t* const weight = static_cast<const scalar_t*>(arguments.weight);
      with_copy.weight = const_cast<scalar_t*>(transpose_weight(geometry, arguments, weight, window.turned));
    });
    return depthwise_channels_run(window, problem, with_copy);
  }
  dispatch_floating("conv2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    dispatch_index(
        geometry,
        [&](auto index) {
          using index_t = decltype(index);
          const bool bordered = geometry.border() != Border::zeros;
          switch (problem.pass) {
            case Conv2dPass::forward:
              return bordered ? run_direct<scalar_t, index_t, false, true>(geometry, arguments)
                              : run_direct<scalar_t, index_t, false, false>(geometry, arguments);
            case Conv2dPass::grad_input: return run_direct<scalar_t, index_t, true, false>(geometry, arguments);
            default:
              return bordered ? run_grad_weight<scalar_t, index_t, true>(geometry, arguments)
                              : run_grad_weight<scalar_t, index_t, false>(geometry, arguments);
          }
        },
        geometry.weight_numel());
  });
}

}  // namespace convops
