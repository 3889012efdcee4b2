// What follows the offsets of a max-pool: its gradient, the gather that the gradient transposes, and torch's plane
// indices. Offsets come from users: any value is safe, and names a pixel only where it is a tap inside the image.
#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/pixel_run.cuh"
#include "../common/pooling.cuh"
#include "max_pool2d.cuh"

namespace convops {

namespace {

// input(n, c, h, w) = sum of output(n, c, p, q) over the windows whose offset names (h, w), in row-major order: a
// gather, so that no two threads write to one place. Its floor is both gradients and the offsets once each.
template <typename scalar_t, typename offset_t, typename Geometry, int kVector>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_grad_input_kernel(
    const Geometry geometry, const scalar_t* __restrict__ grad_output, const offset_t* __restrict__ offsets,
    scalar_t* __restrict__ grad_input) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  using Channels = Vector<scalar_t, kVector>;
  // Alignment of int32 offsets of 8 channels need not exceed that of 16 bytes.
  constexpr int kOffsetVector = kVector * sizeof(offset_t) <= 16 ? kVector : 16 / sizeof(offset_t);
  using Offsets = Vector<offset_t, kOffsetVector>;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const index_t first = at.n * geometry.output.n + at.c * kVector * geometry.output.c;
    acc_t sums[kVector] = {};
    for_each_window(geometry, at.h, at.w, [&](index_t, index_t, index_t r, index_t s, index_t offset) {
      const offset_t tap = static_cast<offset_t>(r * geometry.w.kernel + s);
      const Channels g = Channels::load(grad_output + first + offset);
#pragma unroll
      for (int part = 0; part < kVector; part += kOffsetVector) {
        const Offsets named = Offsets::load(offsets + first + offset + part);
#pragma unroll
        for (int v = 0; v < kOffsetVector; ++v) {
          if (named[v] == tap) sums[part + v] += static_cast<acc_t>(g[part + v]);
        }
      }
    });
    Channels result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) result[v] = static_cast<scalar_t>(sums[v]);
    result.store(grad_input + index * kVector);
  });
}

// The same for a square of pixels under the same windows; byte offsets, since its windows are small.
template <typename scalar_t, typename Geometry, int kVector, int kKernel, int kStride>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_grad_input_squares_kernel(
    const Geometry geometry, const scalar_t* __restrict__ grad_output, const uint8_t* __restrict__ offsets,
    scalar_t* __restrict__ grad_input) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  using Square = PixelSquare<kKernel, kStride>;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const index_t first = at.n * geometry.output.n + at.c * kVector * geometry.output.c;
    acc_t sums[kStride][kStride][kVector] = {};
    Square::for_each_window(geometry, at.h, at.w, [&](int t, int u, index_t, index_t, index_t offset) {
      const auto g = Vector<scalar_t, kVector>::load(grad_output + first + offset);
      const auto named = Vector<uint8_t, kVector>::load(offsets + first + offset);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc_t gradient = static_cast<acc_t>(g[v]);
        Square::for_each_pixel(t, u, [&](int a, int b, int tap) {
          if (named[v] == tap) sums[a][b][v] += gradient;
        });
      }
    });
    Square::store(geometry, at, sums, grad_input);
  });
}

// The same for a run of pixels in two rows.
template <typename scalar_t, typename Geometry, typename Run>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_grad_input_runs_kernel(
    const Geometry geometry, const scalar_t* __restrict__ grad_output, const uint8_t* __restrict__ offsets,
    scalar_t* __restrict__ grad_input) {
  using index_t = typename Geometry::index_t;
  using acc_t = accumulator_t<scalar_t>;
  constexpr uint8_t kNoTap = 0xff;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const index_t plane = at.n * geometry.output.n + at.c * geometry.output.c;
    typename Run::template Windows<scalar_t> gradients;
    typename Run::template Windows<uint8_t> named;
    Run::load_windows(geometry, grad_output + plane, at, static_cast<scalar_t>(0.f), gradients);
    Run::load_windows(geometry, offsets + plane, at, kNoTap, named);
    acc_t sums[2][Run::kPixels] = {};
    Run::for_each_pixel([&](int t, int v, int a, int b, int tap) {
      if (named[t][v] == tap) sums[a][b] += static_cast<acc_t>(gradients[t][v]);
    });
    Run::store(geometry, at, sums, grad_input);
  });
}

template <typename scalar_t, typename Geometry, int kVector, int kKernel, int kStride>
void launch_squares(
    PixelSquare<kKernel, kStride>, const Pool2dGeometry& geometry, const scalar_t* grad_output, const uint8_t* offsets,
    scalar_t* grad_input, void* stream) {
  const Geometry work(geometry, kStride, kVector);
  launch(
      "max_pool2d", max_pool2d_direct_grad_input_squares_kernel<scalar_t, Geometry, kVector, kKernel, kStride>,
      blocks_for(work.work_count), kBlockThreads, 0, stream, work, grad_output, offsets, grad_input);
}

// output(n, c, p, q) = input(n, c, h, w) at the tap that the offset names; 0 where that is not a pixel. Elements are
// moved as bits. Its floor is the offsets, the output and the 32-byte sectors of the named pixels.
template <typename bits_t, typename offset_t, typename Geometry>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_gather_kernel(
    const Geometry geometry, const bits_t* __restrict__ input, const offset_t* __restrict__ offsets,
    bits_t* __restrict__ output) {
  using index_t = typename Geometry::index_t;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const index_t tap = static_cast<index_t>(offsets[index]);
    bits_t value = 0;
    const index_t r = tap / geometry.w.kernel, s = tap - r * geometry.w.kernel;
    if (tap >= 0 && r < geometry.h.taps(at.h) && s < geometry.w.taps(at.w)) {
      const index_t h = geometry.h.start(at.h) + r * geometry.h.dilation;
      const index_t w = geometry.w.start(at.w) + s * geometry.w.dilation;
      if (geometry.h.contains(h) && geometry.w.contains(w)) {
        value = input[at.n * geometry.input.n + at.c * geometry.input.c + h * geometry.input.h + w * geometry.input.w];
      }
    }
    output[index] = value;
  });
}

// indices(n, c, p, q) = h * W + w of the tap that the offset names, as torch numbers the pixels of a plane. An offset
// that is no tap gives the same number on every device, hence the 64-bit axes as the user gave them.
template <typename offset_t, typename Geometry>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_indices_kernel(
    const Geometry geometry, const Axis rows, const Axis columns, const offset_t* __restrict__ offsets,
    int64_t* __restrict__ indices) {
  using index_t = typename Geometry::index_t;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const int64_t tap = offsets[index], r = tap / columns.kernel, s = tap - r * columns.kernel;
    const int64_t h = rows.start(at.h) + r * rows.dilation, w = columns.start(at.w) + s * columns.dilation;
    indices[index] = h * columns.input + w;
  });
}

template <typename offset_t>
void run_grad_input(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments, const offset_t* offsets) {
  const bool aligned = is_aligned(arguments.input) && is_aligned(arguments.output) && is_aligned(offsets);
  dispatch_floating("max_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    dispatch_pool<scalar_t>(problem.geometry, aligned, [&](auto type, auto vector) {
      using Geometry = typename decltype(type)::type;
      const scalar_t* grad_output = static_cast<const scalar_t*>(arguments.output);
      scalar_t* grad_input = static_cast<scalar_t*>(arguments.input);
      if constexpr (sizeof(offset_t) == 1) {
        const bool runs = dispatch_run<scalar_t, Geometry>(problem.geometry, aligned, [&](auto run) {
          const Geometry work(problem.geometry, 2, run.kOutputs);
          launch(
              "max_pool2d", max_pool2d_direct_grad_input_runs_kernel<scalar_t, Geometry, decltype(run)>,
              blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, grad_output, offsets, grad_input);
        });
        if (runs) return;
        const bool squares = dispatch_square<Geometry>(problem.geometry, [&](auto square) {
          launch_squares<scalar_t, Geometry, vector.value>(
              square, problem.geometry, grad_output, offsets, grad_input, arguments.stream);
        });
        if (squares) return;
      }
      const Geometry work(problem.geometry, 1, vector.value);
      launch(
          "max_pool2d", max_pool2d_direct_grad_input_kernel<scalar_t, offset_t, Geometry, vector.value>,
          blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work, grad_output, offsets, grad_input);
    });
  });
}

template <typename bits_t, typename offset_t>
void run_gather(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments, const offset_t* offsets) {
  dispatch_geometry(problem.geometry, [&](auto type) {
    using Geometry = typename decltype(type)::type;
    const Geometry work(problem.geometry, 0, 1);
    launch(
        "max_pool2d", max_pool2d_direct_gather_kernel<bits_t, offset_t, Geometry>, blocks_for(work.work_count),
        kBlockThreads, 0, arguments.stream, work, static_cast<const bits_t*>(arguments.input), offsets,
        static_cast<bits_t*>(arguments.output));
  });
}

template <typename offset_t>
void run_indices(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments, const offset_t* offsets) {
  dispatch_geometry(problem.geometry, [&](auto type) {
    using Geometry = typename decltype(type)::type;
    const Geometry work(problem.geometry, 0, 1);
    launch(
        "max_pool2d", max_pool2d_direct_indices_kernel<offset_t, Geometry>, blocks_for(work.work_count), kBlockThreads,
        0, arguments.stream, work, problem.geometry.h, problem.geometry.w, offsets, arguments.indices);
  });
}

}  // namespace

void max_pool2d_direct_backward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  dispatch_offsets(problem.geometry, arguments.offsets, [&](const auto* offsets) {
    if (problem.pass == MaxPool2dPass::grad_input) return run_grad_input(problem, arguments, offsets);
    if (problem.pass == MaxPool2dPass::indices) return run_indices(problem, arguments, offsets);
    switch (element_size(problem.dtype)) {
      case 2: return run_gather<uint16_t>(problem, arguments, offsets);
      case 4: return run_gather<uint32_t>(problem, arguments, offsets);
      default: return run_gather<uint64_t>(problem, arguments, offsets);
    }
  });
}

}  // namespace convops
