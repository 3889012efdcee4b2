// Blocked implicit GEMM: convolution as a matrix product whose left matrix is never written out.
//
// A task takes one group of one image, or of several small ones, and a tile of rows small enough to stay in the L2
// cache, packs it once or reads it where it lies, and for each block of kBlock target channels multiplies it by that
// block's weight panel in tiles of registers (micro_kernels.h). Targets at a border, which read through fewer taps than
// others, get tiles of their own, so that no zero of the padding is read or multiplied. FLOPs: 2 N K P Q C R S. A step
// of 28 FMAs, 14 cycles, loads 14 scalars and 2 vectors of weights, so the FMA units bind: 208 GF/s of a 3.3 GHz core
// with everything in the first cache, 160 to 195 in a convolution, whose weights come from the second.
#pragma once

#include <optional>

#include "implicit_gemm_grad_weight.h"
#include "unpacking.h"

namespace convops {
namespace CONVOPS_ISA {

// The sum over channels and taps goes through the first cache some blocks of channels at a time, if the weights of one
// fit: they stay there while so many pixels of targets go by.
constexpr int64_t kWeightBytes = 20 << 10, kPixelsTogether = 512;
// In place, where blocks of channels only cut runs, they are as wide as makes sums of at most so many products:
// rounding grows with the longest sum that a register keeps (6e-7 in relative norm, where sums of thousands err
// by 1.4e-6).
constexpr int64_t kProductsTogether = 1500;

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

template <typename scalar_t>
void implicit_gemm(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  run_pass<scalar_t>(
      problem, arguments, [&](auto... operands) { correlate<scalar_t>(problem, operands...); },
      [&](auto... operands) { grad_weight<scalar_t>(problem.geometry, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
