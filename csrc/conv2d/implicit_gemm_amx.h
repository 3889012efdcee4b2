// Implicit GEMM of bfloat16 on AMX tiles (amx_tiles.h): the same convolution as implicit_gemm.h, whose taps and tiles
// of the image it uses, with 16 times the multiplications a cycle, so that packing counts. Left operands are 16
// neighbouring pixels of a row x 32 channels, right ones 32 channels x 16 targets.
//
// A channels_last image whose tiles lie in it as they are needed is read in place. Fewer than 32 channels are packed
// together with the columns of the kernel, so that the depth of a tile is still full: where all columns fit, the tile
// of a row of packed pixels is the windows of its targets, which overlap, else they are copied side by side.
//
// In grad_weight the depth of a tile is 32 pixels of whole rows one after another, so that a row tap is an offset; each
// column tap has a copy of the image of its own.
//
// What fills tiles up along the depth is zero on both sides: an infinity never meets it. Reached on one core of a Xeon
// whose tiles do 3200 GF/s on operands in the L1 cache: 1300 in forward and grad_input of a 3x3 convolution with 64
// channels, whose weights nearly fill that cache; 750 in its grad_weight, half of whose time is packing.
#pragma once

#include <optional>

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

// Channels of a packed pixel where the columns of a kernel that a target reads lie side by side: of an even number of
// values, as tiles have. 0 where they do not lie so, or are more than the depth of a tile.
inline int64_t window_channels(const Correlation& c) {
  const auto& taps = c.w.phases[0];
  const int64_t width = taps.size() % 2 == 0 ? c.source_channels : round_up(c.source_channels, 2);
  bool contiguous = joins_columns(c) && width * static_cast<int64_t>(taps.size()) <= kTileDepth;
  for (size_t i = 1; i < taps.size(); ++i) contiguous &= taps[i].offset == taps[i - 1].offset + 1;
  return contiguous ? width : 0;
}

// Copies slots [width] so that the columns that target j reads lie side by side at to[j * depth], and zeros behind
// them.
inline void join_columns(
    const bfloat16* slots, int64_t width, int64_t step, const std::vector<ColumnRun>& runs, int64_t count,
    int64_t depth, bfloat16* to) {
  for (const ColumnRun& run : runs) {
    const int64_t length = run.taps * width, first = run.order * width;
    const int64_t room = &run == &runs.back() ? depth - first : length;
    for (int64_t j = 0; j < count; ++j) {
      const bfloat16* from = slots + (run.slot + j * step) * width;
      bfloat16* out = to + j * depth + first;
      for (int64_t i = 0; i < room; i += 32) copy_values(out + i, from + i, length - i, room - i);
    }
  }
}

// The left tiles of one tile of the image: pixels packed in blocks of 32 channels, pixels joined with the columns of
// the kernel, or pixels of the image itself.
class LeftTiles {
 public:
  struct ColumnTap {
    int64_t at, panel;  // in the left row and in the panel of a row tap
  };

  // packed_axis is c.w, or for joined columns the same with a step of 1, so that they are packed as they lie in the
  // image.
  LeftTiles(
      const bfloat16* image, const Correlation& c, const CorrelationAxis& packed_axis, const ChannelBlocks& channels,
      int64_t i0, int64_t row_count, int64_t j0, int64_t count)
      : rows_(c.h, i0, row_count), h_(c.h) {
    const bool joined = joins_columns(c);
    const int64_t depth = tile_depth(c), pixel = c.groups * c.source_channels, column_taps = tap_count(c.w);
    taps.resize(c.w.phases.size());
    in_place_ = c.channels_last && !joined && c.source_channels % kTileDepth == 0 && c.w.inside(j0, j0 + count);
    if (in_place_) {
      stride = c.w.source_step * pixel;
      reads_once = column_taps == 1 && tap_count(c.h) == 1;
      row_ = c.w.source * pixel;
      block = kTileDepth;
      blocks = depth / kTileDepth;
      row_panel = column_taps * kPanelValues;
      left_ = image;
      packed_.emplace(kTileRows * stride + depth);
      zeros_ = packed_->data();
      std::fill_n(packed_->data(), kTileRows * stride + depth, bfloat16{0});
      for (size_t phase = 0; phase < taps.size(); ++phase) {
        for (const AxisTap& s : c.w.phases[phase]) {
          taps[phase].push_back({(j0 * c.w.source_step + s.offset) * pixel, s.order * kPanelValues});
        }
      }
      return;
    }
    const int64_t packed_step = joined ? c.w.source_step : 1;
    const TileColumns columns(packed_axis, j0 * packed_step, (count - 1) * packed_step + 1);
    const int64_t packed_rows = static_cast<int64_t>(rows_.source.size()) + 1,
                  packed_row = columns.slots * channels.width;
    packed_.emplace(channels.count * packed_rows * packed_row);
    pack_pixels(image, c, channels, rows_, columns, packed_->data());
    left_ = packed_->data();
    if (window_channels(c) > 0) {
      stride = packed_step * channels.width;
      row_ = packed_row;
      block = 0;
      blocks = 1;
      row_panel = kPanelValues;
      taps[0].push_back({columns.runs[0][0].slot * channels.width, 0});
    } else if (joined) {
      stride = depth;
      row_ = count * depth;
      block = 0;
      blocks = 1;
      row_panel = depth * kTileBlock;
      joined_.emplace(packed_rows * row_);
      for (int64_t r = 0; r < packed_rows; ++r) {
        join_columns(
            packed_->data() + r * packed_row, channels.width, packed_step, columns.runs[0], count, depth,
            joined_->data() + r * row_);
      }
      left_ = joined_->data();
      for (int64_t d = 0; d < depth; d += kTileDepth) taps[0].push_back({d, d * kTileBlock});
    } else {
      stride = kTileDepth;
      row_ = packed_row;
      block = packed_rows * packed_row;
      blocks = depth / kTileDepth;
      row_panel = column_taps * kPanelValues;
      for (size_t phase = 0; phase < taps.size(); ++phase) {
        for (const ColumnRun& run : columns.runs[phase]) {
          for (int64_t i = 0; i < run.taps; ++i) {
            taps[phase].push_back({(run.slot + i) * kTileDepth, (run.order + i) * kPanelValues});
          }
        }
      }
    }
    zeros_ = left_ + (packed_rows - 1) * row_;
  }

  // The row that a position of the source reads, null for a row of zeros.
  const bfloat16* row(int64_t position) const {
    const int64_t row = in_place_ ? h_.pixel(position) : rows_.slot(position);
    return row < 0 ? nullptr : left_ + row * row_;
  }
  const bfloat16* tile(const bfloat16* row, const ColumnTap& tap, int64_t target) const {
    return row == nullptr ? zeros_ : row + tap.at + target * stride;
  }

  int64_t stride, block, blocks;  // from target to target, from channel block to channel block, and their number
  bool reads_once = false;        // targets read pixels of the image that no others do
  int64_t row_panel;              // size of a row tap's panel of one block
  std::vector<std::vector<ColumnTap>> taps;  // by column phase

 private:
  TileRows rows_;
  const CorrelationAxis& h_;
  bool in_place_;
  int64_t row_;
  std::optional<Scratch<bfloat16>> packed_, joined_;
  const bfloat16 *left_, *zeros_;
};

// What to multiply and to write for one tile, the same for every block of targets. Row segments of up to 16 targets are
// multiplied in pairs; a group of pairs is written when it is done: as many as share a part of the weights that stays
// in the L1 cache, or one if this is all of them, or two rows where column phases alternate (segments overlap there in
// the buffer, so that their sums are not cut).
struct TilePlan {
  struct Pair {
    int64_t steps_end, first_out, second_out;  // second_out < 0: none
  };
  struct Stretch {
    int64_t at, row, column, count;  // of the buffer, and of the target
  };
  struct Group {
    int64_t pairs_end, stretches_end;
  };

  // 18 steps have 36 KB of weights; 8 pairs have sums of 32 KB. With all 36 steps of 128 channels under a 3x3 kernel
  // together the tiles do 1300 GF/s, with these 1550 (on random values; zeros draw less power: 1650 and 2200).
  static constexpr int64_t kRangeSteps = 18, kGroupPairs = 8;

  TilePlan(const Correlation& c, const LeftTiles& left, int64_t i0, int64_t row_count, int64_t width, int64_t count)
      : segment(ceil_div(count, ceil_div(count, kTileRows))) {
    const int64_t step = c.w.target_step;
    const bool alternate = step > 1;
    // A phase may have fewer targets than a segment, which then ends behind the row.
    const int64_t buffer_row = (count + segment) * step * kTileBlock;
    constexpr int64_t kPairValues = kTileBlock * kTileBlock;
    const auto most = [](const auto& phases) {
      size_t taps = 0;
      for (const auto& phase : phases) taps = std::max(taps, phase.size());
      return static_cast<int64_t>(taps);
    };
    if (!alternate) ranges = std::max(ranges, ceil_div(left.blocks * most(c.h.phases) * most(left.taps), kRangeSteps));
    const int64_t group_values = (ranges > 1 ? kGroupPairs : 1) * kPairValues;
    buffer_size = alternate ? 2 * buffer_row : group_values;
    const int64_t most_pairs = row_count * static_cast<int64_t>(c.h.phases.size() * c.w.phases.size()) *
                               ceil_div(ceil_div(width, step), segment);
    pairs.reserve(most_pairs);
    steps.reserve(most_pairs * most(c.h.phases) * most(left.taps));
    stretches.reserve(2 * most_pairs);
    groups.reserve(most_pairs);
    for (int64_t row_phase = 0; row_phase < static_cast<int64_t>(c.h.phases.size()); ++row_phase) {
      const auto row_of = [&](int64_t i) { return i * c.h.target_step + row_phase; };
      int64_t i_end = i0;
      while (i_end < i0 + row_count && row_of(i_end) < c.h.target) ++i_end;
      const int64_t group_rows = alternate ? 2 : std::max<int64_t>(i_end - i0, 1);
      for (int64_t i = i0; i < i_end; i += group_rows) {
        const int64_t group_end = std::min(i + group_rows, i_end);
        for (int64_t phase = 0; phase < static_cast<int64_t>(c.w.phases.size()); ++phase) {
          const int64_t targets = ceil_div(width - phase, step);
          const auto place = [&](Pair& pair, const Segment& first, const Segment* second) {
            if (alternate) {
              const auto out = [&](const Segment& s) {
                return (s.i - i) * buffer_row + (s.target * step + phase) * kTileBlock;
              };
              pair.first_out = out(first);
              if (second != nullptr) pair.second_out = out(*second);
              return;
            }
            pair.first_out = (static_cast<int64_t>(pairs.size()) - grouped_pairs()) * kPairValues;
            if (second != nullptr) pair.second_out = pair.first_out + segment * kTileBlock;
            if (second != nullptr && second->i == first.i && second->target == first.target + segment) {
              stretches.push_back({pair.first_out, row_of(first.i), first.target, 2 * segment});
            } else {
              stretches.push_back({pair.first_out, row_of(first.i), first.target, segment});
              if (second != nullptr) {
                stretches.push_back({pair.second_out, row_of(second->i), second->target, segment});
              }
            }
          };
          const auto add = [&](const Segment& first, const Segment* second) {
            add_steps(c, left, c.h.phases[row_phase], left.taps[phase], first, second);
            Pair pair{static_cast<int64_t>(steps.size()), 0, -1};
            place(pair, first, second);
            pairs.push_back(pair);
            if (!alternate && pair.first_out + kPairValues == group_values) close_group();
          };
          std::vector<Segment> odd;  // the last ones of rows
          for (int64_t row = i; row < group_end; ++row) {
            // The last segment starts early rather than being shorter: the targets it repeats come out the same.
            const auto segment_at = [&](int64_t j) {
              return Segment{row, std::max<int64_t>(0, std::min(j, targets - segment))};
            };
            for (int64_t j = 0; j < targets; j += 2 * segment) {
              const Segment first = segment_at(j), second = segment_at(j + segment);
              if (j + segment < targets)
                add(first, &second);
              else
                odd.push_back(first);
            }
          }
          for (size_t k = 0; k < odd.size(); k += 2) add(odd[k], k + 1 < odd.size() ? &odd[k + 1] : nullptr);
        }
        if (!alternate) continue;
        for (int64_t row = i; row < group_end; ++row)
          stretches.push_back({(row - i) * buffer_row, row_of(row), 0, width});
        close_group();
      }
    }
    if (static_cast<int64_t>(pairs.size()) > grouped_pairs()) close_group();
  }

  int64_t segment, buffer_size, ranges = 1;  // ranges: parts of the sum
  std::vector<TileStep> steps;
  std::vector<Pair> pairs;
  std::vector<Stretch> stretches;
  std::vector<Group> groups;

 private:
  struct Segment {
    int64_t i, target;
  };

  int64_t grouped_pairs() const { return groups.empty() ? 0 : groups.back().pairs_end; }
  void close_group() { groups.push_back({static_cast<int64_t>(pairs.size()), static_cast<int64_t>(stretches.size())}); }

  // A row of zeros is left out where it is one for both segments because they are of the same row. Which rows others
  // are paired with depends on the tile and so on the number of threads, and zero times an infinite weight is not zero.
  void add_steps(
      const Correlation& c, const LeftTiles& left, const std::vector<AxisTap>& row_taps,
      const std::vector<LeftTiles::ColumnTap>& taps, const Segment& first, const Segment* second) {
    for (const AxisTap& r : row_taps) {
      const auto row_of = [&](const Segment& s) { return left.row(s.i * c.h.source_step + r.offset); };
      const bfloat16 *first_row = row_of(first), *second_row = second == nullptr ? nullptr : row_of(*second);
      if (first_row == nullptr && second != nullptr && second->i == first.i) continue;
      for (const LeftTiles::ColumnTap& s : taps) {
        steps.push_back(
            {left.tile(first_row, s, first.target),
             second == nullptr ? nullptr : left.tile(second_row, s, second->target),
             r.order * left.row_panel + s.panel});
      }
    }
  }
};

inline void correlate_tiles(
    const Conv2dProblem& problem, const bfloat16* source, const bfloat16* weight, const bfloat16* bias,
    bfloat16* target) {
  constexpr int64_t block = kTileBlock;
  static_assert(block == kBlock<float>);
  const Conv2dGeometry geometry = join_rows(problem.geometry);
  Correlation c = make_correlation(geometry, problem.pass == Conv2dPass::grad_input);
  const bool joined = joins_columns(c);
  CorrelationAxis packed_axis = c.w;
  if (joined) packed_axis.source_step = 1;
  order_taps(c.h);
  order_taps(packed_axis);
  c.w.phases = packed_axis.phases;
  const int64_t depth = tile_depth(c), row_taps = tap_count(c.h);
  const int64_t window = window_channels(c), pixel_channels = window > 0 ? window : c.source_channels;
  const ChannelBlocks channels(c.source_channels, joined ? pixel_channels : kTileDepth);
  PanelLayout<float> layout(c, channels);
  if (joined) {
    layout.size = row_taps * depth * block;
    for (const auto& row_phase : c.h.phases) {
      for (const AxisTap& r : row_phase) {
        for (const AxisTap& s : c.w.phases[0]) {
          layout.of_tap[r.tap * c.w.kernel + s.tap] = (r.order * depth + s.order * pixel_channels) * block;
        }
      }
    }
  }
  const int64_t target_blocks = ceil_div(c.target_channels, block);
  const int64_t W = c.w.target, source_plane = c.h.source * c.w.source, target_plane = c.h.target * W;
  const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * c.target_channels;

  const Scratch<bfloat16> panels(c.groups * target_blocks * layout.size);
  const Scratch<float> init(c.groups * target_blocks * block);
  parallel_for(c.groups * target_blocks, c.groups * target_blocks * layout.size, [&](int64_t begin, int64_t end) {
    const Scratch<float> widened(layout.size);
    std::fill_n(widened.data(), layout.size, 0.0f);  // rows of padding stay so
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / target_blocks, first = i % target_blocks * block;
      pack_weight(
          weight + group * c.weight_group, c, layout, {0, c.source_channels}, {first, first + block}, widened.data());
      pair_rows(widened.data(), layout.size / block, panels.data() + i * layout.size);
      for (int64_t k = 0; k < block; ++k) {
        const bool used = bias != nullptr && first + k < c.target_channels;
        init[i * block + k] = used ? widen(bias[group * c.target_channels + first + k]) : 0.0f;
      }
    }
  });

  const Tiling t = choose_tiling(c, c.N * c.groups, (window > 0 ? window : depth) * sizeof(bfloat16), kTileBlock);
  const int64_t tiles = c.N * c.groups * t.row_tiles * t.column_tiles;
  const int64_t shares = std::clamp<int64_t>(ceil_div(2 * thread_count(), tiles), 1, target_blocks);
  parallel_for(tiles * shares, multiplications(geometry), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, tile = task / shares;
      const int64_t column_tile = tile % t.column_tiles, row_tile = tile / t.column_tiles % t.row_tiles;
      const int64_t group = tile / (t.column_tiles * t.row_tiles) % c.groups,
                    n = tile / (t.column_tiles * t.row_tiles * c.groups);
      const int64_t i0 = row_tile * t.rows, j0 = column_tile * t.columns;
      const int64_t row_count = std::min(t.rows, c.h.positions() - i0),
                    count = std::min(t.columns, c.w.positions() - j0);
      const int64_t w0 = j0 * c.w.target_step, width = std::min(W - w0, count * c.w.target_step);
      const LeftTiles left(
          source + n * source_pixel * source_plane + group * c.source_channels * (c.channels_last ? 1 : source_plane),
          c, packed_axis, channels, i0, row_count, j0, count);
      const TilePlan plan(c, left, i0, row_count, width, count);
      const Scratch<float> buffer(plan.buffer_size);
      const TileRegisters registers(plan.segment, window > 0 ? window * tap_count(c.w) : kTileDepth);
      constexpr decltype(&multiply_tiles<true, true>) multiply[2][2] = {
          {multiply_tiles<false, false>, multiply_tiles<false, true>},
          {multiply_tiles<true, false>, multiply_tiles<true, true>}};
      const int64_t k_begin = share * target_blocks / shares, k_end = (share + 1) * target_blocks / shares;
      // All channels of a pixel are written together where the weights of all fit in the L1 cache, or in the L2 cache
      // if the pixels that a tile reads do not come again.
      const int64_t panel_bytes = left.reads_once ? 512 << 10 : 32 << 10;
      const bool pixels_outside = (k_end - k_begin) * layout.size * int64_t{sizeof(bfloat16)} <= panel_bytes;
      const auto compute = [&](int64_t k, size_t g) {
        const TilePlan::Group none{0, 0}, &before = g == 0 ? none : plan.groups[g - 1], &last = plan.groups[g];
        const int64_t panel = group * target_blocks + k, targets = c.target_channels - k * block;
        // The pixels of the next pair but one are fetched by all blocks of targets that read this one now.
        const int64_t order = k - k_begin, parts = pixels_outside ? k_end - k_begin : 1;
        const bool fetches = left.reads_once && order < parts;
        const int64_t first_ahead = fetches ? order * 2 * plan.segment / parts : 0,
                      ahead_count = fetches ? (order + 1) * 2 * plan.segment / parts - first_ahead : 0;
        const int64_t out_stride = c.w.target_step * block;
        for (int64_t range = 0; range < plan.ranges; ++range) {
          for (int64_t p = before.pairs_end; p < last.pairs_end; ++p) {
            const TilePlan::Pair& pair = plan.pairs[p];
            const int64_t steps_begin = p == 0 ? 0 : plan.pairs[p - 1].steps_end;
            const TileStep* const steps = plan.steps.data() + steps_begin;
            const int64_t count = pair.steps_end - steps_begin, all = count * left.blocks;
            float *const out = buffer.data() + pair.first_out,
                         *second_out = buffer.data() + std::max<int64_t>(pair.second_out, 0);
            const float* const first_init = bias == nullptr ? nullptr : init.data() + panel * block;
            const std::array<const float*, 2> sums = {out, second_out}, biases = {first_init, first_init};
            TilesAhead ahead{nullptr, 0, left.blocks};
            if (fetches && range == 0) {
              ahead.first = steps->first + (4 * plan.segment + first_ahead) * left.stride;
              ahead.pixels = ahead_count;
            }
            multiply[pair.second_out >= 0][targets > kTileRows](
                {steps, count, range * all / plan.ranges, (range + 1) * all / plan.ranges}, left.block, left.stride,
                panels.data() + panel * layout.size, row_taps * left.row_panel, range == 0 ? biases : sums,
                range == 0 ? 0 : out_stride, {out, second_out}, out_stride, ahead);
          }
        }
        const int64_t channel = group * c.target_channels + k * block;
        bfloat16* const to = target + n * target_pixel * target_plane;
        for (int64_t s = before.stretches_end; s < last.stretches_end; ++s) {
          const auto& [at, row, column, length] = plan.stretches[s];
          const int64_t pixel = row * W + w0 + column;
          // Where the next pixels go is fetched, in the order of memory if all their channels follow.
          const bfloat16* ahead = to + (pixel + 2 * plan.segment) * target_pixel +
                                  (pixels_outside ? (k - k_begin) * length * block : channel);
          const int64_t ahead_step = pixels_outside ? block : target_pixel;
          write_targets(
              buffer.data() + at, length, targets, c.channels_last, target_pixel, target_plane, ahead, ahead_step,
              to + (c.channels_last ? pixel * target_pixel + channel : channel * target_plane + pixel));
        }
      };
      if (pixels_outside) {
        for (size_t g = 0; g < plan.groups.size(); ++g) {
          for (int64_t k = k_begin; k < k_end; ++k) compute(k, g);
        }
      } else {
        for (int64_t k = k_begin; k < k_end; ++k) {
          for (size_t g = 0; g < plan.groups.size(); ++g) compute(k, g);
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
  const int64_t plane = c.channels_last ? std::max<int64_t>(read_end - read_begin, 0) : H * W;
  const Scratch<bfloat16> planes(c.channels_last ? channels * plane : 0);
  for (size_t slot = 0; slot < row_of_slot.size(); ++slot) {
    const int64_t h = row_of_slot[slot];
    bfloat16* to_row = packed + static_cast<int64_t>(slot) * columns;
    if (h < 0) {
      for (int64_t e = 0; e < c.w.kernel * slab; ++e) std::fill_n(to_row + e * pitch, columns, bfloat16{0});
      continue;
    }
    const bfloat16* from = image + h * W + read_begin;
    if (c.channels_last && c.w.kernel == 1) {
      // Only the columns that are read, and at once to where they belong.
      const int64_t first = first_column * step + c.w.phases[0][0].offset;
      if (first >= 0 && first + (columns - 1) * step < W) {
        scatter_channels(image + (h * W + first) * pixel, step * pixel, channels, columns, to_row, pitch);
        continue;
      }
    }
    if (c.channels_last) {
      scatter_channels(
          image + (h * W + read_begin) * pixel, pixel, channels, read_end - read_begin, planes.data(), plane);
      from = planes.data();
    }
    for (const AxisTap& s : c.w.phases[0]) {
      const int64_t first = first_column * step + s.offset;  // the column that the first target reads
      bfloat16* to = to_row + s.order * slab * pitch;
      copy_columns(from, plane, channels, first - read_begin, step, read_end - read_begin, columns, to, pitch);
      if (c.w.border == Border::zeros) continue;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t position = first + j * step, column = c.w.pixel(position);
        if (column == position) continue;
        const bfloat16* shown = image + (c.channels_last ? (h * W + column) * pixel : h * W + column);
        for (int64_t i = 0; i < channels; ++i) to[i * pitch + j] = shown[i * (c.channels_last ? 1 : H * W)];
      }
    }
  }
}

// As in implicit_gemm_grad_weight.h, slices of the sum are cut by the geometry alone and added in order. A tile of the
// accumulators is 32 (column tap, channel) x 32 targets of one row tap.
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
  constexpr int64_t kSlab = 256, kSumBytes = 768 << 10, kPackedBytes = 768 << 10, kChunkSteps = 10;
  int64_t slab = std::min(c.source_channels, kSlab), target_slab = std::min(target_blocks, kSlab / block);
  const auto sum_bytes = [&] { return R * round_up(S * slab, block) * target_slab * block * int64_t{sizeof(float)}; };
  while (sum_bytes() > kSumBytes && (slab > block || target_slab > 1)) {
    (slab > target_slab * block ? slab : target_slab) = ceil_div(slab > target_slab * block ? slab : target_slab, 2);
  }
  const int64_t slabs = ceil_div(c.source_channels, slab);
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
  const int64_t slices = std::max<int64_t>(1, std::min({ceil_div(kTasks, owners), batches, pixels / kSlicePixels}));

  const Scratch<float> panels(slices * panel_count * layout.size);
  parallel_for(slices * owners, multiplications(geometry), [&](int64_t begin, int64_t end) {
    const TileRegisters registers(kTileRows);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c0 = task % slabs * slab, channels = std::min(slab, c.source_channels - c0);
      const int64_t k0 = task / slabs % target_slabs * target_slab, k1 = std::min(k0 + target_slab, target_blocks);
      const int64_t group = task / (slabs * target_slabs) % c.groups, slice = task / owners;
      const auto sums_of = [&](int64_t k) {
        return panels.data() + (slice * panel_count + group * target_blocks + k) * layout.size +
               task % slabs * slab_size;
      };
      for (int64_t k = k0; k < k1; ++k) std::fill_n(sums_of(k), slab_size, 0.0f);
      const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
      const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * c.target_channels;
      for (int64_t batch = slice * batches / slices; batch < (slice + 1) * batches / slices; ++batch) {
        const int64_t n0 = batch / tiles * most_images, images = std::min(most_images, c.N - n0);
        const int64_t i0 = batch % tiles / t.column_tiles * t.rows, j0 = batch % t.column_tiles * t.columns;
        const int64_t row_count = std::min(t.rows, c.h.target - i0),
                      column_count = std::min(t.columns, c.w.target - j0);
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
        const Scratch<bfloat16> last(R * std::min(images, kChunkSteps) * 2 * kTileValues);
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
        // The sum over pixels is cut so that left tiles stay in the L1 cache for all targets, and right ones for all
        // row taps: parts of an image, or several small images.
        const int64_t depth_steps = count / kTileDepth, image_steps = ceil_div(count, kTileDepth);
        const int64_t chunk_images = std::clamp<int64_t>(kChunkSteps / image_steps, 1, images);
        const int64_t chunk_steps = ceil_div(image_steps, ceil_div(image_steps, kChunkSteps));
        for (int64_t g0 = 0; g0 < images; g0 += chunk_images) {
          for (int64_t step = 0; step < image_steps; step += chunk_steps) {
            const int64_t steps = std::min(chunk_steps, depth_steps - step);
            const bool ends = rest > 0 && step + chunk_steps >= image_steps;
            const int64_t chunk = std::min(chunk_images, images - g0);
            for (int64_t e = 0; e < rows_of_tap; e += block) {
              const auto left_of = [&](const AxisTap& r) {
                return left.data() + g0 * left_image + e * pitch + slot_of_tap[r.order] * column_count +
                       step * kTileDepth;
              };
              const auto last_of = [&](const AxisTap& r) {
                return last.data() + r.order * chunk_images * 2 * kTileValues;
              };
              if (ends) {
                for (const AxisTap& r : c.h.phases[0]) {
                  for (int64_t i = 0; i < chunk * block; ++i) {
                    copy_values(
                        last_of(r) + i * kTileDepth,
                        left_of(r) + i / block * left_image + i % block * pitch + steps * kTileDepth, rest, kTileDepth);
                  }
                }
              }
              for (int64_t k = k0; k < k1; ++k) {
                const bfloat16* panel = gradient.data() + ((k - k0) * images + g0) * panel_image + step * kPanelValues;
                for (const AxisTap& r : c.h.phases[0]) {
                  accumulate_tiles(
                      {chunk, steps, ends ? last_of(r) : nullptr}, left_of(r), pitch, left_image, panel, panel_image,
                      sums_of(k) + (r.order * rows_of_tap + e) * block);
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

inline void implicit_gemm_amx(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  run_pass<bfloat16>(
      problem, arguments, [&](auto... operands) { correlate_tiles(problem, operands...); },
      [&](auto... operands) { grad_weight_tiles(problem.geometry, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
