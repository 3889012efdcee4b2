// Unpacking: from what the micro kernels leave, vectors of targets and panels of sums, to images and weights.
#pragma once

#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

// Where neighbouring columns and channels of an image are.
struct ImageSteps {
  int64_t column, channel;
};

// Writes `columns` vectors, kBlock apart, of which `channels` lanes count, to a row of an image.
template <typename scalar_t>
void write_vectors(const Compute<scalar_t>* buffer, int64_t columns, int64_t channels, ImageSteps steps, scalar_t* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  if (steps.channel == 1) {
    for (int64_t w = 0; w < columns; ++w)
      store_partial(to + w * steps.column, load(buffer + w * kBlock<acc_t>), channels);
    return;
  }
  for (int64_t w = 0; w < columns; w += lanes) {
    const int64_t width = std::min<int64_t>(lanes, columns - w);
    transpose_tile(buffer + w * kBlock<acc_t>, kBlock<acc_t>, width, channels, [&](int64_t j, Vector<acc_t> values) {
      scalar_t* const row = to + j * steps.channel + w * steps.column;
      if (steps.column == 1) {
        store_partial(row, values, width);
      } else {
        for (int64_t i = 0; i < width; ++i) row[i * steps.column] = narrow<scalar_t>(values[i]);
      }
    });
  }
}

// Writes one row of targets: buffer holds [column][kBlock] for `columns` columns, of which `targets` channels count.
template <typename scalar_t>
void write_row(const Compute<scalar_t>* buffer, int64_t columns, int64_t targets, ImageSteps steps, scalar_t* to) {
  constexpr int64_t lanes = kLanes<Compute<scalar_t>>;
  for (int64_t half = 0; half < targets; half += lanes)
    write_vectors(buffer + half, columns, std::min(lanes, targets - half), steps, to + half * steps.channel);
}

// Writes a panel of accumulated gradients back in the weight's own order.
template <typename scalar_t>
void unpack_weight(
    const Compute<scalar_t>* panel, const Correlation& c, const PanelOffsets& layout, int64_t target,
    scalar_t* weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t taps = c.h.kernel * c.w.kernel, length = c.source_channels * taps;
  const bool channels_inside = c.weight_source == 1;
  std::vector<int64_t> from(length);  // panel offsets in the order of the weight
  for (int64_t i = 0; i < c.source_channels; ++i) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      from[channels_inside ? tap * c.source_channels + i : i * taps + tap] = layout.of_channel[i] + layout.of_tap[tap];
    }
  }
  for (int64_t half = 0; half < kBlock<acc_t> && target + half < c.target_channels; half += lanes) {
    const int64_t targets = std::min<int64_t>(lanes, c.target_channels - target - half);
    for (int64_t e = 0; e < length; e += lanes) {
      const int64_t count = std::min<int64_t>(lanes, length - e);
      Vector<acc_t> tile[lanes];
      for (int j = 0; j < lanes; ++j) tile[j] = j < count ? load(panel + from[e + j] + half) : Vector<acc_t>{};
      transpose<acc_t>(tile);
      for (int64_t k = 0; k < targets; ++k)
        store_partial(weight + (target + half + k) * c.weight_target + e, tile[k], count);
    }
  }
}

// Adds up slices of [group][target block] panels, in their order and into the first, and writes them to the weight.
template <typename scalar_t>
void unpack_slices(
    Compute<scalar_t>* panels, int64_t slices, const Correlation& c, const PanelLayout<Compute<scalar_t>>& layout,
    scalar_t* weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t block = kBlock<acc_t>;
  const int64_t target_blocks = ceil_div(c.target_channels, block), panel_count = c.groups * target_blocks;
  parallel_for(panel_count, slices * panel_count * layout.size, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      acc_t* sum = panels + i * layout.size;
      for (int64_t slice = 1; slice < slices; ++slice) {
        const acc_t* part = sum + slice * panel_count * layout.size;
        for (int64_t e = 0; e < layout.size; ++e) sum[e] += part[e];
      }
      unpack_weight(sum, c, layout, i % target_blocks * block, weight + i / target_blocks * c.weight_group);
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
