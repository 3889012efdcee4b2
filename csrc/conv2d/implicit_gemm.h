// Blocked implicit GEMM: convolution as a matrix product whose left matrix is never written out.
//
// A task takes one group of one image, or of several small ones, and a tile of rows small enough to stay in the L2
// cache, packs it once or reads it where it lies, and for each block of kBlock target channels multiplies it by that
// block's weight panel in tiles of registers (micro_kernels.h). Targets at a border, which read through fewer taps than
// others, get tiles of their own, so that no zero of the padding is read or multiplied. FLOPs: 2 N K P Q C R S. A step
// of 28 FMAs, 14 cycles, loads 14 scalars and 2 vectors of weights, so the FMA units bind: 208 GF/s of a 3.3 GHz core
// with everything in the first cache, 160 to 195 in a convolution, whose weights come from the second.
//
// grad_weight runs the same with the roles turned: the image is the left matrix, the gradient of the output the right
// one, and the accumulators are the weight panel. Each is packed or read where it lies.
#pragma once

#include <optional>

#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

// The sum over channels and taps goes through the first cache some blocks of channels at a time, if the weights of one
// fit: they stay there while so many pixels of targets go by.
constexpr int64_t kWeightBytes = 20 << 10, kPixelsTogether = 512;
// In place, where blocks of channels only cut runs, they are as wide as makes sums of at most so many products:
// rounding grows with the longest sum that a register keeps (6e-7 in relative norm, where sums of thousands err
// by 1.4e-6).
constexpr int64_t kProductsTogether = 1500;

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

// How a correlation reads its source. Cut: the columns of zeros outside an image are left out, not multiplied. In
// place: a channels_last image of which nothing else outside is read is as good as packed.
struct Reading {
  bool cut, in_place;
};

// About how long the tiles of a correlation take, in cycles for each channel and vectors of targets: an FMA takes 4, of
// which registers hold many for wide tiles.
inline double tile_cycles(const Correlation& c, int64_t images, bool cut) {
  const auto stretches = [](const CorrelationAxis& axis, size_t phase, bool cut) {
    return cut_targets(axis, phase, 0, ceil_div(axis.target - static_cast<int64_t>(phase), axis.target_step), cut);
  };
  double cycles = 0;
  for (size_t p = 0; p < c.h.phases.size(); ++p) {
    for (const TargetStretch& rows : stretches(c.h, p, true)) {
      for (size_t q = 0; q < c.w.phases.size(); ++q) {
        for (const TargetStretch& columns : stretches(c.w, q, cut)) {
          const int64_t height = rows.end - rows.begin, width = columns.end - columns.begin;
          const int64_t scalars = std::min<int64_t>(width, kMaxScalars),
                        lines = std::max(images, std::min(height, kPixelsTogether / (c.w.target * images)));
          cycles += static_cast<double>(height * width * static_cast<int64_t>(rows.taps.size() * columns.taps.size())) *
                    std::max(1.0, 4.0 / static_cast<double>(scalars * lines));
        }
      }
    }
  }
  return cycles;
}

// Whether the source can be read where it lies, and neighbouring pixels would not crowd one set of the first cache.
template <typename scalar_t>
bool lies_as_packed(const Correlation& c) {
  const auto as_it_is = [](const CorrelationAxis& axis) { return axis.border == Border::zeros || axis.inside(); };
  return std::is_same_v<scalar_t, Compute<scalar_t>> && c.channels_last && as_it_is(c.h) && as_it_is(c.w) &&
         !crowds_cache<scalar_t>(c.w.source_step * c.groups * c.source_channels);
}

// Not in place where small patches at the borders would take longer than packing does.
template <typename scalar_t>
Reading choose_reading(const Correlation& c, int64_t images) {
  const double share = tile_cycles(c, images, true) / tile_cycles(c, images, false);
  const bool in_place = lies_as_packed<scalar_t>(c) && share < 1.1;
  return {share < 1 || in_place, in_place};
}

// The product of one task's tile with the panels of its group.
template <typename scalar_t>
class TileProduct {
  using acc_t = Compute<scalar_t>;
  static constexpr int64_t block = kBlock<acc_t>;

 public:
  // What the tiles of a correlation share.
  struct Shared {
    const Correlation& c;
    const ChannelBlocks& channels;
    const PanelLayout<acc_t>& layout;
    Reading reading;
    const scalar_t *source, *weight;
    scalar_t* target;
    const acc_t* panels;  // [group][target block], or null: of a single tile, which packs what it uses
    const acc_t* start;   // what the sums of each block start from
  };
  struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
  };

  TileProduct(const Shared& shared, int64_t group, Range images, Range rows, Range columns)
      : shared_(shared),
        c_(shared.c),
        group_(group),
        images_(images),
        first_column_(columns.begin * c_.w.target_step),
        width_(std::min(c_.w.target - first_column_, columns.size() * c_.w.target_step)),
        rows_(c_.h, rows.begin, rows.size()),
        columns_(c_.w, columns.begin, columns.size()),
        copy_(shared.reading.in_place ? 0 : images.size() * shared.channels.count * block_pitch()) {
    const int64_t pixel = c_.groups * c_.source_channels, plane = c_.h.source * c_.w.source;
    const scalar_t* image =
        shared.source + images.begin * pixel * plane + group * c_.source_channels * (c_.channels_last ? 1 : plane);
    if constexpr (std::is_same_v<scalar_t, acc_t>) {
      if (shared.reading.in_place) {
        view_ = {image, pixel, c_.w.source * pixel, shared.channels.width, plane * pixel};
        return;
      }
    }
    view_ = {
        copy_.data(), shared.channels.width, columns_.slots * shared.channels.width, block_pitch(),
        shared.channels.count * block_pitch()};
    for (int64_t n = 0; n < images.size(); ++n)
      pack_source(image + n * pixel * plane, c_, shared.channels, rows_, columns_, copy_.data() + n * view_.image);
  }

  // Multiplies the panels of target blocks [blocks.begin, blocks.end).
  void multiply(Range blocks) const {
    const int64_t rows_together = std::max<int64_t>(1, kPixelsTogether / (width_ * images_.size()));
    const Scratch<acc_t> sums(rows_together * images_.size() * width_ * block);
    const Scratch<acc_t> own_panel(shared_.panels == nullptr ? shared_.layout.pitch : 0);
    const std::vector<Segment> segments = cut_columns();
    std::vector<RowPhase> phases;
    for (size_t phase = 0; phase < c_.h.phases.size(); ++phase) {
      RowPhase rows{cut_rows(phase), {}};
      for (const Band& band : rows.bands) {
        for (const Segment& segment : segments) rows.runs.push_back(join(band, segment));
      }
      phases.push_back(std::move(rows));
    }
    for (int64_t k = blocks.begin; k < blocks.end; ++k) {
      const acc_t* panel = own_panel.data();
      if (shared_.panels == nullptr) {
        if (shared_.channels.padded() > c_.source_channels)
          std::fill_n(own_panel.data(), shared_.layout.pitch, acc_t(0));
        pack_weight(
            shared_.weight + group_ * c_.weight_group, c_, shared_.layout, {0, c_.source_channels},
            {k * block, (k + 1) * block}, own_panel.data());
      } else {
        panel = shared_.panels + (group_ * ceil_div(c_.target_channels, block) + k) * shared_.layout.pitch;
      }
      for (const RowPhase& phase : phases) {
        const int64_t row_count = phase.bands.empty() ? 0 : phase.bands.back().row + phase.bands.back().count;
        for (int64_t first = 0; first < row_count; first += rows_together) {
          multiply_rows(k, panel, {first, std::min(first + rows_together, row_count)}, phase, segments, sums.data());
        }
      }
    }
  }

 private:
  // Where the pixels of the tile lie.
  struct View {
    const acc_t* data;
    int64_t slot, row, block, image;  // from one to the next
  };
  // Neighbouring targets that read through the same taps: columns of a phase from base position `begin` of the tile on,
  struct Segment {
    size_t phase;
    int64_t begin, count;
    std::vector<ColumnRun> taps;  // of the first one
  };
  struct RowTap {
    int64_t source, order;
  };
  // and rows of a phase, from the `row`th of the tile on.
  struct Band {
    int64_t row, count, target, step;  // step: source rows from one to the next
    std::vector<RowTap> taps;          // of the first one
  };

  // All rows of one phase, and the runs of each of their bands with each segment.
  struct RowPhase {
    std::vector<Band> bands;
    std::vector<std::vector<Run>> runs;
  };

  int64_t block_pitch() const {
    return static_cast<int64_t>(rows_.source.size()) * columns_.slots * shared_.channels.width;
  }

  int64_t column_step() const { return shared_.reading.in_place ? c_.w.source_step : columns_.step; }

  std::vector<Segment> cut_columns() const {
    std::vector<Segment> segments;
    for (size_t phase = 0; phase < c_.w.phases.size(); ++phase) {
      const int64_t count = std::max<int64_t>(0, ceil_div(width_ - static_cast<int64_t>(phase), c_.w.target_step));
      for (const TargetStretch& stretch :
           cut_targets(c_.w, phase, columns_.begin, columns_.begin + count, shared_.reading.cut)) {
        Segment segment{phase, stretch.begin - columns_.begin, stretch.end - stretch.begin, {}};
        for (const size_t tap : stretch.taps) {
          const int64_t slot = shared_.reading.in_place
                                   ? stretch.begin * c_.w.source_step + c_.w.phases[phase][tap].offset
                                   : columns_.tap_slots[phase][tap] + segment.begin * columns_.step;
          const int64_t order = c_.w.phases[phase][tap].order;
          ColumnRun* const last = segment.taps.empty() ? nullptr : &segment.taps.back();
          if (last != nullptr && view_.slot == shared_.channels.width && slot == last->slot + last->taps &&
              order == last->order + last->taps) {
            ++last->taps;
          } else {
            segment.taps.push_back({slot, order, 1});
          }
        }
        segments.push_back(std::move(segment));
      }
    }
    return segments;
  }

  std::vector<Band> cut_rows(size_t phase) const {
    std::vector<Band> bands;
    for (int64_t i = rows_.begin; i < rows_.begin + rows_.count; ++i) {
      const int64_t target = i * c_.h.target_step + static_cast<int64_t>(phase);
      if (target >= c_.h.target) break;
      std::vector<RowTap> taps;
      for (const AxisTap& tap : c_.h.phases[phase]) {
        const int64_t position = i * c_.h.source_step + tap.offset;
        const int64_t row = shared_.reading.in_place ? c_.h.pixel(position) : rows_.slot(position);
        if (row >= 0) taps.push_back({row, tap.order});
      }
      if (!bands.empty()) {
        Band& band = bands.back();
        const int64_t step = taps.empty() || band.taps.empty() ? 0 : taps[0].source - band.taps[0].source;
        const bool follows = std::equal(
            taps.begin(), taps.end(), band.taps.begin(), band.taps.end(),
            [&](const auto& a, const auto& b) { return a.order == b.order && a.source == b.source + step; });
        if (follows && (band.count == 1 || step == band.count * band.step)) {
          band.step = step / band.count;
          ++band.count;
          continue;
        }
      }
      bands.push_back({i - rows_.begin, 1, target, 0, std::move(taps)});
    }
    return bands;
  }

  // What the first target of a band and a segment sums, block of channels by block.
  std::vector<Run> join(const Band& band, const Segment& segment) const {
    const int64_t width = shared_.channels.width, row_taps = shared_.layout.row_taps,
                  column_taps = shared_.layout.column_taps;
    std::vector<Run> runs;
    for (int64_t b = 0; b < shared_.channels.count; ++b) {
      const int64_t channels = std::min(width, shared_.channels.channels - b * width);
      for (const RowTap& r : band.taps) {
        for (const ColumnRun& s : segment.taps) {
          const int64_t tap = (b * row_taps + r.order) * column_taps + s.order;
          runs.push_back(
              {b * view_.block + r.source * view_.row + s.slot * view_.slot, tap * width * block,
               (s.taps - 1) * width + channels});
        }
      }
    }
    return runs;
  }

  // Some rows of one phase of one target block; sums is [row][image][column][kBlock].
  void multiply_rows(
      int64_t k, const acc_t* panel, Range rows, const RowPhase& row_phase, const std::vector<Segment>& segments,
      acc_t* sums) const {
    const acc_t* start = shared_.start + (group_ * ceil_div(c_.target_channels, block) + k) * block;
    const int64_t targets = std::min(block, c_.target_channels - k * block);
    const int64_t W = c_.w.target, plane = c_.h.target * W, pixel = c_.groups * c_.target_channels;
    const int64_t channel = group_ * c_.target_channels + k * block;
    scalar_t* const target = shared_.target + images_.begin * pixel * plane +
                             (c_.channels_last ? first_column_ * pixel + channel : channel * plane + first_column_);
    const int64_t target_row = W * (c_.channels_last ? pixel : 1);
    const int64_t row_sums = images_.size() * width_ * block, image_sums = width_ * block;
    // Whole vectors of channels are written in place, others by way of the sums.
    const bool direct = std::is_same_v<scalar_t, acc_t> && c_.channels_last && targets % kLanes<acc_t> == 0;

    const int64_t count = shared_.channels.count, width = shared_.channels.width;
    size_t row_taps = 0;
    for (const Band& band : row_phase.bands) row_taps = std::max(row_taps, band.taps.size());
    for (size_t phase = 0; phase < c_.w.phases.size(); ++phase) {
      const int64_t taps = static_cast<int64_t>(row_taps * c_.w.phases[phase].size());
      const int64_t bytes = std::max<int64_t>(1, taps * width * block * int64_t(sizeof(acc_t)));
      const int64_t blocks_together = std::max<int64_t>(1, kWeightBytes / bytes);
      for (int64_t b = 0; b == 0 || b < count; b += blocks_together) {  // once even of no channels
        const int64_t b_count = std::min(blocks_together, count - b);
        const bool to_target = direct && b + blocks_together >= count;
        // The next weights come from memory, once a tile, and are asked for while these are used.
        const bool fresh = rows.begin == 0 && phase == 0;
        const acc_t* ahead = panel + (b + b_count) * shared_.layout.block;
        const acc_t* const ahead_end = ahead + (fresh ? b_count * shared_.layout.block : 0);
        const int64_t ahead_each = ceil_div(ahead_end - ahead, rows.size() * width_);
        size_t patch = 0;
        for (const Band& band : row_phase.bands) {
          const Range own{std::max(rows.begin, band.row), std::min(rows.end, band.row + band.count)};
          for (const Segment& segment : segments) {
            const std::vector<Run>& patch_runs = row_phase.runs[patch++];
            if (segment.phase != phase || own.size() <= 0) continue;
            const acc_t* const ahead_to = std::min(ahead + ahead_each * own.size() * segment.count, ahead_end);
            for (; ahead < ahead_to; ahead += 64 / sizeof(acc_t)) __builtin_prefetch(ahead, 0, 2);
            const int64_t runs_each = static_cast<int64_t>(patch_runs.size()) / std::max<int64_t>(1, count);
            const int64_t column = segment.begin * c_.w.target_step + static_cast<int64_t>(phase);
            acc_t* const own_sums = sums + (own.begin - rows.begin) * row_sums + column * block;
            const Steps sum_steps{c_.w.target_step * block, row_sums, image_sums};
            acc_t* out = own_sums;
            Steps out_steps = sum_steps;
            if constexpr (std::is_same_v<scalar_t, acc_t>) {
              if (to_target) {
                out = target + (band.target + (own.begin - band.row) * c_.h.target_step) * target_row + column * pixel;
                out_steps = {c_.w.target_step * pixel, c_.h.target_step * target_row, pixel * plane};
              }
            }
            multiply_patch(
                {segment.count, own.size(), images_.size()}, targets,
                view_.data + (own.begin - band.row) * band.step * view_.row,
                {column_step() * view_.slot, band.step * view_.row, view_.image}, patch_runs.data() + b * runs_each,
                b_count * runs_each, panel, b == 0 ? start : own_sums, b == 0 ? Steps{0, 0, 0} : sum_steps, out,
                out_steps);
          }
        }
      }
    }
    if (direct) return;
    const ImageSteps steps = c_.channels_last ? ImageSteps{pixel, 1} : ImageSteps{1, plane};
    for (const Band& band : row_phase.bands) {
      for (int64_t i = std::max(rows.begin, band.row); i < std::min(rows.end, band.row + band.count); ++i) {
        for (int64_t n = 0; n < images_.size(); ++n) {
          write_row(
              sums + (i - rows.begin) * row_sums + n * image_sums, width_, targets, steps,
              target + n * pixel * plane + (band.target + (i - band.row) * c_.h.target_step) * target_row);
        }
      }
    }
  }

  // From one column, row and image to the next.
  using Steps = std::array<int64_t, 3>;

  // Targets that read through the same taps, in tiles of registers: whichever axis is longest gives the scalars, the
  // second the lines, so that narrow patches fill the registers, too.
  void multiply_patch(
      const Steps& counts, int64_t targets, const acc_t* source, const Steps& source_steps, const Run* runs,
      int64_t run_count, const acc_t* panel, const acc_t* from, const Steps& from_steps, acc_t* out,
      const Steps& out_steps) const {
    std::array<size_t, 3> axes{0, 1, 2};
    std::stable_sort(axes.begin(), axes.end(), [&](size_t a, size_t b) {
      return std::min<int64_t>(counts[a], kMaxScalars) > std::min<int64_t>(counts[b], kMaxScalars);
    });
    const auto [x, y, z] = axes;
    const int64_t step = ceil_div(counts[x], ceil_div(counts[x], kMaxScalars)),
                  lines = std::min<int64_t>(most_lines(static_cast<int>(step)), counts[y]),
                  vectors = targets <= kLanes<acc_t> ? 1 : 2;
    const auto whole = multiply_tile_instance<acc_t>(step, vectors, lines);
    for (int64_t k = 0; k < counts[z]; ++k) {
      for (int64_t j = 0; j < counts[y]; j += lines) {
        for (int64_t i = 0; i < counts[x]; i += step) {
          const int64_t width = std::min(step, counts[x] - i), height = std::min(lines, counts[y] - j);
          const auto multiply =
              width == step && height == lines ? whole : multiply_tile_instance<acc_t>(width, vectors, height);
          const auto at = [&](const Steps& steps) { return i * steps[x] + j * steps[y] + k * steps[z]; };
          const auto steps_of = [&](const Steps& steps) { return TileSteps{steps[x], steps[y]}; };
          multiply(
              source + at(source_steps), steps_of(source_steps), runs, run_count, panel, from + at(from_steps),
              steps_of(from_steps), out + at(out_steps), steps_of(out_steps));
        }
      }
    }
  }

  const Shared& shared_;
  const Correlation& c_;
  int64_t group_;
  Range images_;
  int64_t first_column_, width_;  // of targets
  TileRows rows_;
  TileColumns columns_;
  Scratch<acc_t> copy_;
  View view_;
};

template <typename scalar_t>
void correlate(
    const Conv2dProblem& problem, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t block = kBlock<acc_t>;
  Correlation c = make_correlation(problem.geometry, problem.pass == Conv2dPass::grad_input);
  const int64_t slot_bytes = c.source_channels * static_cast<int64_t>(sizeof(acc_t));
  const Tiling t = choose_tiling(c, c.N * c.groups, slot_bytes, kMaxScalars);
  // Several small images share a tile, and with it each panel that comes from memory. How a tile is read must not
  // depend on the number of threads: it sets the order of the sums.
  const int64_t together = images_together(c, slot_bytes);
  const Reading reading = choose_reading<scalar_t>(c, together);
  if (reading.in_place) {
    c.w.by_remainder = false;
  } else {
    keep_column_order(c.w);
  }
  order_taps(c.h);
  order_taps(c.w);
  const int64_t taps = std::max<int64_t>(1, tap_count(c.h) * tap_count(c.w));
  const int64_t cuts = std::max<int64_t>(1, ceil_div(c.source_channels * taps, kProductsTogether));
  const ChannelBlocks channels =
      reading.in_place
          ? ChannelBlocks(
                c.source_channels, std::min(c.source_channels, ceil_div(ceil_div(c.source_channels, cuts), 16) * 16))
          : ChannelBlocks(c.source_channels);
  const PanelLayout<acc_t> layout(c, channels);
  const int64_t target_blocks = ceil_div(c.target_channels, block);
  int64_t image_tiles = c.N;
  if (t.row_tiles * t.column_tiles == 1) {
    image_tiles = ceil_div(c.N, together);
    // One for each thread, or as many more, where there are no targets to share out.
    const int64_t threads = thread_count();
    if (c.groups * target_blocks < threads) image_tiles = std::min(c.N, ceil_div(image_tiles, threads) * threads);
  }
  const int64_t tiles = image_tiles * c.groups * t.row_tiles * t.column_tiles;
  // Few tiles: several tasks pack the same tile and share out its target blocks.
  const int64_t shares = std::clamp<int64_t>(ceil_div(2 * thread_count(), tiles), 1, target_blocks);

  const bool packed_before = tiles > c.groups;
  const Scratch<acc_t> panels(packed_before ? c.groups * target_blocks * layout.pitch : 0);
  if (packed_before) pack_panels(weight, c, channels, layout, panels.data());
  const Scratch<acc_t> start(c.groups * target_blocks * block);
  for (int64_t i = 0; i < c.groups * target_blocks * block; ++i) {
    const int64_t group = i / (target_blocks * block), channel = i % (target_blocks * block);
    const bool used = bias != nullptr && channel < c.target_channels;
    start[i] = used ? widen(bias[group * c.target_channels + channel]) : acc_t(0);
  }
  const typename TileProduct<scalar_t>::Shared shared{
      c, channels, layout, reading, source, weight, target, packed_before ? panels.data() : nullptr, start.data()};
  parallel_for(tiles * shares, multiplications(problem.geometry), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, tile = task / shares;
      const int64_t column_tile = tile % t.column_tiles, row_tile = tile / t.column_tiles % t.row_tiles;
      const int64_t group = tile / (t.column_tiles * t.row_tiles) % c.groups,
                    image_tile = tile / (t.column_tiles * t.row_tiles * c.groups);
      const int64_t i0 = row_tile * t.rows, j0 = column_tile * t.columns;
      const TileProduct<scalar_t> product(
          shared, group, {image_tile * c.N / image_tiles, (image_tile + 1) * c.N / image_tiles},
          {i0, std::min(i0 + t.rows, c.h.positions())}, {j0, std::min(j0 + t.columns, c.w.positions())});
      product.multiply({share * target_blocks / shares, (share + 1) * target_blocks / shares});
    }
  });
}

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

template <typename scalar_t>
void implicit_gemm(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  run_pass<scalar_t>(
      problem, arguments, [&](auto... operands) { correlate<scalar_t>(problem, operands...); },
      [&](auto... operands) { grad_weight<scalar_t>(problem.geometry, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
