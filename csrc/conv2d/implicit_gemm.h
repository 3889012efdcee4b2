// Blocked implicit GEMM: convolution as a matrix product whose left matrix is never written out.
//
// A task takes one image, one group and one tile of rows small enough to stay in the L2 cache, packs it once, and for
// each block of kBlock target channels multiplies it by that block's weight panel in tiles of registers
// (micro_kernels.h). FLOPs: 2 N K P Q C R S. A step of 28 FMAs, 14 cycles, loads 14 scalars and 2 vectors of weights,
// so the FMA units bind while these are in the first cache.
//
// grad_weight runs the same packing with the roles turned: the packed image is the left matrix, the packed gradient
// of the output the right one, and the accumulators are the weight panel.
#pragma once

#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

// The sum over channels and taps goes through the first cache some blocks of channels at a time, if the weights of one
// fit: they stay there while so many pixels of targets, whose sums do, too, go by.
constexpr int64_t kWeightBytes = 20 << 10, kPixelsTogether = 128, kPanelBytes = 256 << 10;

// Writes one row of targets: buffer holds [column][kBlock] for `columns` columns, of which `targets` channels count.
template <typename scalar_t>
void write_row(
    const Compute<scalar_t>* buffer, int64_t columns, int64_t targets, bool channels_last, int64_t pixel, int64_t plane,
    scalar_t* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  for (int64_t half = 0; half < targets; half += lanes) {
    const int64_t channels = std::min<int64_t>(lanes, targets - half);
    if (channels_last) {
      for (int64_t w = 0; w < columns; ++w) {
        store_partial(to + w * pixel + half, load(buffer + w * kBlock<acc_t> + half), channels);
      }
    } else {
      for (int64_t w = 0; w < columns; w += lanes) {
        const int64_t width = std::min<int64_t>(lanes, columns - w);
        transpose_tile(
            buffer + w * kBlock<acc_t> + half, kBlock<acc_t>, width, channels,
            [&](int64_t j, Vector<acc_t> values) { store_partial(to + (half + j) * plane + w, values, width); });
      }
    }
  }
}

template <typename scalar_t>
void correlate(
    const Conv2dProblem& problem, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t block = kBlock<acc_t>;
  Correlation c = make_correlation(problem.geometry, problem.pass == Conv2dPass::grad_input);
  // A channels_last image of which nothing outside is read is as good as packed: its columns are in their own order,
  // its channels one block. Not so where neighbouring pixels would crowd one set of the first cache, or a panel that is
  // gone through for every few pixels is large.
  const int64_t panel_bytes = c.source_channels * c.h.kernel * c.w.kernel * block * int64_t(sizeof(acc_t));
  const bool in_place = std::is_same_v<scalar_t, acc_t> && c.channels_last && c.groups == 1 && c.h.inside() &&
                        c.w.inside() && panel_bytes <= kPanelBytes &&
                        !crowds_cache<acc_t>(c.w.source_step * c.source_channels);
  if (in_place) {
    c.w.by_remainder = false;
    c.w.keep_gaps = true;
  } else {
    keep_column_order(c.w);
  }
  order_taps(c.h);
  order_taps(c.w);
  const ChannelBlocks channels =
      in_place ? ChannelBlocks(c.source_channels, c.source_channels) : ChannelBlocks(c.source_channels);
  const PanelLayout<acc_t> layout(c, channels);
  const int64_t target_blocks = ceil_div(c.target_channels, block);
  const int64_t H = c.h.target, W = c.w.target;
  const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * c.target_channels;

  const Scratch<acc_t> panels(c.groups * target_blocks * layout.pitch);
  pack_panels(weight, c, channels, layout, panels.data());
  const Scratch<acc_t> init(c.groups * target_blocks * block);
  for (int64_t i = 0; i < c.groups * target_blocks * block; ++i) {
    const int64_t group = i / (target_blocks * block), channel = i % (target_blocks * block);
    const bool used = bias != nullptr && channel < c.target_channels;
    init[i] = used ? widen(bias[group * c.target_channels + channel]) : acc_t(0);
  }
  const int64_t slot_bytes = channels.padded() * static_cast<int64_t>(sizeof(acc_t));
  const Tiling t = choose_tiling(c, c.N * c.groups, slot_bytes, kMaxScalars);
  // Several small images share a tile, and with it each panel that comes from memory.
  const int64_t images = t.row_tiles * t.column_tiles > 1 ? 1 : t.images(c, slot_bytes);
  const int64_t image_tiles = ceil_div(c.N, images), tiles = image_tiles * c.groups * t.row_tiles * t.column_tiles;
  // Few tiles: let several tasks pack the same tile and share out its target blocks.
  const int64_t shares = std::clamp<int64_t>(ceil_div(2 * thread_count(), tiles), 1, target_blocks);
  parallel_for(tiles * shares, multiplications(problem.geometry), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, tile = task / shares;
      const int64_t column_tile = tile % t.column_tiles, row_tile = tile / t.column_tiles % t.row_tiles;
      const int64_t group = tile / (t.column_tiles * t.row_tiles) % c.groups,
                    image_tile = tile / (t.column_tiles * t.row_tiles * c.groups);
      const int64_t n0 = image_tile * c.N / image_tiles, n1 = (image_tile + 1) * c.N / image_tiles;
      const int64_t i0 = row_tile * t.rows, j0 = column_tile * t.columns;
      const TileRows rows(c.h, i0, std::min(t.rows, c.h.positions() - i0));
      const TileColumns columns(c.w, j0, std::min(t.columns, c.w.positions() - j0));
      const int64_t source_plane = c.h.source * c.w.source;
      const int64_t row_pitch = (in_place ? c.w.source : columns.slots) * channels.width,
                    block_pitch = static_cast<int64_t>(rows.source.size()) * row_pitch,
                    image_pitch = in_place ? source_pixel * source_plane : channels.count * block_pitch;
      const int64_t slot_step = columns.step * channels.width;
      const Scratch<acc_t> copy(in_place ? 0 : (n1 - n0) * image_pitch);
      const acc_t* packed = copy.data();
      const scalar_t* image =
          source + n0 * source_pixel * source_plane + group * c.source_channels * (c.channels_last ? 1 : source_plane);
      if constexpr (std::is_same_v<scalar_t, acc_t>) {
        if (in_place) packed = image + columns.source_begin * source_pixel;
      }
      for (int64_t n = 0; n < n1 - n0 && !in_place; ++n) {
        pack_source(image + n * source_pixel * source_plane, c, channels, rows, columns, copy.data() + n * image_pitch);
      }

      // Rows of targets of one row phase; their runs, by column phase, serve every image and target block.
      struct TargetRow {
        int64_t row;
        std::vector<std::vector<Run>> runs;
      };
      const auto rows_of = [&](size_t row_phase) {
        std::vector<TargetRow> result;
        for (int64_t i = i0; i < i0 + rows.count; ++i) {
          const int64_t row = i * c.h.target_step + static_cast<int64_t>(row_phase);
          if (row >= H) break;
          result.push_back({row, {}});
          for (const auto& column_runs : columns.runs) {
            std::vector<Run> runs;
            for (int64_t b = 0; b < channels.count; ++b) {
              for (const AxisTap& r : c.h.phases[row_phase]) {
                const int64_t position = i * c.h.source_step + r.offset;
                const int64_t slot = in_place ? position : rows.slot(position);
                if (slot < 0) continue;
                for (const ColumnRun& s : column_runs) {
                  const int64_t tap = (b * layout.row_taps + r.order) * layout.column_taps + s.order;
                  runs.push_back(
                      {b * block_pitch + slot * row_pitch + s.slot * channels.width, tap * channels.width * block,
                       s.taps * channels.width});
                }
              }
            }
            result.back().runs.push_back(std::move(runs));
          }
        }
        return result;
      };

      const int64_t w0 = j0 * c.w.target_step;
      const int64_t width = std::min(W - w0, columns.count * c.w.target_step);
      const int64_t target_plane = H * W, target_image = target_pixel * target_plane;
      const int64_t rows_together = std::max<int64_t>(1, kPixelsTogether / (width * (n1 - n0)));
      const Scratch<acc_t> buffer(rows_together * (n1 - n0) * width * block);  // [row][image][column][target]
      for (size_t row_phase = 0; row_phase < c.h.phases.size(); ++row_phase) {
        const std::vector<TargetRow> target_rows = rows_of(row_phase);
        const int64_t row_count = static_cast<int64_t>(target_rows.size());
        for (int64_t k = share * target_blocks / shares; k < (share + 1) * target_blocks / shares; ++k) {
          const acc_t* panel = panels.data() + (group * target_blocks + k) * layout.pitch;
          const acc_t* start = init.data() + (group * target_blocks + k) * block;
          const int64_t channel = group * c.target_channels + k * block;
          const int64_t targets = std::min(block, c.target_channels - k * block);
          // Full vectors of pixels are written in place, others by way of the buffer.
          const bool direct = std::is_same_v<scalar_t, acc_t> && c.channels_last && targets == block;
          const auto target_row = [&](int64_t i, int64_t n) {
            const int64_t row = target_rows[i].row;
            return target + n * target_image +
                   (c.channels_last ? (row * W + w0) * target_pixel + channel : channel * target_plane + row * W + w0);
          };
          for (int64_t first = 0; first < row_count; first += rows_together) {
            const int64_t last = std::min(first + rows_together, row_count);
            const auto sums_of = [&](int64_t i, int64_t n) {
              return buffer.data() + ((i - first) * (n1 - n0) + n - n0) * width * block;
            };
            for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
              const int64_t pixels = ceil_div(width - static_cast<int64_t>(phase), c.w.target_step);
              if (pixels <= 0) continue;
              const int64_t step = ceil_div(pixels, ceil_div(pixels, kMaxScalars));
              const int64_t lines = std::min<int64_t>(most_lines(static_cast<int>(step)), n1 - n0);
              const int64_t vectors = targets <= kLanes<acc_t> ? 1 : 2;
              const auto whole = multiply_tile_instance<acc_t>(step, vectors, lines);
              const int64_t taps = static_cast<int64_t>(c.h.phases[row_phase].size() * c.w.phases[phase].size());
              const int64_t bytes = std::max<int64_t>(1, taps * channels.width * block * int64_t(sizeof(acc_t)));
              const int64_t blocks_together = bytes > kWeightBytes ? channels.count + 1 : kWeightBytes / bytes;
              for (int64_t b = 0; b == 0 || b < channels.count; b += blocks_together) {  // once even of no channels
                const int64_t b_count = std::min(blocks_together, channels.count - b);
                const bool to_target = direct && b + blocks_together >= channels.count;
                // The next weights come from memory, once a tile, and are asked for while these are used.
                const bool fresh = first == 0 && phase == 0;
                const acc_t* ahead = panel + (b + b_count) * layout.block;
                const int64_t ahead_each = ceil_div(b_count * layout.block, last - first);
                for (int64_t i = first; i < last; ++i) {
                  for (int64_t e = 0; fresh && e < ahead_each; e += 64 / int64_t(sizeof(acc_t)))
                    __builtin_prefetch(ahead + (i - first) * ahead_each + e, 0, 2);
                  const auto& runs = target_rows[i].runs[phase];
                  const int64_t runs_each = static_cast<int64_t>(runs.size()) / std::max<int64_t>(1, channels.count);
                  for (int64_t n = n0; n < n1; n += lines) {
                    acc_t* sums = sums_of(i, n);
                    acc_t* out = sums;
                    if constexpr (std::is_same_v<scalar_t, acc_t>) {
                      if (to_target) out = target_row(i, n);
                    }
                    const int64_t out_pixel = to_target ? target_pixel : block;
                    const TileSteps sum_steps{c.w.target_step * block, width * block};
                    for (int64_t j = 0; j < pixels; j += step) {
                      const int64_t pixel = j * c.w.target_step + static_cast<int64_t>(phase);
                      const bool is_whole = step <= pixels - j && lines <= n1 - n;
                      const auto multiply = is_whole
                                                ? whole
                                                : multiply_tile_instance<acc_t>(
                                                      std::min(step, pixels - j), vectors, std::min(lines, n1 - n));
                      multiply(
                          packed + (n - n0) * image_pitch + j * slot_step, {slot_step, image_pitch},
                          runs.data() + b * runs_each, b_count * runs_each, panel,
                          b == 0 ? start : sums + pixel * block, b == 0 ? TileSteps{0, 0} : sum_steps,
                          out + pixel * out_pixel,
                          to_target ? TileSteps{c.w.target_step * target_pixel, target_image} : sum_steps);
                    }
                  }
                }
              }
            }
            for (int64_t i = first; i < last && !direct; ++i) {
              for (int64_t n = n0; n < n1; ++n) {
                write_row(sums_of(i, n), width, targets, c.channels_last, target_pixel, target_plane, target_row(i, n));
              }
            }
          }
        }
      }
    }
  });
}

// Packs kBlock channels of the output's gradient for a tile of positions as [row][column][kBlock].
template <typename scalar_t>
void pack_gradient(
    const scalar_t* image, const Correlation& c, int64_t targets, const TileRows& rows, const TileColumns& columns,
    Compute<scalar_t>* packed) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t W = c.w.target, plane = c.h.target * W, pixel = c.groups * c.target_channels;
  for (int64_t i = rows.begin; i < rows.begin + rows.count; ++i) {
    for (int64_t half = 0; half < kBlock<acc_t>; half += lanes) {
      const int64_t channels = std::clamp<int64_t>(targets - half, 0, lanes);
      if (c.channels_last || channels == 0) {
        const scalar_t* from = image + (i * W + columns.begin) * pixel + half;
        for (int64_t j = 0; j < columns.count; ++j) {
          store(
              packed + j * kBlock<acc_t> + half,
              channels > 0 ? load_partial(from + j * pixel, channels) : Vector<acc_t>{});
        }
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

// Writes a panel of accumulated gradients back in the weight's own order.
template <typename scalar_t>
void unpack_weight(
    const Compute<scalar_t>* panel, const Correlation& c, const PanelLayout<Compute<scalar_t>>& layout, int64_t target,
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

// The sum over images, rows and columns is cut into slices by the geometry alone and the slices are added in order, so
// the result does not depend on the number of threads.
template <typename scalar_t>
void grad_weight(const Conv2dGeometry& geometry, const scalar_t* input, const scalar_t* grad_output, scalar_t* weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t block = kBlock<acc_t>;
  Correlation c = make_correlation(geometry, false);
  keep_column_order(c.w);
  order_taps(c.h);
  order_taps(c.w);
  const ChannelBlocks channels(c.source_channels);
  const PanelLayout<acc_t> layout(c, channels);
  const int64_t target_blocks = ceil_div(c.target_channels, block), panel_count = c.groups * target_blocks;

  Tiling t{c.h.positions(), c.w.positions(), 1, 1};
  const int64_t slab = std::min<int64_t>(target_blocks, 2),
                slabs = ceil_div(target_blocks, slab);  // blocks that share a packed tile
  const int64_t slot_bytes = (channels.padded() + slab * block) * sizeof(acc_t);
  constexpr int64_t kTasks = 16, kSliceBytes = 32 << 20;
  const auto bytes = [&] { return c.h.sources(t.rows) * c.w.sources(t.columns) * slot_bytes; };
  while (t.rows > 1 && bytes() > kTileBytes) t.rows = ceil_div(t.rows, 2);
  while (t.columns > 64 && bytes() > kTileBytes) t.columns = ceil_div(t.columns, 2);
  while (t.rows > 8 && c.N * ceil_div(c.h.positions(), t.rows) < kTasks) t.rows = ceil_div(t.rows, 2);
  t.row_tiles = ceil_div(c.h.positions(), t.rows);
  t.column_tiles = ceil_div(c.w.positions(), t.columns);
  const int64_t tiles = t.row_tiles * t.column_tiles;
  const int64_t most_slices =
      std::max<int64_t>(1, kSliceBytes / std::max<int64_t>(1, panel_count * layout.size * sizeof(acc_t)));
  const int64_t slices = std::max<int64_t>(1, std::min({ceil_div(kTasks, c.groups * slabs), c.N * tiles, most_slices}));

  const Scratch<acc_t> panels(slices * panel_count * layout.size);
  const int64_t work = multiplications(geometry);
  parallel_for(slices * c.groups * slabs, work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slab_index = task % slabs, group = task / slabs % c.groups, slice = task / (slabs * c.groups);
      const int64_t k0 = slab_index * slab, k1 = std::min(k0 + slab, target_blocks);
      acc_t* own = panels.data() + (slice * panel_count + group * target_blocks) * layout.size;
      std::fill(own + k0 * layout.size, own + k1 * layout.size, acc_t(0));
      const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
      for (int64_t item = slice * c.N * tiles / slices; item < (slice + 1) * c.N * tiles / slices; ++item) {
        const int64_t n = item / tiles, i0 = item % tiles / t.column_tiles * t.rows,
                      j0 = item % t.column_tiles * t.columns;
        const TileRows rows(c.h, i0, std::min(t.rows, c.h.positions() - i0));
        const TileColumns columns(c.w, j0, std::min(t.columns, c.w.positions() - j0));
        const int64_t row_pitch = columns.slots * channels.width,
                      block_pitch = static_cast<int64_t>(rows.source.size()) * row_pitch;
        const int64_t gradient_size = rows.count * columns.count * block;
        const Scratch<acc_t> packed(channels.count * block_pitch), gradient((k1 - k0) * gradient_size);
        pack_source(
            input + (n * c.groups * source_plane + group * (c.channels_last ? 1 : source_plane)) * c.source_channels, c,
            channels, rows, columns, packed.data());
        for (int64_t k = k0; k < k1; ++k) {
          const int64_t channel = group * c.target_channels + k * block;
          pack_gradient(
              grad_output + n * c.groups * c.target_channels * target_plane +
                  channel * (c.channels_last ? 1 : target_plane),
              c, c.target_channels - k * block, rows, columns, gradient.data() + (k - k0) * gradient_size);
        }
        std::vector<const acc_t*> tap_rows(rows.count);
        for (int64_t b = 0; b < channels.count; ++b) {
          for (const AxisTap& r : c.h.phases[0]) {
            for (int64_t i = 0; i < rows.count; ++i) {
              const int64_t slot = rows.slot((i0 + i) * c.h.source_step + r.offset);
              tap_rows[i] = slot < 0 ? nullptr : packed.data() + b * block_pitch + slot * row_pitch;
            }
            for (const ColumnRun& s : columns.runs[0]) {
              const int64_t tap = (b * layout.row_taps + r.order) * layout.column_taps + s.order;
              const int64_t length = s.taps * channels.width, step = ceil_div(length, ceil_div(length, kMaxScalars));
              for (int64_t k = k0; k < k1; ++k) {
                for (int64_t m = 0; m < length; m += step) {
                  const int64_t scalars = std::min(step, length - m);
                  const auto accumulate =
                      c.target_channels - k * block <= kLanes<acc_t>
                          ? select_instance<kMaxScalars>(
                                scalars, []<int N>() { return &accumulate_outer<acc_t, N, 1>; })
                          : select_instance<kMaxScalars>(scalars, []<int N>() { return &accumulate_outer<acc_t, N>; });
                  accumulate(
                      tap_rows.data(), s.slot * channels.width + m, columns.step * channels.width,
                      gradient.data() + (k - k0) * gradient_size, columns.count, rows.count, columns.count,
                      own + k * layout.size + (tap * channels.width + m) * block);
                }
              }
            }
          }
        }
      }
    }
  });

  unpack_slices(panels.data(), slices, c, layout, weight);
}

template <typename scalar_t>
void implicit_gemm(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  run_pass<scalar_t>(
      problem, arguments, [&](auto... operands) { correlate<scalar_t>(problem, operands...); },
      [&](auto... operands) { grad_weight<scalar_t>(problem.geometry, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
