// Pooling in two passes, along rows and then down columns, through an image of (H, Q) in the workspace: R + S steps an
// output instead of R * S, and what is found along a row serves every window over it.
#pragma once

#include "pooling.cuh"

namespace convops {

// Whether the two passes of loads, and the image between them, are less than the direct kernels' R * S loads an output;
// and no window without a pixel, which has no rows to choose from.
inline bool is_separable(const Pool2dGeometry& geometry) {
  const Axis &h = geometry.h, &w = geometry.w;
  if (h.adaptive || w.adaptive || h.dilation > h.input || w.dilation > w.input || h.output == 0) return false;
  // The rows that an output row does not share with others.
  const int64_t rows = std::min(h.kernel, ceil_div(h.input, h.output));
  return geometry.taps() > 32 && geometry.taps() > 2 * (rows * w.kernel + h.kernel);
}

inline int64_t separable_numel(const Pool2dGeometry& geometry) {
  return geometry.N * geometry.C * geometry.h.input * geometry.w.output;
}

// One of the passes: the windows along rows of an (H, W) image, or those down columns of an (H, Q) image.
template <typename Index, bool kDownColumns>
struct LinePass {
  using index_t = Index;
  static constexpr bool kDown = kDownColumns;

  PoolAxis<index_t, false> h, w;
  ImageSteps<index_t> input;
  // Decodes an element, or a vector of channels, of what the pass writes.
  ImageIndex<index_t> work;
  index_t work_count;

  LinePass(const Pool2dGeometry& geometry, int vector)
      : h(without_unused_steps(geometry.h)), w(without_unused_steps(geometry.w)) {
    const int64_t channels = geometry.C / vector;
    const int64_t height = kDown ? geometry.h.output : geometry.h.input, width = geometry.w.output;
    input = {geometry.channels_last, geometry.C, geometry.h.input, kDown ? width : geometry.w.input};
    work = {geometry.channels_last, channels, height, width};
    work_count = static_cast<index_t>(geometry.N * channels * height * width);
  }

  // The first channel of a plane.
  __device__ index_t plane(const ImagePosition<index_t>& at, int vector) const {
    return at.n * input.n + at.c * vector * input.c;
  }
  // A tap of the window at a position: its pixel in the plane.
  __device__ index_t pixel(const ImagePosition<index_t>& at, index_t tap) const {
    if constexpr (kDown) return (h.start(at.h) + tap * h.dilation) * input.h + at.w * input.w;
    return at.h * input.h + (w.start(at.w) + tap * w.dilation) * input.w;
  }
  __device__ index_t first_tap(const ImagePosition<index_t>& at) const {
    return kDown ? h.first_tap(at.h) : w.first_tap(at.w);
  }
  // Calls body(tap, its pixel) for the taps inside the image, in order.
  template <typename Body>
  __device__ void for_each_tap(const ImagePosition<index_t>& at, const Body& body) const {
    const index_t first = first_tap(at), end = kDown ? h.taps_before(h.input, at.h) : w.taps_before(w.input, at.w);
    const index_t step = kDown ? h.dilation * input.h : w.dilation * input.w;
    index_t from = pixel(at, first);
    for (index_t tap = first; tap < end; ++tap, from += step) body(tap, from);
  }
};

}  // namespace convops
