// Max-pooling for every geometry: one thread for each output, or for 16 bytes of channels of it.
#include "../common/dtype.cuh"
#include "../common/launch.cuh"
#include "../common/pooling.cuh"
#include "max_pool2d.cuh"

namespace convops {

namespace {

// Where the offset of the chosen tap goes: nowhere, to bytes or to int32.
struct OffsetsOutput {
  uint8_t* bytes;
  int32_t* words;

  void set(uint8_t* to) { bytes = to; }
  void set(int32_t* to) { words = to; }

  template <int kVector>
  __device__ void store(int64_t at, const int32_t (&offsets)[kVector]) const {
    if (bytes != nullptr) {
      Vector<uint8_t, kVector> narrow;
#pragma unroll
      for (int v = 0; v < kVector; ++v) narrow[v] = static_cast<uint8_t>(offsets[v]);
      narrow.store(bytes + at);
    }
    if (words != nullptr) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) words[at + v] = offsets[v];
    }
  }
};

// output(n, c, p, q) = the largest pixel of the window, offsets(n, c, p, q) = its tap r * S + s. Of equal pixels the
// first wins, a NaN wins over numbers, and a later NaN over an earlier one. A window without a pixel gives the lowest
// value and its first tap at or behind the image's edge. Its floor is the input, the output and the offsets once
// each.
template <typename scalar_t, typename index_t, int kVector, int kKernel>
__global__ void __launch_bounds__(kBlockThreads) max_pool2d_direct_forward_kernel(
    const PoolGeometry<index_t> geometry, const scalar_t* __restrict__ input, scalar_t* __restrict__ output,
    const OffsetsOutput offsets) {
  using Channels = Vector<scalar_t, kVector>;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const scalar_t* plane = input + at.n * geometry.input.n + at.c * kVector * geometry.input.c;
    decltype(comparable(scalar_t())) most[kVector];
    int32_t taps[kVector];
    const int32_t first =
        static_cast<int32_t>(geometry.h.first_tap(at.h) * geometry.w.kernel + geometry.w.first_tap(at.w));
#pragma unroll
    for (int v = 0; v < kVector; ++v) most[v] = comparable(lowest<scalar_t>()), taps[v] = first;
    for_each_tap<kKernel>(geometry, at.h, at.w, [&](index_t r, index_t s, index_t offset) {
      const Channels x = Channels::load(plane + offset);
      const int32_t tap = static_cast<int32_t>(r * (kKernel > 0 ? kKernel : geometry.w.kernel) + s);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const auto value = comparable(x[v]);
        if (value > most[v] || value != value) most[v] = value, taps[v] = tap;
      }
    });
    Channels result;
#pragma unroll
    for (int v = 0; v < kVector; ++v) result[v] = static_cast<scalar_t>(most[v]);
    result.store(output + index * kVector);
    offsets.store<kVector>(static_cast<int64_t>(index) * kVector, taps);
  });
}

}  // namespace

void max_pool2d_direct_forward(const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments) {
  const Pool2dGeometry& geometry = problem.geometry;
  OffsetsOutput offsets{};
  if (problem.pass == MaxPool2dPass::forward_with_offsets) {
    dispatch_offsets(geometry, arguments.offsets, [&](auto* to) { offsets.set(to); });
  }
  const bool aligned = is_aligned(arguments.input) && is_aligned(arguments.output) && is_aligned(offsets.bytes);
  dispatch_all("max_pool2d", problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    dispatch_pool<scalar_t>(geometry, aligned, [&](auto index, auto vector) {
      using index_t = decltype(index);
      const PoolGeometry<index_t> work(geometry, 0, vector.value);
      dispatch_window<scalar_t, index_t>(geometry, [&](auto window) {
        launch(
            "max_pool2d", max_pool2d_direct_forward_kernel<scalar_t, index_t, vector.value, window.value>,
            blocks_for(work.work_count), kBlockThreads, 0, arguments.stream, work,
            static_cast<const scalar_t*>(arguments.input), static_cast<scalar_t*>(arguments.output), offsets);
      });
    });
  });
}

}  // namespace convops
