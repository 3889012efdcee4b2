// Small windows with a stride of 2 over contiguous planes, each vector of them in registers from the first load to the
// last store: even and odd columns are taken apart as they are loaded. Bytes: the input once from memory, as often as
// windows overlap from the cache.
#pragma once

#include "pool_rows.h"
#include "tagged.h"

namespace convops {
namespace CONVOPS_ISA {

// kColumns: columns of a window where the compiler is to know, else 0.
template <typename Rule, int kColumns, typename scalar_t, typename Start, typename Finish>
void reduce_plane_windows_of(const Pool2dGeometry& g, const scalar_t* input, const Start& start, const Finish& finish) {
  using acc_t = typename Rule::acc_t;
  using Item = typename Rule::Item;
  constexpr int64_t lanes = kLanes<acc_t>;
  const int64_t H = g.h.input, W = g.w.input, S = kColumns > 0 ? kColumns : g.w.kernel;
  const auto row_windows = windows_of(g.h);
  const acc_t outside = Rule::identity().value[0];
  // The window's rows, two columns at a time: load(i, address) is the vector of column w + s, where i = s, or of the
  // lanes behind it, where i = s + 1.
  const auto take_rows = [&](Item& item, const Window& rows, const scalar_t* from, const auto& load)
                             CONVOPS_INLINE_LAMBDA {
                               for (int64_t r = rows.first; r < rows.last; ++r) {
                                 const scalar_t* row = from + r * g.h.dilation * W;
                                 const int64_t tag = r * g.w.kernel;
#pragma GCC unroll 2
                                 for (int64_t s = 0; s < S; s += 2) {
                                   const Vector<acc_t> a = load(s, row + s), b = load(s + 1, row + s + lanes);
                                   Rule::take(item, Item(unzip<false, acc_t>(a, b)).shifted(tag + s));
                                   if (s + 1 < S) Rule::take(item, Item(unzip<true, acc_t>(a, b)).shifted(tag + s + 1));
                                 }
                               }
                             };
  const auto no_state = [] { return 0; };
  parallel_strips(g.N * g.C, g.h.output, g.input_numel(), no_state, [&](int, int64_t plane, int64_t p0, int64_t p1) {
    for (int64_t p = p0; p < p1; ++p) {
      const Window& rows = row_windows[p];
      const scalar_t* first = input + (plane * H + rows.start) * W;
      for_each_vector<acc_t>(g.w.output, [&](int64_t q, int64_t count) CONVOPS_INLINE_LAMBDA {
        const int64_t w = g.w.start(q);
        Item item = start(p, q);
        if (w >= 0 && w + 2 * lanes + S <= W) {
          take_rows(item, rows, first + w, [](int64_t i, const scalar_t* from) CONVOPS_INLINE_LAMBDA {
            if (i < 2) prefetch_ahead(from);
            return load(from);
          });
        } else if constexpr (kColumns > 0) {
          // The same lanes in every row.
          static_assert(kColumns <= 4);
          const LanesInside<scalar_t> inside[] = {{w, W}, {w + lanes, W}, {w + 2, W}, {w + 2 + lanes, W}};
          take_rows(item, rows, first + w, [&](int64_t i, const scalar_t* from) CONVOPS_INLINE_LAMBDA {
            return inside[i].load(from, outside);
          });
        } else {
          take_rows(item, rows, first + w, [&](int64_t i, const scalar_t* from) CONVOPS_INLINE_LAMBDA {
            return LanesInside<scalar_t>(w + i / 2 * 2 + i % 2 * lanes, W).load(from, outside);
          });
        }
        finish(plane, p, q, count, item);
      });
    }
  });
}

// start(p, q) is what windows (p, q), (p, q + 1), ... of a row begin with, finish(plane, p, q, count, item) gets them.
template <typename Rule, typename scalar_t, typename Start, typename Finish>
void reduce_plane_windows(const Pool2dGeometry& g, const scalar_t* input, const Start& start, const Finish& finish) {
  if (g.w.kernel == 2) return reduce_plane_windows_of<Rule, 2>(g, input, start, finish);
  if (g.w.kernel == 3) return reduce_plane_windows_of<Rule, 3>(g, input, start, finish);
  reduce_plane_windows_of<Rule, 0>(g, input, start, finish);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
