// Average-pooling with a window as large as the plane: one pass over memory.
#pragma once

#include "../common/algorithm.h"
#include "../common/plane_sum.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename scalar_t>
void global_avg_pool_forward(const AvgPool2dProblem& problem, const scalar_t* input, scalar_t* output) {
  using acc_t = Compute<scalar_t>;
  const Pool2dGeometry& g = problem.geometry;
  const int64_t pixels = g.h.input * g.w.input;
  const acc_t divisor = acc_t(problem.divisor.at(g, 0, 0));
  if (!g.channels_last) {
    parallel_for(g.N * g.C, g.input_numel(), [&](int64_t begin, int64_t end) {
      int64_t plane = begin;
      for (; plane + kLanes<acc_t> <= end; plane += kLanes<acc_t>) {
        store(output + plane, plane_sums(input + plane * pixels, pixels) / broadcast(divisor));
      }
      for (; plane < end; ++plane) {
        output[plane] = narrow<scalar_t>(plane_sum(input + plane * pixels, pixels) / divisor);
      }
    });
    return;
  }
  // Pixel by pixel, so that memory is read in order; sums of rows, then the sum of those.
  for_each_channel_block(g, [&](int64_t n, int64_t first, int64_t channels) {
    const Scratch<acc_t> sums(round_up(channels, kLanes<acc_t>)), row(round_up(channels, kLanes<acc_t>));
    const scalar_t* from = input + n * pixels * g.C + first;
    std::fill_n(sums.data(), channels, acc_t(0));
    for (int64_t h = 0; h < g.h.input; ++h) {
      std::fill_n(row.data(), channels, acc_t(0));
      for (int64_t w = 0; w < g.w.input; ++w, from += g.C) {
        for_each_vector<acc_t>(channels, [&](int64_t i, int64_t count) CONVOPS_INLINE_LAMBDA {
          store(row.data() + i, load(row.data() + i) + load_partial(from + i, count));
        });
      }
      for_each_vector<acc_t>(
          channels, [&](int64_t i, int64_t) { store(sums.data() + i, load(sums.data() + i) + load(row.data() + i)); });
    }
    for_each_vector<acc_t>(channels, [&](int64_t i, int64_t count) CONVOPS_INLINE_LAMBDA {
      store_partial(output + n * g.C + first + i, load(sums.data() + i) / broadcast(divisor), count);
    });
  });
}

template <typename scalar_t>
void global_avg_pool_grad_input(const AvgPool2dProblem& problem, const scalar_t* grad_output, scalar_t* grad_input) {
  using acc_t = Compute<scalar_t>;
  const Pool2dGeometry& g = problem.geometry;
  const int64_t pixels = g.h.input * g.w.input;
  const acc_t divisor = acc_t(problem.divisor.at(g, 0, 0));
  if (!g.channels_last) {
    parallel_for(g.N * g.C, g.input_numel(), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        std::fill_n(grad_input + plane * pixels, pixels, narrow<scalar_t>(widen(grad_output[plane]) / divisor));
      }
    });
    return;
  }
  for_each_channel_block(g, [&](int64_t n, int64_t first, int64_t channels) {
    const Scratch<scalar_t> shares(channels);
    for (int64_t i = 0; i < channels; ++i) {
      shares[i] = narrow<scalar_t>(widen(grad_output[n * g.C + first + i]) / divisor);
    }
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      std::copy_n(shares.data(), channels, grad_input + (n * pixels + pixel) * g.C + first);
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
