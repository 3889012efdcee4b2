// grad_weight of implicit_gemm.h: the same product with the roles turned. The image is the left matrix, the gradient of
// the output the right one, and the accumulators are the weight panel. Each is packed or read where it lies.
#pragma once

#include "unpacking.h"

namespace convops {
namespace CONVOPS_ISA {

// Packs kBlock channels of the output's gradient for a tile of positions as [row][column][kBlock]; a second vector
// without channels is left alone.
template <typename scalar_t>
void pack_gradient(
    const scalar_t* image, const Correlation& c, int64_t targets, const TileRows& rows, const TileColumns& columns,
    Compute<scalar_t>* packed) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t W = c.w.target, plane = c.h.target * W, pixel = c.groups * c.target_channels;
  for (int64_t i = rows.begin; i < rows.begin + rows.count; ++i) {
    for (int64_t half = 0; half < kBlock<acc_t> && half < targets; half += lanes) {
      const int64_t channels = std::min<int64_t>(targets - half, lanes);
      if (c.channels_last) {
        const scalar_t* from = image + (i * W + columns.begin) * pixel + half;
        for (int64_t j = 0; j < columns.count; ++j)
          store(packed + j * kBlock<acc_t> + half, load_partial(from + j * pixel, channels));
      } else {
        const scalar_t* from = image + half * plane + i * W + columns.begin;
        for (int64_t j = 0; j < columns.count; j += lanes) {
          transpose_tile(
              from + j, plane, channels, std::min<int64_t>(lanes, columns.count - j),
              [&](int64_t q, Vector<acc_t> values) { store(packed + (j + q) * kBlock<acc_t> + half, values); });
        }
      }
    }
    packed += columns.count * kBlock<acc_t>;
  }
}

// Neighbouring columns of targets and, for each row tap, the runs that they read.
struct TargetPiece {
  int64_t begin, count;   // base positions
  std::vector<Run> runs;  // source: from a row's start; weight: from a row tap's panel
};

// Columns [begin, end) of targets read where they lie: what they read outside the image is left out, so that those at a
// border are pieces of their own. Neighbouring taps are one run where their channels follow each other.
inline std::vector<TargetPiece> pieces_in_place(const Correlation& c, int64_t begin, int64_t end, int64_t block) {
  const int64_t C = c.source_channels, pixel = c.groups * C;
  std::vector<TargetPiece> pieces;
  for (const TargetStretch& stretch : cut_targets(c.w, 0, begin, end, true)) {
    TargetPiece piece{stretch.begin, stretch.end - stretch.begin, {}};
    for (const size_t tap : stretch.taps) {
      const AxisTap& s = c.w.phases[0][tap];
      const Run run{(stretch.begin * c.w.source_step + s.offset) * pixel, s.order * C * block, C};
      Run* const last = piece.runs.empty() ? nullptr : &piece.runs.back();
      if (last != nullptr && last->source + last->length == run.source &&
          last->weight + last->length * block == run.weight) {
        last->length += C;
      } else {
        piece.runs.push_back(run);
      }
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

// Whether grad_weight reads the source in place: as choose_reading, and where pieces at the borders, which load and
// store as many sums as others, are not too small. Neighbouring pixels of many channels lie further apart in the first
// cache than packed ones, which costs some 7 %: more than packing does where many taps share it.
template <typename scalar_t>
bool sums_in_place(const Correlation& c) {
  constexpr int64_t kFewChannels = 16, kFewTaps = 25;
  const bool share_packing = c.source_channels > kFewChannels && c.h.kernel * c.w.kernel > kFewTaps;
  if (!lies_as_packed<scalar_t>(c) || share_packing) return false;
  constexpr int64_t kRows = 8, kStart = 3;  // of a tile; how many positions' products the sums of a piece take
  const int64_t columns = c.w.positions(), taps = tap_count(c.w);
  int64_t work = 0;
  for (const TargetStretch& stretch : cut_targets(c.w, 0, 0, columns, true)) {
    work += static_cast<int64_t>(stretch.taps.size()) * ((stretch.end - stretch.begin) * kRows + kStart);
  }
  return work < taps * (columns * kRows + kStart) * 11 / 10;
}

// The sum over images, rows and columns is cut into slices by the geometry alone and the slices are added in order, so
// the result does not depend on the number of threads. Channels_last images are read in place.
template <typename scalar_t>
void grad_weight(const Conv2dGeometry& geometry, const scalar_t* input, const scalar_t* grad_output, scalar_t* weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t block = kBlock<acc_t>;
  constexpr bool kSameType = std::is_same_v<scalar_t, acc_t>;
  Correlation c = make_correlation(geometry, false);
  const bool in_place = sums_in_place<scalar_t>(c);
  const bool gradient_in_place = kSameType && c.channels_last && c.target_channels % kLanes<acc_t> == 0 &&
                                 !crowds_cache<scalar_t>(c.groups * c.target_channels);
  if (in_place) {
    c.w.by_remainder = false;
  } else {
    keep_column_order(c.w);
  }
  order_taps(c.h);
  order_taps(c.w);
  const ChannelBlocks channels =
      in_place ? ChannelBlocks(c.source_channels, c.source_channels) : ChannelBlocks(c.source_channels);
  const PanelLayout<acc_t> layout(c, channels);
  const int64_t target_blocks = ceil_div(c.target_channels, block), panel_count = c.groups * target_blocks;

  Tiling t{c.h.positions(), c.w.positions(), 1, 1};
  // Each slice clears, adds and reads a weight of its own, which takes as long as the products of some 20 positions.
  constexpr int64_t kTasks = 16, kSliceBytes = 32 << 20, kSlicePositions = 200, kBandPositions = 128;
  const int64_t worthwhile = std::max<int64_t>(1, c.N * c.h.positions() * c.w.positions() / kSlicePositions);
  // Blocks of targets that share a packed tile: two where there are tasks enough.
  const int64_t slab = worthwhile * panel_count < 8 ? 1 : std::min<int64_t>(target_blocks, 2),
                slabs = ceil_div(target_blocks, slab);
  const int64_t slot_bytes = (channels.padded() + slab * block) * sizeof(acc_t);
  const auto bytes = [&] { return c.h.sources(t.rows) * c.w.sources(t.columns) * slot_bytes; };
  while (t.rows > 1 && bytes() > kTileBytes) t.rows = ceil_div(t.rows, 2);
  while (t.columns > 64 && bytes() > kTileBytes) t.columns = ceil_div(t.columns, 2);
  while (t.rows > 8 && c.N * ceil_div(c.h.positions(), t.rows) < kTasks) t.rows = ceil_div(t.rows, 2);
  t.row_tiles = ceil_div(c.h.positions(), t.rows);
  t.column_tiles = ceil_div(c.w.positions(), t.columns);
  const int64_t tiles = t.row_tiles * t.column_tiles;
  const int64_t most_slices =
      std::max<int64_t>(1, kSliceBytes / std::max<int64_t>(1, panel_count * layout.size * sizeof(acc_t)));
  const int64_t slices =
      std::max<int64_t>(1, std::min({ceil_div(kTasks, c.groups * slabs), c.N * tiles, most_slices, worthwhile}));

  const int64_t W = c.w.source, source_plane = c.h.source * W, target_plane = c.h.target * c.w.target;
  const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * c.target_channels;
  // A tile's columns: mostly all, and so the same for all tiles of a task.
  struct ColumnTile {
    TileColumns columns;
    std::vector<TargetPiece> pieces;
    int64_t step;  // elements of the source from target to target
  };
  const auto column_tile = [&](int64_t j0) {
    const int64_t count = std::min(t.columns, c.w.positions() - j0);
    ColumnTile tile{TileColumns(c.w, j0, count), {}, c.w.source_step * source_pixel};
    if (in_place) {
      tile.pieces = pieces_in_place(c, j0, j0 + count, block);
    } else {
      tile.step = tile.columns.step * channels.width;
      tile.pieces.push_back({j0, count, {}});
      for (const ColumnRun& s : tile.columns.runs[0]) {
        tile.pieces[0].runs.push_back(
            {s.slot * channels.width, s.order * channels.width * block, s.taps * channels.width});
      }
    }
    return tile;
  };

  // Adds a tile of image n to the sums of target blocks [k0, k1).
  const auto add_tile = [&](int64_t n, int64_t group, const TileRows& rows, const ColumnTile& tile, int64_t k0,
                            int64_t k1, acc_t* sums) {
    const TileColumns& columns = tile.columns;
    const scalar_t* const source =
        input + n * source_pixel * source_plane + group * c.source_channels * (c.channels_last ? 1 : source_plane);
    const scalar_t* const gradient = grad_output + n * target_pixel * target_plane +
                                     group * c.target_channels * (c.channels_last ? 1 : target_plane);
    const auto rows_of_source = static_cast<int64_t>(rows.source.size());
    const int64_t row_pitch = in_place ? W * source_pixel : columns.slots * channels.width,
                  block_pitch = in_place ? 0 : rows_of_source * row_pitch;
    const int64_t gradient_block = gradient_in_place ? block : rows.count * columns.count * block;
    const TileSteps gradient_steps = gradient_in_place ? TileSteps{target_pixel, c.w.target * target_pixel}
                                                       : TileSteps{block, columns.count * block};
    const Scratch<acc_t> packed_source(in_place ? 0 : channels.count * block_pitch),
        packed_gradient(gradient_in_place ? 0 : (k1 - k0) * gradient_block);
    const acc_t *first_row = packed_source.data(), *first_gradient = packed_gradient.data();
    if (!in_place) pack_source(source, c, channels, rows, columns, packed_source.data());
    for (int64_t k = k0; k < k1 && !gradient_in_place; ++k) {
      pack_gradient(
          gradient + k * block * (c.channels_last ? 1 : target_plane), c, c.target_channels - k * block, rows, columns,
          packed_gradient.data() + (k - k0) * gradient_block);
    }
    if constexpr (kSameType) {
      if (in_place) first_row = source;
      if (gradient_in_place)
        first_gradient = gradient + (rows.begin * c.w.target + columns.begin) * target_pixel + k0 * block;
    }
    std::vector<const acc_t*> tap_rows(rows.count);
    for (const TargetPiece& piece : tile.pieces) {
      // Some rows at a time, so that the gradients of a block stay in the first cache for all sources.
      const int64_t bands = std::clamp<int64_t>(rows.count * piece.count / kBandPositions, 1, rows.count);
      for (int64_t band = 0; band < bands; ++band) {
        const int64_t first = band * rows.count / bands, row_count = (band + 1) * rows.count / bands - first;
        const acc_t* const gradient_of_band =
            first_gradient + first * gradient_steps.line + (piece.begin - columns.begin) * gradient_steps.next;
        for (int64_t b = 0; b < channels.count; ++b) {
          for (const AxisTap& r : c.h.phases[0]) {
            for (int64_t i = 0; i < row_count; ++i) {
              const int64_t position = (rows.begin + first + i) * c.h.source_step + r.offset;
              const int64_t row = in_place ? c.h.pixel(position) : rows.slot(position);
              tap_rows[i] = row < 0 ? nullptr : first_row + b * block_pitch + row * row_pitch;
            }
            const int64_t panel = (b * layout.row_taps + r.order) * layout.column_taps * channels.width * block;
            for (const Run& run : piece.runs) {
              const int64_t scalars = ceil_div(run.length, ceil_div(run.length, kMaxScalars));
              for (int64_t k = k0; k < k1; ++k) {
                const int64_t vectors = c.target_channels - k * block <= kLanes<acc_t> ? 1 : 2;
                acc_t* const sums_of = sums + (k - k0) * layout.size + panel + run.weight;
                for (int64_t m = 0; m < run.length; m += scalars) {
                  accumulate_outer_instance<acc_t>(std::min(scalars, run.length - m), vectors)(
                      tap_rows.data(), run.source + m, tile.step, gradient_of_band + (k - k0) * gradient_block,
                      gradient_steps, row_count, piece.count, sums_of + m * block);
                }
              }
            }
          }
        }
      }
    }
  };

  // A single slice is written to the weight by the task that sums it.
  const Scratch<acc_t> panels(slices > 1 ? slices * panel_count * layout.size : 0);
  parallel_for(slices * c.groups * slabs, multiplications(geometry), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slab_index = task % slabs, group = task / slabs % c.groups, slice = task / (slabs * c.groups);
      const int64_t k0 = slab_index * slab, k1 = std::min(k0 + slab, target_blocks);
      const Scratch<acc_t> single(slices > 1 ? 0 : (k1 - k0) * layout.size);
      acc_t* const own =
          slices > 1 ? panels.data() + (slice * panel_count + group * target_blocks + k0) * layout.size : single.data();
      std::fill_n(own, (k1 - k0) * layout.size, acc_t(0));
      std::optional<ColumnTile> columns;
      for (int64_t item = slice * c.N * tiles / slices; item < (slice + 1) * c.N * tiles / slices; ++item) {
        const int64_t i0 = item % tiles / t.column_tiles * t.rows, j0 = item % t.column_tiles * t.columns;
        const TileRows rows(c.h, i0, std::min(t.rows, c.h.positions() - i0));
        if (!columns.has_value() || columns->columns.begin != j0) columns.emplace(column_tile(j0));
        add_tile(item / tiles, group, rows, *columns, k0, k1, own);
      }
      for (int64_t k = k0; k < k1 && slices == 1; ++k) {
        unpack_weight(own + (k - k0) * layout.size, c, layout, k * block, weight + group * c.weight_group);
      }
    }
  });

  if (slices > 1) unpack_slices(panels.data(), slices, c, layout, weight);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
