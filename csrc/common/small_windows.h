// Which windows the CPU's direct kernels take: their work grows with the taps of a window, that of the separable ones
// with the sum of its sides.
#pragma once

#include "geometry.h"

namespace convops {

inline bool has_small_windows(const Pool2dGeometry& g, int64_t most_taps) {
  if (g.taps() > most_taps) return false;
  if (g.channels_last) return true;
  // Where windows of a plane overlap more, sharing pays at once.
  return !g.w.adaptive && g.w.stride == 2 && (g.w.dilation == 1 || g.w.kernel == 1);
}

}  // namespace convops
