// Convolution with one input channel per group: filter k sees channel k / multiplier alone. These kernels take every
// such problem; the usual ones have faster kernels (depthwise_window.cuh).
//
// There is no matrix product in it, so its floor is memory: input and output once each. Filters have the same layout
// in both weight formats, taps side by side. Where lanes are channels that would spread one load of a warp over 32
// cache lines, so for channels_last a small kernel first writes a copy with the channels side by side. Windows that may
// read a border other than zeros have kernels of their own (kBordered), so that the others do not pay for it.
#pragma once

#include "../common/block_sum.cuh"
#include "../common/image.cuh"
#include "../common/vector.cuh"

namespace convops {

template <typename index_t>
struct DepthwiseGeometry {
  WindowAxis<index_t> h, w;
  index_t multiplier;
  index_t weight_filter, weight_tap;  // elements from one filter, or tap, to the next
  ImageSteps<index_t> input, output;
  // Decodes one thread's work: kRowsPerThread rows of one column and vector of channels of the tensor that is
  // written.
  ImageIndex<index_t> work;
  index_t work_count;
  Divisor<index_t> multiplier_divisor, h_stride, w_stride;
  Border border;
};

constexpr int kRowsPerThread = 4;

// transposed[tap][k] = weight[k][tap], or the taps last to first
template <typename scalar_t>
__global__ void conv2d_depthwise_transpose_weight_kernel(
    const int64_t filters, const int64_t taps, const bool turned, const scalar_t* __restrict__ weight,
    scalar_t* __restrict__ transposed) {
  grid_stride_loop(filters * taps, [&](int64_t i) {
    const int64_t tap = i / filters, k = i - tap * filters;
    transposed[i] = weight[k * taps + (turned ? taps - 1 - tap : tap)];
  });
}

// Which pixel of the tensor that is read meets pixel o of the one that is written through a tap; -1 for none.
template <bool kTransposed, bool kBordered, typename index_t>
__device__ index_t depthwise_source(
    const WindowAxis<index_t>& axis, const Divisor<index_t>& stride, Border border, index_t o, index_t tap) {
  if constexpr (!kTransposed) {
    const index_t i = axis.start(o) + tap * axis.dilation;
    if constexpr (kBordered) {
      return border_pixel(border, i, axis.input);
    } else {
      return axis.contains(i) ? i : -1;
    }
  } else {
    index_t i = o + axis.pad - tap * axis.dilation;
    if (i < 0 || take_digit(i, stride) != 0) return -1;
    return i < axis.output ? i : -1;
  }
}

// forward, with c = k / multiplier:
//   output(n, k, p, q) = bias(k) + sum over r, s of input(n, c, p stride + r dilation - pad, ...) weight(k, r, s)
// grad_input, over the filters k = c multiplier + m:
//   input(n, c, h, w) =
//       bias(c) + sum over m, r, s of output(n, k, (h + pad - r dilation) / stride, ...) weight(k, r, s)
//
// A thread takes kRowsPerThread rows of one column, so that a weight is loaded once for all of them; lanes are
// neighbours in memory: columns, or kVector channels each. Per output and tap there is one load, mostly from L1, and
// one multiply-add. grad_input skips the taps that its stride jumps over before loading anything.
template <typename scalar_t, typename index_t, int kVector, bool kTransposed, bool kBordered>
__global__ void __launch_bounds__(kBlockThreads) conv2d_depthwise_kernel(
    const DepthwiseGeometry<index_t> geometry, const scalar_t* __restrict__ source, const scalar_t* __restrict__ weight,
    const scalar_t* __restrict__ bias, scalar_t* __restrict__ destination) {
  using acc_t = accumulator_t<scalar_t>;
  using Channels = Vector<scalar_t, kVector>;
  const ImageSteps<index_t>& from = kTransposed ? geometry.output : geometry.input;
  const ImageSteps<index_t>& to = kTransposed ? geometry.input : geometry.output;
  const index_t height = kTransposed ? geometry.h.input : geometry.h.output;
  grid_stride_loop(geometry.work_count, [&](index_t index) {
    const ImagePosition<index_t> at = geometry.work(index);
    const index_t channel = at.c * kVector, row = at.h * kRowsPerThread;
    acc_t sums[kRowsPerThread][kVector] = {};
    const index_t sources = kTransposed ? geometry.multiplier : 1;
    for (index_t m = 0; m < sources; ++m) {
      const index_t source_channel =
          kTransposed ? channel * geometry.multiplier + m : geometry.multiplier_divisor.divide(channel);
      const scalar_t* image = source + at.n * from.n + source_channel * from.c;
      const scalar_t* filter = weight + (kTransposed ? source_channel : channel) * geometry.weight_filter;
      for (index_t r = 0; r < geometry.h.kernel; ++r) {
        index_t rows[kRowsPerThread];
#pragma unroll
        for (int i = 0; i < kRowsPerThread; ++i) {
          rows[i] = row + i < height ? depthwise_source<kTransposed, kBordered>(
                                           geometry.h, geometry.h_stride, geometry.border, row + i, r)
                                     : -1;
        }
        for (index_t s = 0; s < geometry.w.kernel; ++s) {
          const index_t column =
              depthwise_source<kTransposed, kBordered>(geometry.w, geometry.w_stride, geometry.border, at.w, s);
          if (column < 0) continue;
          const Channels weights = Channels::load(filter + (r * geometry.w.kernel + s) * geometry.weight_tap);
#pragma unroll
          for (int i = 0; i < kRowsPerThread; ++i) {
            if (rows[i] < 0) continue;
            const Channels x = Channels::load(image + rows[i] * from.h + column * from.w);
#pragma unroll
            for (int v = 0; v < kVector; ++v) sums[i][v] += static_cast<acc_t>(x[v]) * static_cast<acc_t>(weights[v]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      if (row + i >= height) continue;
      Channels result;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        if (bias != nullptr) sums[i][v] += static_cast<acc_t>(bias[channel + v]);
        result[v] = static_cast<scalar_t>(sums[i][v]);
      }
      result.store(destination + at.n * to.n + channel * to.c + (row + i) * to.h + at.w * to.w);
    }
  });
}

template <typename index_t>
struct DepthwiseWeightGeometry {
  WindowAxis<index_t> h, w;
  index_t filters, taps, pixels, slice_pixels;
  ImageSteps<index_t> input, output;
  Divisor<index_t> multiplier, h_output, w_output, tap_chunks, channel_blocks, w_kernel;
  Border border;
};

// Taps that one block sums at once: all nine of a 3 x 3 window.
constexpr int kTapsPerBlock = 9;

// weight(k, r, s) = sum over n, p, q of output(n, k, p, q) input(n, k / multiplier, p stride + r dilation - pad, ...)
//
// A block sums kTapsPerBlock taps of kLanes filters over a slice of the pixels: a tree over its threads at the end,
// then partials in acc_t. A thread's step is one load of the gradient and one of the input for each tap, the latter
// mostly from L1.
template <typename scalar_t, typename index_t, int kLanes, bool kBordered>
__global__ void __launch_bounds__(kBlockThreads) conv2d_depthwise_grad_weight_kernel(
    const DepthwiseWeightGeometry<index_t> geometry, const scalar_t* __restrict__ input,
    const scalar_t* __restrict__ grad_output, accumulator_t<scalar_t>* __restrict__ partials) {
  using acc_t = accumulator_t<scalar_t>;
  index_t block = static_cast<index_t>(blockIdx.x);
  const index_t first_tap = take_digit(block, geometry.tap_chunks) * kTapsPerBlock;
  const index_t k = take_digit(block, geometry.channel_blocks) * kLanes + static_cast<index_t>(threadIdx.x) % kLanes;
  const index_t slice = block;
  index_t rows[kTapsPerBlock], columns[kTapsPerBlock];
#pragma unroll
  for (int t = 0; t < kTapsPerBlock; ++t) {
    index_t tap = first_tap + t < geometry.taps ? first_tap + t : 0;
    columns[t] = take_digit(tap, geometry.w_kernel) * geometry.w.dilation;
    rows[t] = tap * geometry.h.dilation;
  }
  acc_t sums[kTapsPerBlock] = {};
  if (k < geometry.filters) {
    const scalar_t* image = input + geometry.multiplier.divide(k) * geometry.input.c;
    const scalar_t* gradient = grad_output + k * geometry.output.c;
    const index_t begin = slice * geometry.slice_pixels;
    const index_t end =
        geometry.pixels - begin < geometry.slice_pixels ? geometry.pixels : begin + geometry.slice_pixels;
    for (index_t pixel = begin + static_cast<index_t>(threadIdx.x) / kLanes; pixel < end;
         pixel += kBlockThreads / kLanes) {
      index_t n = pixel;
      const index_t q = take_digit(n, geometry.w_output), p = take_digit(n, geometry.h_output);
      const acc_t g =
          static_cast<acc_t>(gradient[n * geometry.output.n + p * geometry.output.h + q * geometry.output.w]);
      const index_t row = geometry.h.start(p), column = geometry.w.start(q);
#pragma unroll
      for (int t = 0; t < kTapsPerBlock; ++t) {
        index_t h = row + rows[t], w = column + columns[t];
        if constexpr (kBordered) {
          h = border_pixel(geometry.border, h, geometry.h.input);
          w = border_pixel(geometry.border, w, geometry.w.input);
        }
        if (geometry.h.contains(h) && geometry.w.contains(w)) {
          sums[t] += g * static_cast<acc_t>(image[n * geometry.input.n + h * geometry.input.h + w * geometry.input.w]);
        }
      }
    }
  }
  block_sum<kLanes>(sums);
  if (threadIdx.x < kLanes && k < geometry.filters) {
    for (int t = 0; t < kTapsPerBlock && first_tap + t < geometry.taps; ++t) {
      partials[(static_cast<int64_t>(slice) * geometry.filters + k) * geometry.taps + first_tap + t] = sums[t];
    }
  }
}

}  // namespace convops
