// Packing: what the micro kernels read. A tile of the source image becomes [channel block][row][slot][channel], the
// weight becomes panels [target block][channel block][row tap][column tap][channel][kBlock targets].
//
// A slot is a packed column. Columns are kept by their remainder modulo the source step, so that the columns that one
// tap reads for neighbouring targets always lie next to each other, whatever the stride, or in their own order, so that
// the columns that neighbouring taps read for one target do. Rows and columns that no tap reads are not packed at all
// (a 1x1 convolution with stride 2 reads a quarter of the image), and rows of zeros are left out of the runs rather
// than multiplied. Other borders are read while packing: a row outside the image is the slot of the row that it shows,
// a column outside is packed from the one that it shows.
#pragma once

#include <algorithm>
#include <vector>

#include "../common/algorithm.h"
#include "../common/cpu.h"
#include "../common/simd.h"
#include "correlation.h"
#include "micro_kernels.h"

namespace convops {
namespace CONVOPS_ISA {

// Source channels of a group in blocks: equal ones of at most 16, or of a width of the caller's.
struct ChannelBlocks {
  explicit ChannelBlocks(int64_t channels)
      : channels(channels), count(ceil_div(channels, 16)), width(count > 0 ? ceil_div(channels, count) : 0) {}
  ChannelBlocks(int64_t channels, int64_t width)
      : channels(channels), count(channels > 0 ? ceil_div(channels, width) : 0), width(width) {}
  int64_t padded() const { return count * width; }

  int64_t channels, count, width;
};

// Neighbouring taps of one row of the kernel whose slots and weights both follow each other.
struct ColumnRun {
  int64_t slot, order, taps;
};

// The packed columns of the targets at base positions [begin, begin + count), and after them zeros up to so many slots.
struct TileColumns {
  TileColumns(const CorrelationAxis& axis, int64_t begin, int64_t count, int64_t least_slots = 0)
      : begin(begin), count(count), source_step(axis.source_step), step(axis.by_remainder ? 1 : axis.source_step) {
    // Stretches of neighbouring columns of one remainder. Taps so far apart that their stretches do not meet, as with
    // a large dilation, get stretches of their own, so that nothing unread is packed in between.
    struct Stretch {
      int64_t remainder, first, last, slot;
    };
    std::vector<Stretch> stretches;
    const int64_t modulus = axis.source_step / step, span = (count - 1) * step + 1;  // of one tap, in slots
    const auto place = [&](int64_t offset) {
      return std::pair(floor_mod(offset, modulus), floor_div(offset, modulus));
    };
    const auto column_of = [&](int64_t remainder, int64_t position) {
      return begin * axis.source_step + position * modulus + remainder;
    };
    std::vector<std::pair<int64_t, int64_t>> places;
    for (const auto& phase : axis.phases) {
      for (const AxisTap& tap : phase) places.push_back(place(tap.offset));
    }
    std::sort(places.begin(), places.end());
    for (const auto& [remainder, position] : places) {
      if (!stretches.empty() && stretches.back().remainder == remainder && position <= stretches.back().last + span) {
        stretches.back().last = position;
      } else {
        stretches.push_back({remainder, position, position, 0});
      }
    }
    for (Stretch& stretch : stretches) {
      stretch.slot = slots;
      slots += stretch.last - stretch.first + span;
    }
    const auto slot_of = [&](int64_t offset) {
      const auto [remainder, position] = place(offset);
      const Stretch* stretch = stretches.data();
      while (stretch->remainder != remainder || position > stretch->last) ++stretch;
      return stretch->slot + position - stretch->first;
    };
    source_begin = axis.source;
    for (const Stretch& r : stretches) {
      source_begin = std::min(source_begin, std::max<int64_t>(0, column_of(r.remainder, r.first)));
      source_end = std::max(source_end, std::min(axis.source, column_of(r.remainder, r.last + span - 1) + 1));
    }
    source_begin = std::min(source_begin, source_end);
    slot_of_source.assign(source_end - source_begin, -1);
    for (const Stretch& r : stretches) {
      for (int64_t i = 0; i < r.last - r.first + span; ++i) {
        const int64_t column = column_of(r.remainder, r.first + i);
        if (column >= 0 && column < axis.source) {
          slot_of_source[column - source_begin] = static_cast<int32_t>(r.slot + i);
        } else {
          outside.push_back({r.slot + i, axis.pixel(column)});
        }
      }
    }
    while (slots < least_slots) outside.push_back({slots++, -1});
    in_order = modulus == 1 && stretches.size() == 1;
    for (const auto& phase : axis.phases) {
      std::vector<int64_t> phase_slots;
      std::vector<ColumnRun> phase_runs;
      for (const AxisTap& tap : phase) {
        const int64_t slot = slot_of(tap.offset);
        phase_slots.push_back(slot);
        if (!phase_runs.empty() && phase_runs.back().slot + phase_runs.back().taps == slot) {
          ++phase_runs.back().taps;
        } else {
          phase_runs.push_back({slot, tap.order, 1});
        }
      }
      tap_slots.push_back(std::move(phase_slots));
      runs.push_back(std::move(phase_runs));
    }
  }

  int64_t begin, count, source_step;
  int64_t step;  // slots between the columns that a tap reads for neighbouring targets
  int64_t slots = 0;
  int64_t source_begin = 0, source_end = 0;
  std::vector<int32_t> slot_of_source;  // of the columns [source_begin, source_end); -1: not read
  struct Outside {
    int64_t slot, column;  // the column of the image that it shows, -1: zeros
  };
  std::vector<Outside> outside;
  bool in_order = false;                        // neighbouring columns have neighbouring slots
  std::vector<std::vector<ColumnRun>> runs;     // by phase
  std::vector<std::vector<int64_t>> tap_slots;  // of the first target, by phase and tap
};

// The packed rows of the targets at base positions [begin, begin + count).
struct TileRows {
  TileRows(const CorrelationAxis& axis, int64_t begin, int64_t count)
      : begin(begin), count(count), border(axis.border), slot_of_source(axis.source, -1) {
    for (const auto& phase : axis.phases) {
      for (const AxisTap& tap : phase) {
        for (int64_t i = begin; i < begin + count; ++i) {
          const int64_t row = axis.pixel(i * axis.source_step + tap.offset);
          if (row >= 0) slot_of_source[row] = 0;
        }
      }
    }
    for (int64_t row = 0; row < axis.source; ++row) {
      if (slot_of_source[row] < 0) continue;
      slot_of_source[row] = static_cast<int32_t>(source.size());
      source.push_back(row);
    }
  }

  // -1 for a row of zeros.
  int64_t slot(int64_t position) const {
    const int64_t row = border_pixel(border, position, static_cast<int64_t>(slot_of_source.size()));
    return row < 0 ? -1 : slot_of_source[row];
  }

  int64_t begin, count;
  Border border;
  std::vector<int32_t> slot_of_source;
  std::vector<int64_t> source;  // rows in slot order
};

// Rows whose distance is a multiple of a page would all fall into one set of the first cache.
template <typename T>
constexpr bool crowds_cache(int64_t step) {
  return step * static_cast<int64_t>(sizeof(T)) % 4096 == 0;
}

// Whether the source can be read where it lies, and neighbouring pixels would not crowd one set of the first cache.
template <typename scalar_t>
bool lies_as_packed(const Correlation& c) {
  const auto as_it_is = [](const CorrelationAxis& axis) { return axis.border == Border::zeros || axis.inside(); };
  return std::is_same_v<scalar_t, Compute<scalar_t>> && c.channels_last && as_it_is(c.h) && as_it_is(c.w) &&
         !crowds_cache<scalar_t>(c.w.source_step * c.groups * c.source_channels);
}

// A packed tile leaves room in a 1 MB L2 cache for a weight panel.
constexpr int64_t kTileBytes = 384 << 10;

// Weights that do not stay in the L2 cache come from beyond it once a tile.
inline bool has_large_weight(const Correlation& c) {
  const int64_t bytes = c.source_channels * c.target_channels * c.h.kernel * c.w.kernel * int64_t(sizeof(float));
  return bytes > l2_cache_bytes() / 4;
}

inline int64_t most_tile_bytes(const Correlation& c) {
  return has_large_weight(c) ? std::clamp<int64_t>(l2_cache_bytes() / 2, kTileBytes, 1 << 20) : kTileBytes;
}

struct Tiling {
  // Rows and columns of base positions in a tile, and how many tiles cover the target.
  int64_t rows, columns, row_tiles, column_tiles;
};

// Tiles of one of `images` images whose packed slots take that many bytes each; where columns are cut, into multiples
// of `grain`.
inline Tiling choose_tiling(const Correlation& c, int64_t images, int64_t bytes_per_slot, int64_t grain) {
  const int64_t I = c.h.positions(), J = c.w.positions(), most_bytes = most_tile_bytes(c);
  Tiling t{I, J, 1, 1};
  const auto bytes = [&] { return c.h.sources(t.rows) * c.w.sources(t.columns) * bytes_per_slot; };
  // Cuts an axis into as few equal parts as make the tile small enough.
  const auto cut = [&](int64_t& size, int64_t length, int64_t step) {
    const int64_t most = ceil_div(length, step);
    int64_t parts = 1;
    while (bytes() > most_bytes && parts < most) {
      parts = std::clamp(parts * (bytes() / most_bytes), parts + 1, most);
      size = ceil_div(ceil_div(length, parts), step) * step;
    }
  };
  cut(t.rows, I, 1);
  cut(t.columns, J, grain);
  // Enough tiles to keep the threads evenly busy, while the rows that neighbouring tiles both pack stay few; of a large
  // weight threads share out the targets instead.
  while (images * ceil_div(I, t.rows) < 4 * thread_count() && t.rows >= 2 * c.h.sources(1) && t.rows > 4 &&
         !has_large_weight(c)) {
    t.rows = ceil_div(t.rows, 2);
  }
  t.row_tiles = ceil_div(I, t.rows);
  t.column_tiles = ceil_div(J, t.columns);
  return t;
}

// Whole images that fit one tile.
inline int64_t images_together(const Correlation& c, int64_t bytes_per_slot) {
  const int64_t bytes = c.h.sources(c.h.positions()) * c.w.sources(c.w.positions()) * bytes_per_slot;
  return std::clamp<int64_t>(most_tile_bytes(c) / std::max<int64_t>(bytes, 1), 1, std::max<int64_t>(c.N, 1));
}

// Sorts each phase's taps so that neighbours in memory become neighbours in the list, and numbers them.
inline void order_taps(CorrelationAxis& axis) {
  int64_t order = 0;
  for (auto& phase : axis.phases) {
    std::sort(phase.begin(), phase.end(), [&](const AxisTap& a, const AxisTap& b) {
      const int64_t modulus = axis.by_remainder ? axis.source_step : 1;
      const int64_t ra = floor_mod(a.offset, modulus), rb = floor_mod(b.offset, modulus);
      return ra != rb ? ra < rb : a.offset < b.offset;
    });
    for (AxisTap& tap : phase) tap.order = order++;
  }
}

inline Correlation ordered_correlation(const Conv2dProblem& problem) {
  Correlation c = make_correlation(problem.geometry, problem.pass == Conv2dPass::grad_input);
  order_taps(c.h);
  order_taps(c.w);
  return c;
}

// Columns in their own order where taps leave none of them out: runs get longer.
inline void keep_column_order(CorrelationAxis& axis) {
  const auto& taps = axis.phases[0];
  if (axis.phases.size() != 1 || taps.size() < 2) return;
  axis.by_remainder = taps[1].offset - taps[0].offset != 1 || static_cast<int64_t>(taps.size()) < axis.source_step;
}

// Taps that some target reads through; a stride beyond the image leaves others unused.
inline int64_t tap_count(const CorrelationAxis& axis) {
  int64_t count = 0;
  for (const auto& phase : axis.phases) count += static_cast<int64_t>(phase.size());
  return count;
}

// Copies a tile of rows x columns, transposed: from[row * from_row + column] to to(column)[row].
template <typename scalar_t, typename To>
CONVOPS_INLINE void transpose_tile(
    const scalar_t* from, int64_t from_row, int64_t rows, int64_t columns, const To& to) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> tile[lanes];
  if (rows == lanes && columns == lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) tile[i] = load(from + i * from_row);
  } else {
    for (int i = 0; i < lanes; ++i) tile[i] = i < rows ? load_partial(from + i * from_row, columns) : Vector<acc_t>{};
  }
  transpose<acc_t>(tile);
  if (columns == lanes) {
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) to(j, tile[j]);
  } else {
    for (int j = 0; j < columns; ++j) to(j, tile[j]);
  }
}

// Pixels of so few planes are moved one value at a time.
constexpr int64_t kFewPlanes = 4;

// to[slot][plane] = planes[plane][w] for pixels w; the slots follow each other, or are those of `slots`, -1: none.
template <typename scalar_t, int kPlanes>
void interleave_planes(
    const scalar_t* planes, int64_t plane, int64_t pixels, const int32_t* slots, Compute<scalar_t>* to) {
  for (int64_t w = 0; w < pixels; ++w) {
    if (slots != nullptr && slots[w] < 0) continue;
    Compute<scalar_t>* const pixel = to + (slots != nullptr ? slots[w] : w) * kPlanes;
#pragma GCC unroll 4
    for (int i = 0; i < kPlanes; ++i) pixel[i] = widen(planes[i * plane + w]);
  }
}

// Packs the tile of one image and group; image points at the group's first channel.
template <typename scalar_t>
void pack_source(
    const scalar_t* image, const Correlation& c, const ChannelBlocks& blocks, const TileRows& rows,
    const TileColumns& columns, Compute<scalar_t>* packed) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t H = c.h.source, W = c.w.source, width = blocks.width, row_pitch = columns.slots * width;
  const int64_t block_pitch = static_cast<int64_t>(rows.source.size()) * row_pitch;
  const int64_t pixel = c.groups * c.source_channels;
  const int64_t stretch = columns.source_end - columns.source_begin;
  const int32_t* slot_of = columns.slot_of_source.data();
  // Whole rows of a channels_last image are already in packed order when no column is skipped or reordered.
  const bool verbatim = c.channels_last && blocks.count == 1 && width == pixel && columns.in_order;
  const int64_t column_step = c.channels_last ? pixel : 1, channel_step = c.channels_last ? 1 : H * W;
  for (const int64_t h : rows.source) {
    acc_t* row = packed;
    packed += row_pitch;
    for (const auto& [slot, column] : columns.outside) {
      for (int64_t block = 0; block < blocks.count; ++block) {
        const int64_t first = block * width, channels = std::min(width, blocks.channels - first);
        acc_t* to = row + block * block_pitch + slot * width;
        std::fill_n(to, width, acc_t(0));
        if (column < 0) continue;
        const scalar_t* from = image + (h * W + column) * column_step + first * channel_step;
        for (int64_t i = 0; i < channels; ++i) to[i] = widen(from[i * channel_step]);
      }
    }
    if (stretch == 0) continue;
    if (verbatim) {
      const scalar_t* from = image + (h * W + columns.source_begin) * pixel;
      acc_t* to = row + slot_of[0] * width;
      int64_t i = 0;
      for (; i + lanes <= stretch * width; i += lanes) store(to + i, load(from + i));
      store_partial(to + i, load_partial(from + i, stretch * width - i), stretch * width - i);
    } else if (c.channels_last) {
      // All channels of a pixel, as they lie in memory, each block to its own place.
      for (int64_t w = 0; w < stretch; ++w) {
        if (slot_of[w] < 0) continue;
        const scalar_t* from = image + (h * W + columns.source_begin + w) * pixel;
        acc_t* to = row + slot_of[w] * width;
        int64_t first = 0;
        for (; width == lanes && first + lanes <= blocks.channels; first += lanes, to += block_pitch)
          store(to, load(from + first));
        for (; first < blocks.channels; first += width, to += block_pitch) {
          const int64_t channels = std::min(width, blocks.channels - first);
          for (int64_t i = 0; i < width; i += lanes)
            store_partial(to + i, load_partial(from + first + i, channels - i), width - i);
        }
      }
    } else if (width <= kFewPlanes && width == blocks.channels) {
      // A transpose of whole vectors would mostly move zeros.
      const auto interleave =
          select_instance<kFewPlanes>(width, []<int N>() { return &interleave_planes<scalar_t, N>; });
      interleave(
          image + h * W + columns.source_begin, H * W, stretch, columns.in_order ? nullptr : slot_of,
          row + (columns.in_order ? slot_of[0] * width : 0));
    } else {
      for (int64_t block = 0; block < blocks.count; ++block) {
        const int64_t first = block * width, channels = std::min(width, blocks.channels - first);
        for (int64_t i = 0; i < width; i += lanes) {
          const scalar_t* from = image + ((first + i) * H + h) * W + columns.source_begin;
          acc_t* to = row + block * block_pitch + i;
          const int64_t height = std::min<int64_t>(lanes, std::max<int64_t>(channels - i, 0));
          const int64_t stored = std::min<int64_t>(lanes, width - i);
          for (int64_t w = 0; w < stretch; w += lanes) {
            transpose_tile(
                from + w, H * W, height, std::min<int64_t>(lanes, stretch - w),
                [&](int64_t j, Vector<acc_t> pixel_channels) {
                  const int32_t slot = slot_of[w + j];
                  if (slot >= 0) store_partial(to + slot * width, pixel_channels, stored);
                });
          }
        }
      }
    }
  }
}

// Offsets of a weight element into its panel: of its source channel, and of its tap (-1: not in this panel).
struct PanelOffsets {
  std::vector<int64_t> of_channel, of_tap;
  int64_t pitch = 0;  // between panels that are written side by side
};

// Panels of all taps that some target reads through.
template <typename T>
struct PanelLayout : PanelOffsets {
  PanelLayout(const Correlation& c, const ChannelBlocks& blocks)
      : row_taps(tap_count(c.h)),
        column_taps(tap_count(c.w)),
        block(blocks.width * row_taps * column_taps * kBlock<T>),
        size(blocks.count * block) {
    pitch = size + kLanes<T>;  // powers of two apart, panels would crowd one cache set
    of_tap.assign(c.h.kernel * c.w.kernel, -1);
    for (int64_t i = 0; i < blocks.channels; ++i) {
      of_channel.push_back(i / blocks.width * block + i % blocks.width * kBlock<T>);
    }
    for (const auto& row_phase : c.h.phases) {
      for (const AxisTap& r : row_phase) {
        for (const auto& column_phase : c.w.phases) {
          for (const AxisTap& s : column_phase) {
            of_tap[r.tap * c.w.kernel + s.tap] = (r.order * column_taps + s.order) * blocks.width * kBlock<T>;
          }
        }
      }
    }
  }

  int64_t row_taps, column_taps;
  int64_t block, size;  // of a block of source channels, of a panel
};

struct ChannelRange {
  int64_t begin, end;
};

// Whether all of a source channel's weights lie together (grad_input), or all of a target channel's (forward).
inline bool source_major(const Correlation& c) {
  return c.weight_source > c.weight_target;
}

// Reads one group's weight as vectors of target channels: put(target, channel, tap, values) for every kLanes targets
// from targets.begin on, source channel and tap; zeros where there is no target. Unless the weight is source_major,
// sources are all there are. A deep layer's weight is larger than its image, so it is read in the order in which it
// lies.
template <typename scalar_t, typename Put>
CONVOPS_INLINE void read_weight(
    const scalar_t* weight, const Correlation& c, ChannelRange sources, ChannelRange targets, const Put& put) {
  constexpr int lanes = kLanes<Compute<scalar_t>>;
  const int64_t taps = c.h.kernel * c.w.kernel;
  if (c.weight_target == 1) {
    for (int64_t i = sources.begin; i < sources.end; ++i) {
      for (int64_t r = 0; r < c.h.kernel; ++r) {
        for (int64_t s = 0; s < c.w.kernel; ++s) {
          const scalar_t* from = weight + i * c.weight_source + r * c.weight_row + s * c.weight_column;
          for (int64_t target = targets.begin; target < targets.end; target += lanes) {
            __builtin_prefetch(from + target + 4 * c.weight_source);  // on another page, for a few targets of many
            put(target, i, r * c.w.kernel + s, load_partial(from + target, c.target_channels - target));
          }
        }
      }
    }
    return;
  }
  // Elements of which `inside` are counted before the others: taps, or the channels of channels_last.
  const bool channels_inside = c.weight_source == 1 && c.weight_column != 1;
  const int64_t inside = channels_inside ? c.source_channels : taps;
  const auto read_run = [&](int64_t channel, int64_t length, int64_t target) CONVOPS_INLINE_LAMBDA {
    const int64_t count = std::clamp<int64_t>(c.target_channels - target, 0, lanes);
    const scalar_t* from = weight + channel * c.weight_source + target * c.weight_target;
    int64_t i = 0, o = channel;  // counted, since a division takes as long as an element's share of the transpose
    for (int64_t e = 0; e < length; e += lanes) {
      transpose_tile(
          from + e, c.weight_target, count, std::min<int64_t>(lanes, length - e),
          [&](int64_t, Vector<Compute<scalar_t>> values) CONVOPS_INLINE_LAMBDA {
            put(target, channels_inside ? i : o, channels_inside ? o : i, values);
            if (++i == inside) {
              i = 0;
              ++o;
            }
          });
    }
  };
  if (source_major(c)) {
    for (int64_t channel = sources.begin; channel < sources.end; ++channel)
      for (int64_t target = targets.begin; target < targets.end; target += lanes) read_run(channel, taps, target);
  } else {
    for (int64_t target = targets.begin; target < targets.end; target += lanes)
      read_run(0, c.source_channels * taps, target);
  }
}

// Packs some channels of one group's weight into its panels, of which the first is kBlock targets from targets.begin
// on. Padding channels of a panel are left alone.
template <typename scalar_t>
void pack_weight(
    const scalar_t* weight, const Correlation& c, const PanelOffsets& layout, ChannelRange sources,
    ChannelRange targets, Compute<scalar_t>* panels) {
  using acc_t = Compute<scalar_t>;
  const int64_t* of_channel = layout.of_channel.data();
  const int64_t* of_tap = layout.of_tap.data();
  read_weight(
      weight, c, sources, targets,
      [&](int64_t target, int64_t channel, int64_t tap, Vector<acc_t> values) CONVOPS_INLINE_LAMBDA {
        const int64_t place = target - targets.begin, panel = place / kBlock<acc_t>;
        if (of_tap[tap] < 0) return;
        store_partial(
            panels + panel * layout.pitch + place % kBlock<acc_t> + of_channel[channel] + of_tap[tap], values,
            targets.end - target);
      });
}

// Packs the panels of all groups, [group][target block].
template <typename scalar_t>
void pack_panels(
    const scalar_t* weight, const Correlation& c, const ChannelBlocks& channels,
    const PanelLayout<Compute<scalar_t>>& layout, Compute<scalar_t>* panels) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t block = kBlock<acc_t>;
  const int64_t target_blocks = ceil_div(c.target_channels, block), size = c.groups * target_blocks * layout.pitch;
  if (channels.padded() > channels.channels) std::fill_n(panels, size, acc_t(0));
  // Pieces of the weight that lie together: the block of channels that varies slowest.
  const int64_t pieces = source_major(c) ? channels.count : target_blocks;
  parallel_for(c.groups * pieces, size, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces, piece = i % pieces;
      ChannelRange sources{0, c.source_channels}, targets{0, target_blocks * block};
      if (source_major(c)) {
        sources = {piece * channels.width, std::min((piece + 1) * channels.width, c.source_channels)};
      } else {
        targets = {piece * block, (piece + 1) * block};
      }
      pack_weight(
          weight + group * c.weight_group, c, layout, sources, targets,
          panels + (group * target_blocks + targets.begin / block) * layout.pitch);
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
