// Implicit GEMM of bfloat16 on AMX tiles (amx_tiles.h): the same convolution as implicit_gemm.h, whose taps and tiles of
// the image it uses, with 16 times the multiplications a cycle, so that packing counts. Left operands are 16
// neighbouring pixels of a row x 32 channels, right ones 32 channels x 16 targets.
//
// A channels_last image whose tiles lie in it as they are needed is read in place. Fewer than 32 channels are packed
// together with the columns of the kernel, so that the depth of a tile is still full.
#pragma once

#include "amx_packing.h"
#include "implicit_gemm.h"

namespace convops {
namespace CONVOPS_ISA {

// A convolution of single pixels does not know where rows end.
inline Conv2dGeometry join_rows(Conv2dGeometry g) {
  const auto pointwise = [](const Axis& a) {
    return a.kernel == 1 && a.stride == 1 && a.pad_lower == 0 && a.pad_upper == 0;
  };
  if (pointwise(g.h) && pointwise(g.w)) {
    g.w.input = g.w.output = g.h.input * g.w.input;
    g.h.input = g.h.output = 1;
  }
  return g;
}

// Source channels are joined by columns of the kernel where they alone would leave much of a tile empty, if all targets
// read the same columns.
inline bool joins_columns(const Correlation& c) {
  return c.source_channels < kTileDepth && c.w.phases.size() == 1 && c.w.kernel > 1;
}

// Channels of the sum in whole tiles: what a panel has for each row tap and, unless joined, column tap.
inline int64_t tile_depth(const Correlation& c) {
  return round_up(c.source_channels * (joins_columns(c) ? c.w.kernel : 1), kTileDepth);
}

// Copies neighbouring slots [width] so that the column taps of target j lie in a row at to[j * depth].
inline void join_columns(
    const bfloat16* slots, int64_t width, const std::vector<ColumnRun>& runs, int64_t count, int64_t depth, bfloat16* to) {
  for (const ColumnRun& run : runs) {
    const int64_t length = run.taps * width;
    for (int64_t j = 0; j < count; ++j) {
      const bfloat16* from = slots + (run.slot + j) * width;
      bfloat16* out = to + j * depth + run.order * width;
      for (int64_t i = 0; i < length; i += 32) copy_values(out + i, from + i, length - i, length - i);
    }
  }
}

inline void correlate_tiles(
    const Conv2dProblem& problem, const bfloat16* source, const bfloat16* weight, const bfloat16* bias,
    bfloat16* target) {
  constexpr int64_t block = kTileBlock;
  static_assert(block == kBlock<float>);
  const Conv2dGeometry geometry = join_rows(problem.geometry);
  Correlation c = make_correlation(geometry, problem.pass == Conv2dPass::grad_input);
  order_taps(c.h);
  order_taps(c.w);
  const bool joined = joins_columns(c);
  const int64_t depth = tile_depth(c), depth_blocks = depth / kTileDepth;
  const int64_t row_taps = tap_count(c.h), column_taps = tap_count(c.w);
  const ChannelBlocks channels(c.source_channels, joined ? std::max<int64_t>(c.source_channels, 1) : kTileDepth);
  PanelLayout<float> layout(c, channels);
  if (joined) {
    layout.size = row_taps * depth * block;
    for (const auto& row_phase : c.h.phases) {
      for (const AxisTap& r : row_phase) {
        for (const AxisTap& s : c.w.phases[0]) {
          layout.of_tap[r.tap * c.w.kernel + s.tap] = (r.order * depth + s.order * c.source_channels) * block;
        }
      }
    }
  }
  const int64_t target_blocks = ceil_div(c.target_channels, block);
  const int64_t H = c.h.target, W = c.w.target, source_plane = c.h.source * c.w.source;
  const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * c.target_channels;

  const Scratch<bfloat16> panels(c.groups * target_blocks * layout.size);
  const Scratch<float> init(c.groups * target_blocks * block);
  parallel_for(c.groups * target_blocks, c.groups * target_blocks * layout.size, [&](int64_t begin, int64_t end) {
    const Scratch<float> widened(layout.size);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / target_blocks, first = i % target_blocks * block;
      if (i == begin) std::fill_n(widened.data(), layout.size, 0.0f);  // rows of padding stay
      pack_weight(weight + group * c.weight_group, c, layout, first, widened.data());
      pair_rows(widened.data(), layout.size / block, panels.data() + i * layout.size);
      for (int64_t k = 0; k < block; ++k) {
        const bool used = bias != nullptr && first + k < c.target_channels;
        init[i * block + k] = used ? widen(bias[group * c.target_channels + first + k]) : 0.0f;
      }
    }
  });

  const Tiling t = choose_tiling(c, depth * sizeof(bfloat16));
  const int64_t tiles = c.N * c.groups * t.row_tiles * t.column_tiles, work = multiplications(geometry);
  const int64_t shares = std::clamp<int64_t>(ceil_div(2 * thread_count(), tiles), 1, target_blocks);
  // Of equal parts of a row: 16, or fewer where that spares a part.
  const auto part_of = [](int64_t count) { return ceil_div(count, ceil_div(count, kTileRows)); };
  parallel_for(tiles * shares, work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, tile = task / shares;
      const int64_t column_tile = tile % t.column_tiles, row_tile = tile / t.column_tiles % t.row_tiles;
      const int64_t group = tile / (t.column_tiles * t.row_tiles) % c.groups,
                    n = tile / (t.column_tiles * t.row_tiles * c.groups);
      const int64_t i0 = row_tile * t.rows, j0 = column_tile * t.columns;
      const TileRows rows(c.h, i0, std::min(t.rows, c.h.positions() - i0));
      const TileColumns columns(c.w, j0, std::min(t.columns, c.w.positions() - j0));
      const bfloat16* image =
          source + n * source_pixel * source_plane + group * c.source_channels * (c.channels_last ? 1 : source_plane);

      // Where left tiles are: of a row, of a column tap at the first target, from target to target and from block to
      // block.
      const int64_t part = part_of(columns.count);
      const bool in_place =
          c.channels_last && !joined && c.source_channels % kTileDepth == 0 && columns.outside.empty();
      const int64_t packed_rows = static_cast<int64_t>(rows.source.size()) + 1;
      const int64_t packed_row = columns.slots * channels.width, joined_row = columns.count * depth;
      const int64_t left_stride = in_place ? c.w.source_step * source_pixel : joined ? depth : kTileDepth;
      const int64_t left_row = in_place ? c.w.source * source_pixel : joined ? joined_row : packed_row;
      const int64_t left_block = in_place || joined ? kTileDepth : packed_rows * packed_row;
      const Scratch<bfloat16> packed(in_place ? part * left_stride + depth : channels.count * packed_rows * packed_row);
      const Scratch<bfloat16> joined_packed(joined ? packed_rows * joined_row : 0);
      const bfloat16 *left = image, *zeros = packed.data();
      if (in_place) {
        std::fill_n(packed.data(), part * left_stride + depth, bfloat16{0});
      } else {
        pack_pixels(image, c, channels, rows, columns, packed.data());
        left = packed.data();
        zeros = left + (packed_rows - 1) * packed_row;
      }
      if (joined) {
        std::fill_n(joined_packed.data(), packed_rows * joined_row, bfloat16{0});
        for (int64_t r = 0; r + 1 < packed_rows; ++r) {
          join_columns(
              left + r * packed_row, channels.width, columns.runs[0], columns.count, depth,
              joined_packed.data() + r * joined_row);
        }
        left = joined_packed.data();
        zeros = left + (packed_rows - 1) * joined_row;
      }
      struct ColumnTap {
        int64_t at, panel;
      };
      std::vector<std::vector<ColumnTap>> column_taps_of;  // by phase
      for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
        std::vector<ColumnTap> taps;
        if (joined) {
          for (int64_t b = 0; b < depth_blocks; ++b) taps.push_back({b * kTileDepth, b * kPanelValues});
        } else if (in_place) {
          for (const AxisTap& s : c.w.phases[phase]) {
            taps.push_back({(j0 * c.w.source_step + s.offset) * source_pixel, s.order * kPanelValues});
          }
        } else {
          for (const ColumnRun& run : columns.runs[phase]) {
            for (int64_t i = 0; i < run.taps; ++i) {
              taps.push_back({(run.slot + i) * kTileDepth, (run.order + i) * kPanelValues});
            }
          }
        }
        column_taps_of.push_back(std::move(taps));
      }
      const int64_t row_panel = (joined ? depth_blocks : column_taps) * kPanelValues;
      const int64_t blocks = joined ? 1 : depth_blocks;

      // Rows of targets are written one at a time, or two where a row has an odd number of parts.
      const int64_t w0 = j0 * c.w.target_step;
      const int64_t width = std::min(W - w0, columns.count * c.w.target_step);
      const int64_t most_parts = ceil_div(columns.count, part), group_rows = most_parts % 2 == 0 ? 1 : 2;
      // Parts of a phase with fewer targets than a part end behind the row.
      const int64_t buffer_row = (columns.count + part) * c.w.target_step * block;
      const Scratch<float> buffer(group_rows * buffer_row);
      struct Part {
        int64_t row, phase, first;
      };
      struct Pair {
        int64_t begin, end, first_out, second_out;  // second_out < 0: none
      };
      struct RowGroup {
        int64_t begin, end;  // of pairs
        std::vector<int64_t> rows;
      };
      std::vector<TileStep> steps;
      std::vector<Pair> pairs;
      std::vector<RowGroup> row_groups;
      for (size_t row_phase = 0; row_phase < c.h.phases.size(); ++row_phase) {
        const auto& row_taps_of = c.h.phases[row_phase];
        const auto row_of = [&](int64_t i) { return i * c.h.target_step + static_cast<int64_t>(row_phase); };
        for (int64_t i = i0; i < i0 + rows.count && row_of(i) < H; i += group_rows) {
          RowGroup row_group{static_cast<int64_t>(pairs.size()), 0, {}};
          for (int64_t g = 0; g < group_rows && i + g < i0 + rows.count && row_of(i + g) < H; ++g) {
            row_group.rows.push_back(row_of(i + g));
          }
          for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
            const int64_t targets = ceil_div(width - static_cast<int64_t>(phase), c.w.target_step);
            std::vector<Part> parts;
            for (size_t g = 0; g < row_group.rows.size(); ++g) {
              // The last part starts early rather than being shorter: the targets it repeats come out the same.
              for (int64_t j = 0; j < targets; j += part) {
                parts.push_back({static_cast<int64_t>(g), static_cast<int64_t>(phase),
                                 std::max<int64_t>(0, std::min(j, targets - part))});
              }
            }
            for (size_t p = 0; p < parts.size(); p += 2) {
              const bool both = p + 1 < parts.size();
              const Part &first = parts[p], &second = parts[both ? p + 1 : p];
              const auto out = [&](const Part& q) {
                return q.row * buffer_row + (q.first * c.w.target_step + q.phase) * block;
              };
              Pair pair{static_cast<int64_t>(steps.size()), 0, out(first), both ? out(second) : -1};
              for (const AxisTap& r : row_taps_of) {
                const auto slot_of = [&](const Part& q) {
                  const int64_t position = (i + q.row) * c.h.source_step + r.offset;
                  return in_place ? c.h.pixel(position) : rows.slot(position);
                };
                const int64_t slots[2] = {slot_of(first), slot_of(second)};
                if (slots[0] < 0 && slots[1] < 0) continue;
                for (const ColumnTap& s : column_taps_of[phase]) {
                  const auto tile_at = [&](const Part& q, int64_t slot) {
                    return slot < 0 ? zeros : left + slot * left_row + s.at + q.first * left_stride;
                  };
                  steps.push_back(
                      {tile_at(first, slots[0]), tile_at(second, slots[1]), r.order * row_panel + s.panel});
                }
              }
              pair.end = static_cast<int64_t>(steps.size());
              pairs.push_back(pair);
            }
          }
          row_group.end = static_cast<int64_t>(pairs.size());
          row_groups.push_back(std::move(row_group));
        }
      }

      const TileRegisters registers(part);
      for (int64_t k = share * target_blocks / shares; k < (share + 1) * target_blocks / shares; ++k) {
        const bfloat16* panel = panels.data() + (group * target_blocks + k) * layout.size;
        const float* bias_values = init.data() + (group * target_blocks + k) * block;
        const int64_t channel = group * c.target_channels + k * block;
        for (const RowGroup& row_group : row_groups) {
          for (int64_t p = row_group.begin; p < row_group.end; ++p) {
            const Pair& pair = pairs[p];
            (pair.second_out < 0 ? multiply_tiles<false> : multiply_tiles<true>)(
                steps.data() + pair.begin, pair.end - pair.begin, blocks, left_block, left_stride, panel,
                row_taps * row_panel, bias_values, buffer.data() + pair.first_out, buffer.data() + pair.second_out,
                c.w.target_step * block);
          }
          for (size_t g = 0; g < row_group.rows.size(); ++g) {
            const int64_t row = row_group.rows[g];
            bfloat16* to =
                target + n * target_pixel * H * W +
                (c.channels_last ? (row * W + w0) * target_pixel + channel : channel * H * W + row * W + w0);
            write_row(
                buffer.data() + static_cast<int64_t>(g) * buffer_row, width,
                std::min(block, c.target_channels - k * block), c.channels_last, target_pixel, H * W, to);
          }
        }
      }
    }
  });
}

// Packs rows of the image as [column tap][channel of `slab`][row slot][target column]: left operands whose depth is
// pixels, where each row tap starts at another slot. row_of_slot is -1 for a row of zeros.
inline void pack_planes(
    const bfloat16* image, const Correlation& c, int64_t slab, int64_t channels,
    const std::vector<int64_t>& row_of_slot, int64_t first_column, int64_t columns, int64_t pitch, bfloat16* packed) {
  const int64_t H = c.h.source, W = c.w.source, pixel = c.groups * c.source_channels, step = c.w.source_step;
  int64_t read_begin = W, read_end = 0;
  for (const AxisTap& s : c.w.phases[0]) {
    read_begin = std::clamp<int64_t>(first_column * step + s.offset, 0, read_begin);
    read_end = std::clamp<int64_t>((first_column + columns - 1) * step + s.offset + 1, read_end, W);
  }
  // A row of a channels_last image is brought into planes first.
  const int64_t plane = c.channels_last ? round_up(std::max<int64_t>(read_end - read_begin, 0), 16) : H * W;
  const Scratch<bfloat16> planes(c.channels_last ? round_up(channels, 2) * plane : 0);
  for (size_t slot = 0; slot < row_of_slot.size(); ++slot) {
    const int64_t h = row_of_slot[slot];
    bfloat16* to_row = packed + static_cast<int64_t>(slot) * columns;
    if (h < 0) {
      for (int64_t e = 0; e < c.w.kernel * slab; ++e) std::fill_n(to_row + e * pitch, columns, bfloat16{0});
      continue;
    }
    const bfloat16* from = image + h * W + read_begin;
    if (c.channels_last) {
      scatter_channels(image + (h * W + read_begin) * pixel, pixel, channels, read_end - read_begin, planes.data(), plane);
      from = planes.data();
    }
    for (const AxisTap& s : c.w.phases[0]) {
      const int64_t first = first_column * step + s.offset;  // the column that the first target reads
      const int64_t begin = std::clamp<int64_t>(ceil_div(-first, step), 0, columns);
      const int64_t end = std::clamp<int64_t>(ceil_div(W - first, step), begin, columns);
      for (int64_t i = 0; i < channels; ++i) {
        bfloat16* to = to_row + (s.order * slab + i) * pitch;
        const auto show_border = [&](int64_t j) {
          const int64_t column = c.w.pixel(first + j * step);
          to[j] = column < 0 ? bfloat16{0} : image[c.channels_last ? (h * W + column) * pixel + i : (i * H + h) * W + column];
        };
        for (int64_t j = 0; j < begin; ++j) show_border(j);
        copy_every(to + begin, from + i * plane + first + begin * step - read_begin, step, end - begin);
        for (int64_t j = end; j < columns; ++j) show_border(j);
      }
    }
  }
}

// As in implicit_gemm.h, slices of the sum are cut by the geometry alone and added in order. A tile of the accumulators
// is 32 (column tap, channel) x 32 targets of one row tap.
inline void grad_weight_tiles(
    const Conv2dGeometry& problem_geometry, const bfloat16* input, const bfloat16* grad_output, bfloat16* weight) {
  constexpr int64_t block = kTileBlock;
  const Conv2dGeometry geometry = join_rows(problem_geometry);
  Correlation c = make_correlation(geometry, false);
  order_taps(c.h);
  order_taps(c.w);
  const int64_t R = c.h.kernel, S = c.w.kernel;
  const int64_t target_blocks = ceil_div(c.target_channels, block);

  // A task owns a slab of channels x a slab of targets, whose sums stay in the L2 cache.
  constexpr int64_t kSlab = 128, kSumBytes = 768 << 10, kPackedBytes = 768 << 10;
  int64_t slabs = ceil_div(c.source_channels, kSlab), slab = ceil_div(c.source_channels, slabs);
  int64_t target_slab = std::min(target_blocks, kSlab / block);
  const auto sum_bytes = [&] { return R * round_up(S * slab, block) * target_slab * block * 4; };
  while (target_slab > 1 && sum_bytes() > kSumBytes) target_slab = ceil_div(target_slab, 2);
  while (slab > block && sum_bytes() > kSumBytes) slab = ceil_div(slab, 2);
  slabs = ceil_div(c.source_channels, slab);
  const int64_t target_slabs = ceil_div(target_blocks, target_slab);
  const int64_t rows_of_tap = round_up(S * slab, block), slab_size = R * rows_of_tap * block;
  PanelLayout<float> layout(c, ChannelBlocks(c.source_channels, slab));
  layout.size = slabs * slab_size;
  for (int64_t i = 0; i < c.source_channels; ++i) {
    layout.of_channel[i] = i / slab * slab_size + i % slab * block;
  }
  for (const AxisTap& r : c.h.phases[0]) {
    for (const AxisTap& s : c.w.phases[0]) {
      layout.of_tap[r.tap * S + s.tap] = (r.order * rows_of_tap + s.order * slab) * block;
    }
  }

  // A tile is whole rows of targets, or part of one; small images are packed several at a time.
  Tiling t{c.h.positions(), c.w.positions(), 1, 1};
  const auto bytes = [&] {
    return (c.h.sources(t.rows) * rows_of_tap + t.rows * target_slab * block) * t.columns * int64_t{sizeof(bfloat16)};
  };
  while (t.rows > 1 && bytes() > kPackedBytes) t.rows = ceil_div(t.rows, 2);
  while (t.columns > 8 * kTileDepth && bytes() > kPackedBytes) t.columns = round_up(ceil_div(t.columns, 2), kTileDepth);
  t.row_tiles = ceil_div(c.h.positions(), t.rows);
  t.column_tiles = ceil_div(c.w.positions(), t.columns);
  const int64_t tiles = t.row_tiles * t.column_tiles;
  const int64_t most_images = tiles > 1 ? 1 : std::clamp<int64_t>(kPackedBytes / bytes(), 1, std::max<int64_t>(c.N, 1));
  const int64_t batches = ceil_div(c.N, most_images) * tiles;
  // Clearing, adding and writing sums takes as long as multiplying some hundred pixels.
  constexpr int64_t kTasks = 16, kSlicePixels = 2048;
  const int64_t panel_count = c.groups * target_blocks, owners = c.groups * slabs * target_slabs;
  const int64_t pixels = c.N * c.h.target * c.w.target;
  const int64_t slices =
      std::max<int64_t>(1, std::min({ceil_div(kTasks, owners), batches, pixels / kSlicePixels}));

  const Scratch<float> panels(slices * panel_count * layout.size);
  parallel_for(slices * owners, multiplications(geometry), [&](int64_t begin, int64_t end) {
    const TileRegisters registers(kTileRows);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c0 = task % slabs * slab, channels = std::min(slab, c.source_channels - c0);
      const int64_t k0 = task / slabs % target_slabs * target_slab, k1 = std::min(k0 + target_slab, target_blocks);
      const int64_t group = task / (slabs * target_slabs) % c.groups, slice = task / owners;
      const auto sums_of = [&](int64_t k) {
        return panels.data() + (slice * panel_count + group * target_blocks + k) * layout.size + task % slabs * slab_size;
      };
      for (int64_t k = k0; k < k1; ++k) std::fill_n(sums_of(k), slab_size, 0.0f);
      const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
      const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * c.target_channels;
      for (int64_t batch = slice * batches / slices; batch < (slice + 1) * batches / slices; ++batch) {
        const int64_t n0 = batch / tiles * most_images, images = std::min(most_images, c.N - n0);
        const int64_t i0 = batch % tiles / t.column_tiles * t.rows, j0 = batch % t.column_tiles * t.columns;
        const int64_t row_count = std::min(t.rows, c.h.target - i0), column_count = std::min(t.columns, c.w.target - j0);
        // Rows are slots, too: neighbouring target rows read neighbouring slots whatever the stride.
        const TileColumns slots(c.h, i0, row_count);
        std::vector<int64_t> row_of_slot(slots.slots, -1), slot_of_tap(R);
        for (size_t i = 0; i < slots.slot_of_source.size(); ++i) {
          if (slots.slot_of_source[i] >= 0) {
            row_of_slot[slots.slot_of_source[i]] = slots.source_begin + static_cast<int64_t>(i);
          }
        }
        for (const auto& [slot, row] : slots.outside) row_of_slot[slot] = row;
        for (const ColumnRun& run : slots.runs[0]) {
          for (int64_t i = 0; i < run.taps; ++i) slot_of_tap[run.order + i] = run.slot + i;
        }

        // Rows of an odd number of cache lines spread over the cache's sets.
        const int64_t pitch = (ceil_div(slots.slots * column_count, kTileDepth) | 1) * kTileDepth;
        const int64_t left_image = rows_of_tap * pitch;
        const int64_t count = row_count * column_count, rest = count % kTileDepth;
        const int64_t panel_image = ceil_div(count, kTileDepth) * kPanelValues;
        const Scratch<bfloat16> left(images * left_image), gradient((k1 - k0) * images * panel_image);
        const Scratch<bfloat16> last(images * 2 * kTileValues);
        for (int64_t g = 0; g < images; ++g) {
          const int64_t channel = group * c.source_channels + c0;
          pack_planes(
              input + (n0 + g) * source_pixel * source_plane + channel * (c.channels_last ? 1 : source_plane), c, slab,
              channels, row_of_slot, j0, column_count, pitch, left.data() + g * left_image);
          for (int64_t k = k0; k < k1; ++k) {
            const int64_t target = group * c.target_channels + k * block, pixel = i0 * c.w.target + j0;
            pack_depth(
                grad_output + (n0 + g) * target_pixel * target_plane +
                    (c.channels_last ? pixel * target_pixel + target : target * target_plane + pixel),
                c.channels_last, target_pixel, target_plane, c.target_channels - k * block, count,
                gradient.data() + ((k - k0) * images + g) * panel_image);
          }
        }
        const TileDepth depth{images, count / kTileDepth, rest > 0 ? last.data() : nullptr};
        for (int64_t e = 0; e < rows_of_tap; e += block) {
          for (const AxisTap& r : c.h.phases[0]) {
            const bfloat16* from = left.data() + e * pitch + slot_of_tap[r.order] * column_count;
            for (int64_t g = 0; g < (rest > 0 ? images : 0); ++g) {
              for (int64_t i = 0; i < block; ++i) {
                copy_values(
                    last.data() + (g * block + i) * kTileDepth,
                    from + g * left_image + i * pitch + depth.steps * kTileDepth, rest, kTileDepth);
              }
            }
            for (int64_t k = k0; k < k1; ++k) {
              accumulate_tiles(
                  depth, from, pitch, left_image, gradient.data() + (k - k0) * images * panel_image, panel_image,
                  sums_of(k) + (r.order * rows_of_tap + e) * block);
            }
          }
        }
      }
    }
  });

  parallel_for(panel_count, slices * panel_count * layout.size, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* sum = panels.data() + i * layout.size;
      for (int64_t slice = 1; slice < slices; ++slice) {
        const float* part = sum + slice * panel_count * layout.size;
        for (int64_t e = 0; e < layout.size; ++e) sum[e] += part[e];
      }
      unpack_weight(sum, c, layout, i % target_blocks * block, weight + i / target_blocks * c.weight_group);
    }
  });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
