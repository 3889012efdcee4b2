// What Winograd's algorithm reads: tiles of 6x6 pixels of an image, transformed to the values at its points.
//
// A convolution of stride s reads, for output i and through tap s t + f of R, pixel s (i + t) + f - pad. So it is a
// convolution of stride 1 with ceil(R / s) taps over s phases of the image, every s-th pixel each, that count as
// channels; so are columns, and an image has s^2 phases (polyphase decomposition; P. P. Vaidyanathan, Multirate Systems
// and Filter Banks, 1993). The last tap of some phases is zero where s does not divide R. grad_input is the transpose:
// its phases are those of the target.
#pragma once

#include "packing.h"
#include "winograd_transforms.h"

namespace convops {
namespace CONVOPS_ISA {

constexpr int kPoints = kWinogradPoints * kWinogradPoints;
// Between the matrices of two points, so that they do not all fall into the same sets of the caches.
constexpr int64_t kPointGap = 32;

// What targets read along one axis: tap r of target i reads pixel i * stride + r + offset of the source.
struct TileAxis {
  TileAxis(int64_t stride, int64_t kernel, int64_t source, int64_t target, int64_t offset, Border border)
      : stride(stride),
        source(source),
        target(target),
        offset(offset),
        end(stride * (target - 1) + kernel + offset),
        all{kernel, source, target, stride, 1, {{}}, border, false},
        phases(stride, all) {
    for (int64_t r = 0; r < kernel; ++r) all.phases[0].push_back({r, r + offset, 0});
    for (int64_t f = 0; f < stride; ++f) {
      phases[f].by_remainder = true;
      for (int64_t r = f; r < kernel; r += stride) phases[f].phases[0].push_back({r, r + offset, 0});
    }
  }

  // The pixel of the source that a phase of a position shows, -1 for none, as behind the last that a target reads.
  int64_t pixel(int64_t position, int64_t phase) const {
    const int64_t i = stride * position + phase + offset;
    return i < end ? all.pixel(i) : -1;
  }

  int64_t stride, source, target, offset, end;
  CorrelationAxis all;                  // all taps, columns in their own order
  std::vector<CorrelationAxis> phases;  // those of a phase
};

// The channels of a tile in vectors: of each phase of its rows the pixels of all phases of its columns, side by side;
// of several phases of rows, if they are so few. Contiguous images of many channels are transposed by the vector, so
// there a pixel takes whole ones.
struct TileChannels {
  TileChannels(int64_t channels, const TileAxis& h, const TileAxis& w, bool channels_last)
      : channels(channels),
        pixel(channels_last || channels < lanes ? channels : ceil_div(channels, lanes) * lanes),
        row(w.stride * pixel),
        row_vectors(ceil_div(row, lanes)),
        row_phases(h.stride),
        rows_together(std::clamp<int64_t>(lanes / row, 1, h.stride)),
        vectors(ceil_div(h.stride, rows_together) * row_vectors) {}

  int64_t padded() const { return vectors * lanes; }
  int64_t at(int64_t row_phase, int64_t column_phase) const {
    return row_phase / rows_together * row_vectors * lanes + row_phase % rows_together * row + column_phase * pixel;
  }
  // How many channels of a vector exist.
  int64_t count(int64_t vector) const {
    if (rows_together > 1) return std::min(rows_together, row_phases - vector * rows_together) * row;
    const int64_t first = vector % row_vectors * lanes;
    return std::min(lanes, pixel == channels ? row - first : channels - first % pixel);
  }

  static constexpr int64_t lanes = kLanes<float>;
  int64_t channels, pixel, row, row_vectors, row_phases, rows_together, vectors;
};

// Tiles of all target planes in the order in which they are worked on: units of a few tiles side by side, down the
// plane, then to the right, then to the next image.
struct WinogradGrid {
  struct Unit {
    int64_t n, row, column, width;  // row and column of its first target, width in targets
  };

  WinogradGrid(const TileAxis& h, const TileAxis& w, int64_t N, int64_t outputs)
      : outputs(outputs), rows(ceil_div(h.target, outputs)), target_width(w.target) {
    constexpr int64_t kMostTiles = 56;
    const int64_t columns = ceil_div(w.target, outputs);
    ranges = ceil_div(columns, kMostTiles);
    width = ceil_div(columns, ranges);
    units = N * ranges * rows;
  }

  Unit unit(int64_t i) const {
    const int64_t column = i / rows % ranges * width * outputs;
    return {i / (rows * ranges), i % rows * outputs, column, std::min(width * outputs, target_width - column)};
  }

  int64_t outputs;                                   // of a tile along each axis
  int64_t rows, ranges, width, units, target_width;  // width: tiles of a unit
};

// Where transformed tiles go: [point][block][tile][kVectors vectors of channels].
template <int kVectors>
struct PointLayout {
  PointLayout(int64_t tiles, int64_t vectors)
      : tiles(tiles), point_step(ceil_div(vectors, kVectors) * tiles * kStep + kPointGap) {}
  static int64_t size(int64_t tiles, int64_t vectors) { return kPoints * PointLayout(tiles, vectors).point_step; }
  int64_t at(int64_t vector, int64_t tile) const {
    return (vector / kVectors * tiles + tile) * kStep + vector % kVectors * kLanes<float>;
  }

  static constexpr int64_t kStep = kVectors * kLanes<float>;
  int64_t tiles, point_step;
};

// One vector of a tile's channels, of which `count` exist, at pixel(row, column).
template <typename Transform, typename Pixel>
CONVOPS_INLINE void transform_channels(const Pixel& pixel, int64_t count, int64_t point_step, float* to) {
  const auto put = [&](int a, int b, Vector<float> value)
                       CONVOPS_INLINE_LAMBDA { store(to + (a * Transform::outputs + b) * point_step, value); };
  if (count == kLanes<float>) {
    transform_tile<Transform, Vector<float>>(
        [&](int a, int b) CONVOPS_INLINE_LAMBDA { return load(pixel(a, b)); }, put);
  } else {
    transform_tile<Transform, Vector<float>>(
        [&](int a, int b) CONVOPS_INLINE_LAMBDA { return load_partial(pixel(a, b), count); }, put);
  }
}

// Transforms the tiles of units of one group: of a contiguous image, or few channels, an item is a vector of channels
// of all units, of a channels_last image a unit of all channels, so that memory is read in the order in which it lies.
template <typename Transform, int kVectors>
class TileTransform {
 public:
  // image: the first of its channels in the first image.
  TileTransform(
      const float* image, bool channels_last, const TileAxis& h, const TileAxis& w, const WinogradGrid& grid,
      int64_t begin, int64_t end, int64_t pixel, int64_t channels)
      : h_(h),
        w_(w),
        grid_(grid),
        channels_(channels, h, w, channels_last),
        image_(image),
        begin_(begin),
        end_(end),
        pixel_(pixel),
        channels_last_(channels_last) {}

  int64_t items() const { return by_unit() ? end_ - begin_ : channels_.vectors; }

  void run(int64_t item, const PointLayout<kVectors>& layout, float* to) const {
    if (by_unit()) {
      transform_unit(item, layout, to);
    } else {
      transform_vector(item, layout, to);
    }
  }

 private:
  static constexpr int64_t lanes = kLanes<float>;
  static constexpr int n = Transform::inputs;

  bool by_unit() const { return channels_last_ && channels_.rows_together == 1; }

  // Pixels of channels_last are read where they lie, but where some phases of a column are outside the image.
  void transform_unit(int64_t item, const PointLayout<kVectors>& layout, float* to) const {
    constexpr int64_t kOutside = -1, kMixed = -2;
    const int64_t C = channels_.channels, padded = channels_.row_vectors * lanes;
    const auto unit = grid_.unit(begin_ + item);
    const float* image = image_ + unit.n * h_.source * w_.source * pixel_;
    const Scratch<float> copies((n * n + 1) * padded);
    std::fill_n(copies.data(), (n * n + 1) * padded, 0.0f);
    const float* const zeros = copies.data() + n * n * padded;
    for (int64_t j = 0; j < grid_.width; ++j) {
      const int64_t position = unit.column + j * grid_.outputs;
      int64_t columns[n];  // of the first phase
      for (int64_t b = 0; b < n; ++b) {
        columns[b] = w_.pixel(position + b, 0);
        for (int64_t f = 1; f < w_.stride; ++f) {
          const int64_t column = w_.pixel(position + b, f);
          const bool follows = columns[b] >= 0 ? column == columns[b] + f && pixel_ == C : column == columns[b];
          if (!follows) columns[b] = kMixed;
        }
      }
      for (int64_t phase = 0; phase < h_.stride; ++phase) {
        const float* pixels[n][n];
        for (int64_t a = 0; a < n; ++a) {
          const int64_t h = h_.pixel(unit.row + a, phase);
          const float* row = image + h * w_.source * pixel_;
          for (int64_t b = 0; b < n; ++b) {
            if (h < 0 || columns[b] == kOutside) {
              pixels[a][b] = zeros;
            } else if (columns[b] != kMixed) {
              pixels[a][b] = row + columns[b] * pixel_;
            } else {
              float* const copy = copies.data() + (a * n + b) * padded;
              pixels[a][b] = copy;
              for (int64_t f = 0; f < w_.stride; ++f) {
                const int64_t w = w_.pixel(position + b, f);
                if (w < 0) {
                  std::fill_n(copy + f * C, C, 0.0f);
                } else {
                  std::copy_n(row + w * pixel_, C, copy + f * C);
                }
              }
            }
          }
        }
        for (int64_t vector = 0; vector < channels_.row_vectors; ++vector) {
          transform_channels<Transform>(
              [&](int a, int b) CONVOPS_INLINE_LAMBDA { return pixels[a][b] + vector * lanes; },
              std::min(lanes, channels_.row - vector * lanes), layout.point_step,
              to + layout.at(phase * channels_.row_vectors + vector, item * grid_.width + j));
        }
      }
    }
  }

  // Rows of the channels of a vector are packed to [row][column][channel] first: columns of one phase, or of all if
  // they share the vector; so are rows, which then are brought together.
  void transform_vector(int64_t item, const PointLayout<kVectors>& layout, float* to) const {
    const int64_t plane = h_.source * w_.source, C = channels_.channels, row = channels_.row;
    const int64_t together = channels_.rows_together, row_phase = item / channels_.row_vectors * together;
    const int64_t first_lane = item % channels_.row_vectors * lanes;
    const bool shared = channels_.pixel < lanes;
    const int64_t column_phase = shared ? 0 : first_lane / channels_.pixel;
    const int64_t channel = shared ? 0 : first_lane % channels_.pixel, phases = shared ? w_.stride : 1;
    const ChannelBlocks block(std::min(lanes, C - channel), shared ? C : lanes);
    const Correlation c{
        together > 1 ? h_.all : h_.phases[row_phase],
        shared ? w_.all : w_.phases[column_phase],
        1,
        1,
        pixel_,
        0,
        channels_last_};
    const int64_t positions = grid_.width * grid_.outputs + n - grid_.outputs, slots = phases * positions;
    const int64_t packed_step = phases * block.width, column_step = together > 1 ? lanes : packed_step;
    const int64_t count = shared && together == 1 ? channels_.count(item) : lanes;
    const Scratch<float> merged(together > 1 ? n * positions * lanes : 0);
    if (together > 1) std::fill_n(merged.data(), n * positions * lanes, 0.0f);
    for (int64_t unit = begin_, units = 0; unit < end_; unit += units) {
      units = std::min(end_ - unit, grid_.rows - unit % grid_.rows);
      const auto first = grid_.unit(unit);
      const TileRows rows(c.h, first.row, std::min(units * grid_.outputs, h_.target - first.row));
      const TileColumns columns(c.w, first.column, first.width, slots);
      const int64_t pitch = slots * block.width, packed_rows = static_cast<int64_t>(rows.source.size());
      const Scratch<float> packed((packed_rows + 1) * pitch);
      pack_source(
          image_ + first.n * pixel_ * plane + channel * (channels_last_ ? 1 : plane), c, block, rows, columns,
          packed.data());
      std::fill_n(packed.data() + packed_rows * pitch, pitch, 0.0f);
      const auto packed_row = [&](int64_t position, int64_t phase) {
        const int64_t h = h_.pixel(position, phase), slot = h < 0 ? -1 : rows.slot_of_source[h];
        return packed.data() + (slot < 0 ? packed_rows : slot) * pitch;
      };
      for (int64_t i = 0; i < units; ++i) {
        const float* from[n];
        for (int64_t a = 0; a < n; ++a) {
          const int64_t position = first.row + i * grid_.outputs + a;
          from[a] = packed_row(position, row_phase) + (shared ? first_lane : 0);
          if (together == 1) continue;
          from[a] = merged.data() + a * positions * lanes;
          for (int64_t phase = row_phase; phase < std::min(row_phase + together, h_.stride); ++phase) {
            const float* one = packed_row(position, phase);
            float* all = merged.data() + a * positions * lanes + (phase - row_phase) * row;
            for (int64_t j = 0; j < positions; ++j)
              store_partial(all + j * lanes, load_partial(one + j * packed_step, row), row);
          }
        }
        for (int64_t j = 0; j < grid_.width; ++j) {
          transform_channels<Transform>(
              [&](int a, int b) CONVOPS_INLINE_LAMBDA { return from[a] + b * column_step; }, count, layout.point_step,
              to + layout.at(item, (unit - begin_ + i) * grid_.width + j));
          for (const float*& at : from) at += grid_.outputs * column_step;
        }
      }
    }
  }

  const TileAxis &h_, &w_;
  const WinogradGrid& grid_;
  TileChannels channels_;
  const float* image_;
  int64_t begin_, end_, pixel_;  // pixel_: channels of all groups
  bool channels_last_;
};

}  // namespace CONVOPS_ISA
}  // namespace convops
