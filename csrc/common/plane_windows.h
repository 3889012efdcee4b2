// Small windows over contiguous planes, each vector of them in registers from the first load to the last store: a
// stride of 2 takes even and odd columns apart as it loads them. Bytes: the input once from memory, as often as windows
// overlap from the cache.
#pragma once

#include "pool_rows.h"
#include "tagged.h"

namespace convops {
namespace CONVOPS_ISA {

// kColumns: columns of a window where the compiler is to know, else 0.
template <typename Rule, int kStride, int kColumns, typename scalar_t, typename Start, typename Finish>
void reduce_plane_windows_of(const Pool2dGeometry& g, const scalar_t* input, const Start& start, const Finish& finish) {
  using acc_t = typename Rule::acc_t;
  using Item = typename Rule::Item;
  constexpr int64_t lanes = kLanes<acc_t>;
  const int64_t H = g.h.input, W = g.w.input, S = kColumns > 0 ? kColumns : g.w.kernel;
  const auto row_windows = windows_of(g.h);
  const acc_t outside = Rule::identity().value[0];
  const auto make_state = [] { return 0; };
  parallel_strips(g.N * g.C, g.h.output, g.input_numel(), make_state, [&](int, int64_t plane, int64_t p0, int64_t p1) {
    for (int64_t p = p0; p < p1; ++p) {
      const Window& rows = row_windows[p];
      const scalar_t* first_row = input + (plane * H + rows.start) * W;
      for_each_vector<acc_t>(g.w.output, [&](int64_t q, int64_t count) {
        const int64_t w = g.w.start(q);
        Item item = start(p, q);
        const auto take_rows = [&](const auto& load_columns) {
          for (int64_t r = rows.first; r < rows.last; ++r) {
            const scalar_t* row = first_row + r * g.h.dilation * W;
            const int64_t tag = r * g.w.kernel;
            if constexpr (kStride == 1) {
#pragma GCC unroll 3
              for (int64_t s = 0; s < S; ++s) Rule::take(item, Item(load_columns(row, w + s)).shifted(tag + s));
            } else {
#pragma GCC unroll 2
              for (int64_t s = 0; s < S; s += 2) {
                const auto a = load_columns(row, w + s), b = load_columns(row, w + s + lanes);
                Rule::take(item, Item(unzip<false, acc_t>(a, b)).shifted(tag + s));
                if (s + 1 < S) Rule::take(item, Item(unzip<true, acc_t>(a, b)).shifted(tag + s + 1));
              }
            }
          }
        };
        if (w >= 0 && w + kStride * lanes + S <= W) {
          take_rows([](const scalar_t* row, int64_t column) { return load(row + column); });
        } else {
          take_rows([&](const scalar_t* row, int64_t column) { return load_inside(row, column, W, outside); });
        }
        finish(plane, p, q, count, item);
      });
    }
  });
}

// start(p, q) is what windows (p, q), (p, q + 1), ... of a row begin with, finish(plane, p, q, count, item) gets them.
template <typename Rule, typename scalar_t, typename Start, typename Finish>
void reduce_plane_windows(const Pool2dGeometry& g, const scalar_t* input, const Start& start, const Finish& finish) {
  if (g.w.stride == 1) return reduce_plane_windows_of<Rule, 1, 0>(g, input, start, finish);
  if (g.w.kernel == 2) return reduce_plane_windows_of<Rule, 2, 2>(g, input, start, finish);
  if (g.w.kernel == 3) return reduce_plane_windows_of<Rule, 2, 3>(g, input, start, finish);
  reduce_plane_windows_of<Rule, 2, 0>(g, input, start, finish);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
