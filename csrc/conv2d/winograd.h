// Winograd F(4x4, 3x3) and F(2x2, 5x5): 3x3 and 5x5 convolutions of stride 1 with a quarter and with 36 % of the
// multiplications (winograd_transforms.h).
//
// The target is cut into tiles of 4x4 or 2x2, which read 6x6 pixels. A block of tiles is transformed to kPoints = 36
// matrices V [channel][tile], the weight to 36 matrices U [target][channel]; 36 matrix products, by the micro kernel of
// implicit_gemm.h, and the transform back give the tiles of the targets. grad_input is the same with the weight turned
// around (correlation.h), grad_weight sums V times the transformed gradient of the output over all tiles and transforms
// the sum back.
//
// A tile costs 36 C K FMAs where the definition has 144 C K or 100 C K, and 14 + 14 operations a value to transform,
// about 250 cycles for a vector of channels: 16 channels x 32 targets take 576 cycles of FMAs, so with 64 channels and
// targets a quarter of the time goes to transforms, with 256 a tenth. Planes that are not multiples of a tile compute
// pixels that are thrown away: 23 % at 7x7 with tiles of 4x4.
//
// Rounding is coarser than the definition's, up to 5e-6 in relative norm (winograd_transforms.h); and since a tile
// mixes its pixels, one that is not finite spoils outputs that do not read it, and transforms of values near the
// largest overflow. So a result that is not finite everywhere is left to implicit_gemm.
#pragma once

#include <atomic>
#include <bit>

#include "implicit_gemm.h"
#include "winograd_transforms.h"

namespace convops {
namespace CONVOPS_ISA {

// Takes what overflows here; another file's (conv2d_kernels.cpp).
void conv2d_implicit_gemm(const Conv2dProblem& problem, const Conv2dArguments& arguments);

constexpr int kPoints = kWinogradPoints * kWinogradPoints;
// Between the matrices of two points, so that they do not all fall into the same sets of the caches.
constexpr int64_t kPointGap = 32;
// Channels of a product that are summed in registers, before the sum is added to those of the channels before them.
constexpr int64_t kWinogradChannels = 128;

// Tiles of all target planes in the order in which they are worked on: units of a few tiles side by side, down the
// plane, then to the right, then to the next image.
struct WinogradGrid {
  struct Unit {
    int64_t n, row, column, width;  // row and column of its first target, width in targets
  };

  WinogradGrid(const CorrelationAxis& h, const CorrelationAxis& w, int64_t N, int64_t outputs)
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

// One vector of a tile's channels, of which `count` exist: pixel (a, b) is at rows[a] + b * column_step.
template <typename Transform, bool kPartial>
CONVOPS_INLINE void transform_channels(
    const float* const (&rows)[Transform::inputs], int64_t column_step, int64_t count, int64_t point_step, float* to) {
  transform_tile<Transform, Vector<float>>(
      [&](int a, int b) CONVOPS_INLINE_LAMBDA {
        const float* from = rows[a] + b * column_step;
        return kPartial ? load_partial(from, count) : load(from);
      },
      [&](int a, int b, Vector<float> value)
          CONVOPS_INLINE_LAMBDA { store(to + (a * Transform::outputs + b) * point_step, value); });
}

// Transforms the tiles of units of one group: of a contiguous image an item is a vector of channels of all units, of a
// channels_last one a unit of all channels, so that either way memory is read in the order in which it lies.
template <typename Transform, int kVectors>
class TileTransform {
 public:
  // image: the group's first channel in the first image; channels: of which `first` is the first to be transformed.
  TileTransform(
      const float* image, const Correlation& c, const WinogradGrid& grid, int64_t begin, int64_t end, int64_t first,
      int64_t channels)
      : c_(c),
        grid_(grid),
        image_(image + first * (c.channels_last ? 1 : c.h.source * c.w.source)),
        begin_(begin),
        end_(end),
        channels_(channels),
        vectors_(ceil_div(channels, lanes)),
        row_offset_(c.h.phases[0].front().offset),
        column_offset_(c.w.phases[0].front().offset) {}

  int64_t items() const { return c_.channels_last ? end_ - begin_ : vectors_; }

  void run(int64_t item, const PointLayout<kVectors>& layout, float* to) const {
    if (c_.channels_last) {
      transform_unit(item, layout, to);
    } else {
      transform_planes(item, layout, to);
    }
  }

 private:
  static constexpr int64_t lanes = kLanes<float>;
  static constexpr int n = Transform::inputs;

  // What target position i reads first, and behind the last target's reads: nothing, as outside the image.
  static int64_t pixel(const CorrelationAxis& axis, int64_t position, int64_t offset) {
    const int64_t end = axis.target + axis.kernel - 1;
    return position < end ? axis.pixel(position + offset) : -1;
  }

  // Tiles inside the image are read where they are, the others from a copy with their border.
  void transform_unit(int64_t item, const PointLayout<kVectors>& layout, float* to) const {
    const int64_t C = c_.groups * c_.source_channels, W = c_.w.source, padded = vectors_ * lanes;
    const auto unit = grid_.unit(begin_ + item);
    const float* image = image_ + unit.n * c_.h.source * W * C;
    const Scratch<float> patch(n * n * padded);
    for (int64_t j = 0; j < grid_.width; ++j) {
      const int64_t row = unit.row + row_offset_, column = unit.column + j * grid_.outputs + column_offset_;
      const bool inside = row >= 0 && row + n <= c_.h.source && column >= 0 && column + n <= W;
      const float* rows[n];
      if (inside) {
        for (int a = 0; a < n; ++a) rows[a] = image + ((row + a) * W + column) * C;
      } else {
        for (int a = 0; a < n; ++a) {
          rows[a] = patch.data() + a * n * padded;
          const int64_t h = pixel(c_.h, unit.row + a, row_offset_);
          for (int b = 0; b < n; ++b) {
            float* copy = patch.data() + (a * n + b) * padded;
            const int64_t w = pixel(c_.w, column - column_offset_ + b, column_offset_);
            const int64_t count = h < 0 || w < 0 ? 0 : channels_;
            std::copy_n(image + (h * W + w) * C, count, copy);
            std::fill_n(copy + count, padded - count, 0.0f);
          }
        }
      }
      for (int64_t vector = 0; vector < vectors_; ++vector) {
        const int64_t count = inside ? std::min(lanes, channels_ - vector * lanes) : lanes;
        float* point = to + layout.at(vector, item * grid_.width + j);
        if (count == lanes) {
          transform_channels<Transform, false>(rows, inside ? C : padded, count, layout.point_step, point);
        } else {
          transform_channels<Transform, true>(rows, C, count, layout.point_step, point);
        }
        for (const float*& from : rows) from += lanes;
      }
    }
  }

  // Rows of a vector of channels are transposed to [row][column][channel] first.
  void transform_planes(int64_t item, const PointLayout<kVectors>& layout, float* to) const {
    const int64_t plane = c_.h.source * c_.w.source;
    const ChannelBlocks block(std::min(lanes, channels_ - item * lanes), lanes);
    for (int64_t unit = begin_, count = 0; unit < end_; unit += count) {
      count = std::min(end_ - unit, grid_.rows - unit % grid_.rows);
      const auto first = grid_.unit(unit);
      const TileRows rows(c_.h, first.row, std::min(count * grid_.outputs, c_.h.target - first.row));
      const TileColumns columns(c_.w, first.column, first.width, grid_.width * grid_.outputs - first.width);
      const int64_t pitch = columns.slots * lanes, packed_rows = static_cast<int64_t>(rows.source.size());
      const Scratch<float> packed((packed_rows + 1) * pitch);
      pack_source(
          image_ + (first.n * c_.groups * c_.source_channels + item * lanes) * plane, c_, block, rows, columns,
          packed.data());
      std::fill_n(packed.data() + packed_rows * pitch, pitch, 0.0f);
      for (int64_t i = 0; i < count; ++i) {
        const float* from[n];
        for (int a = 0; a < n; ++a) {
          const int64_t h = pixel(c_.h, first.row + i * grid_.outputs + a, row_offset_);
          from[a] = packed.data() + (h < 0 ? packed_rows : rows.slot_of_source[h]) * pitch;
        }
        for (int64_t j = 0; j < grid_.width; ++j) {
          transform_channels<Transform, false>(
              from, lanes, lanes, layout.point_step, to + layout.at(item, (unit - begin_ + i) * grid_.width + j));
          for (const float*& row : from) row += grid_.outputs * lanes;
        }
      }
    }
  }

  const Correlation& c_;
  const WinogradGrid& grid_;
  const float* image_;
  int64_t begin_, end_, channels_, vectors_, row_offset_, column_offset_;
};

// Whether some lane of a value was Inf or NaN: those of finite values subtracted from themselves are 0.
class FiniteCheck {
 public:
  CONVOPS_INLINE void add(Vector<float> value) { sum_ += value - value; }
  bool all() const {
    bool finite = true;
    for (int i = 0; i < kLanes<float>; ++i) finite = finite && sum_[i] == 0;
    return finite;
  }

 private:
  Vector<float> sum_{};
};

// The transformed weight of one block of targets: [channel chunk][point][channel][kBlock], from the packed panel.
template <int kTaps>
struct WinogradWeights {
  explicit WinogradWeights(const ChannelBlocks& channels)
      : chunk(std::min(kWinogradChannels, channels.padded())),
        chunks(ceil_div(channels.padded(), chunk)),
        point_step(chunk * kBlock<float> + kPointGap),
        chunk_step(kPoints * point_step) {}

  // Channels [first, first + count) of a panel.
  void transform(const float* panel, int64_t tap_step, int64_t count, float* to) const {
    constexpr int lanes = kLanes<float>, block = kBlock<float>;
    for (int64_t i = 0; i < count * block; i += lanes) {
      const float* from = panel + i / tap_step * kTaps * kTaps * tap_step + i % tap_step;
      transform_tile<WinogradWeight<kTaps>, Vector<float>>(
          [&](int a, int b) CONVOPS_INLINE_LAMBDA { return load(from + (a * kTaps + b) * tap_step); },
          [&](int a, int b, Vector<float> value)
              CONVOPS_INLINE_LAMBDA { store(to + (a * kWinogradPoints + b) * point_step + i, value); });
    }
  }

  int64_t chunk, chunks, point_step, chunk_step;
};

// forward and grad_input; false if some result is not finite.
template <int kTaps>
bool winograd_correlate(
    const Conv2dProblem& problem, const float* source, const float* weight, const float* bias, float* target) {
  constexpr int64_t kOutputs = kWinogradOutputs<kTaps>;
  constexpr int64_t lanes = kLanes<float>, block = kBlock<float>;
  // The transformed weight is made once if it is no larger than this, and anew for each block of tiles otherwise; of a
  // single block by the thread that uses it.
  constexpr int64_t kMostWeights = 6 << 20, kTileBytes = 1 << 20, kLeastTiles = 56, kLeastTilesEach = 128;
  const Correlation c = ordered_correlation(problem);
  const ChannelBlocks channels(c.source_channels, lanes);
  const PanelLayout<float> layout(c, channels);
  const WinogradWeights<kTaps> weights(channels);
  const int64_t target_blocks = ceil_div(c.target_channels, block), block_size = weights.chunks * weights.chunk_step;

  // One panel of the weight to one block of transformed weights, a chunk at a time.
  const auto pack_panel = [&](int64_t group, int64_t k, float* panel) {
    if (channels.padded() > channels.channels) std::fill_n(panel, layout.size, 0.0f);
    pack_weight(
        weight + group * c.weight_group, c, layout, {0, c.source_channels}, {k * block, (k + 1) * block}, panel);
  };
  const auto transform_chunk = [&](const float* panel, int64_t chunk, float* to) {
    const int64_t first = chunk * weights.chunk;
    weights.transform(
        panel + first * kTaps * kTaps * block, lanes * block, std::min(weights.chunk, channels.padded() - first), to);
  };
  const WinogradGrid grid(c.h, c.w, c.N, kWinogradOutputs<kTaps>);
  const bool few_tiles = grid.units * grid.width <= kLeastTilesEach && c.groups == 1 && target_blocks >= thread_count();
  const bool once = c.groups * target_blocks * block_size * int64_t(sizeof(float)) <= kMostWeights && !few_tiles;
  const Scratch<float> transformed(once ? c.groups * target_blocks * block_size : 0);
  if (once) {
    parallel_for(c.groups * target_blocks, c.groups * target_blocks * block_size, [&](int64_t begin, int64_t end) {
      const Scratch<float> panel(layout.size);
      for (int64_t i = begin; i < end; ++i) {
        pack_panel(i / target_blocks, i % target_blocks, panel.data());
        for (int64_t chunk = 0; chunk < weights.chunks; ++chunk)
          transform_chunk(panel.data(), chunk, transformed.data() + i * block_size + chunk * weights.chunk_step);
      }
    });
  }

  const int64_t bytes = kPoints * (channels.padded() + block) * sizeof(float);
  const int64_t most =
      std::max<int64_t>(1, std::max(kTileBytes / bytes, once ? kLeastTiles : kLeastTilesEach) / grid.width);
  const int64_t least_blocks = ceil_div(grid.units, most);
  const int64_t blocks =
      once ? std::min(grid.units, ceil_div(least_blocks, thread_count()) * thread_count()) : least_blocks;
  const int64_t most_tiles = ceil_div(grid.units, std::max<int64_t>(blocks, 1)) * grid.width;
  using Points = PointLayout<1>;
  using Products = PointLayout<2>;
  const int64_t source_plane = c.h.source * c.w.source, H = c.h.target, W = c.w.target, target_plane = H * W;
  const int64_t target_pixel = c.groups * c.target_channels, work = multiplications(problem.geometry);
  std::atomic<bool> finite = true;

  // A block of tiles of one group.
  struct TileBlock {
    int64_t group, unit, last_unit, tiles;
  };
  const auto tile_block = [&](int64_t i) {
    const int64_t index = i % blocks, unit = index * grid.units / blocks, last = (index + 1) * grid.units / blocks;
    return TileBlock{i / blocks, unit, last, (last - unit) * grid.width};
  };
  const auto source_transform = [&](const TileBlock& tile) {
    return TileTransform<WinogradInput, 1>(
        source + tile.group * c.source_channels * (c.channels_last ? 1 : source_plane), c, grid, tile.unit,
        tile.last_unit, 0, c.source_channels);
  };
  struct Buffers {
    Scratch<float> products, panel, weights, rows;
  };
  // Blocks of targets that are multiplied together, so that half as much of the points comes from beyond the L2 cache,
  // where there are enough for all threads.
  const int64_t span = !once && target_blocks % (2 * thread_count()) == 0 ? 2 : 1;
  const int64_t products_size = Products::size(most_tiles, 2);
  const auto make_buffers = [&] {
    return Buffers{
        Scratch<float>(span * products_size), Scratch<float>(once ? 0 : span * layout.size),
        Scratch<float>(once ? 0 : span * weights.chunk_step), Scratch<float>(kOutputs * grid.width * kOutputs * block)};
  };
  const Scratch<float> zeros(block);
  std::fill_n(zeros.data(), block, 0.0f);

  // Transforms the products of a block of tiles back and writes them to target block k.
  const auto write = [&](const TileBlock& tile, int64_t k, const float* from, const Buffers& own, FiniteCheck& check) {
    const int64_t product_step = Products(tile.tiles, 2).point_step;
    const int64_t channel = tile.group * c.target_channels + k * block;
    const int64_t targets = std::min(block, c.target_channels - k * block);
    for (int64_t i = tile.unit; i < tile.last_unit; ++i) {
      const int64_t row_step = grid.width * kOutputs * block;
      for (int64_t j = 0; j < grid.width; ++j, from += block) {
        for (int64_t half = 0; half < block; half += lanes) {
          const Vector<float> start =
              bias == nullptr ? Vector<float>{} : load_partial(bias + channel + half, targets - half);
          transform_tile<WinogradOutput<kTaps>, Vector<float>>(
              [&](int a, int b)
                  CONVOPS_INLINE_LAMBDA { return load(from + (a * kWinogradPoints + b) * product_step + half); },
              [&](int a, int b, Vector<float> value) CONVOPS_INLINE_LAMBDA {
                check.add(value);
                store(own.rows.data() + a * row_step + (j * kOutputs + b) * block + half, value + start);
              });
        }
      }
      const auto [n, row, w, width] = grid.unit(i);
      for (int64_t h = row; h < std::min(row + kOutputs, H); ++h) {
        float* to = target + n * target_pixel * target_plane +
                    (c.channels_last ? (h * W + w) * target_pixel + channel : channel * target_plane + h * W + w);
        write_row(
            own.rows.data() + (h - row) * row_step, width, targets, c.channels_last, target_pixel, target_plane, to);
      }
    }
  };

  // Multiplies the points of a block of tiles by the weight of target blocks [k0, k1), at most `span`, and writes the
  // results.
  const auto multiply = [&](const TileBlock& tile, int64_t k0, int64_t k1, const float* points, const Buffers& own,
                            FiniteCheck& check) {
    const int64_t tiles = tile.tiles, step = ceil_div(tiles, ceil_div(tiles, kMaxScalars));
    const int64_t point_step = Points(tiles, channels.count).point_step, product_step = Products(tiles, 2).point_step;
    for (int64_t k = k0; k < k1 && !once; ++k) pack_panel(tile.group, k, own.panel.data() + (k - k0) * layout.size);
    for (int64_t chunk = 0; chunk < weights.chunks; ++chunk) {
      const float* u = transformed.data() + (tile.group * target_blocks + k0) * block_size + chunk * weights.chunk_step;
      const int64_t u_step = once ? block_size : weights.chunk_step;
      if (!once) {
        u = own.weights.data();
        for (int64_t k = 0; k < k1 - k0; ++k)
          transform_chunk(own.panel.data() + k * layout.size, chunk, own.weights.data() + k * u_step);
      }
      const int64_t first = chunk * weights.chunk, count = std::min(weights.chunk, channels.padded() - first);
      std::vector<Run> runs;
      for (int64_t i = 0; i < count; i += lanes) runs.push_back({(first + i) * tiles, i * block, lanes});
      for (int point = 0; point < kPoints; ++point) {
        for (int64_t j = 0; j < tiles; j += step) {
          for (int64_t k = 0; k < k1 - k0; ++k) {
            float* product = own.products.data() + k * products_size + point * product_step + j * block;
            multiply_tile_instance<float>(std::min(step, tiles - j), 2)(
                points + point * point_step + j * lanes, {lanes, 0}, runs.data(), static_cast<int64_t>(runs.size()),
                u + k * u_step + point * weights.point_step, chunk == 0 ? zeros.data() : product,
                {chunk == 0 ? 0 : block, 0}, product, {block, 0});
          }
        }
      }
    }
    for (int64_t k = k0; k < k1; ++k) write(tile, k, own.products.data() + (k - k0) * products_size, own, check);
  };

  if (once) {
    // A thread takes whole blocks of tiles, or some of the targets of one.
    const int64_t tasks_each = std::clamp<int64_t>(ceil_div(2 * thread_count(), c.groups * blocks), 1, target_blocks);
    parallel_for(c.groups * blocks * tasks_each, work, [&](int64_t begin, int64_t end) {
      const Scratch<float> points(Points::size(most_tiles, channels.count));
      const Buffers own = make_buffers();
      FiniteCheck check;
      int64_t packed = -1;  // the block of tiles that points holds
      for (int64_t task = begin; task < end; ++task) {
        const int64_t share = task % tasks_each;
        const TileBlock tile = tile_block(task / tasks_each);
        if (packed != task / tasks_each) {
          packed = task / tasks_each;
          const auto transform = source_transform(tile);
          const Points layout_of_points(tile.tiles, channels.count);
          for (int64_t i = 0; i < transform.items(); ++i) transform.run(i, layout_of_points, points.data());
        }
        for (int64_t k = share * target_blocks / tasks_each; k < (share + 1) * target_blocks / tasks_each; ++k)
          multiply(tile, k, k + 1, points.data(), own, check);
      }
      if (!check.all()) finite = false;
    });
  } else {
    // The threads share out the targets, so that none transforms a weight that another one does.
    const Scratch<float> points(Points::size(most_tiles, channels.count));
    for (int64_t i = 0; i < c.groups * blocks; ++i) {
      const TileBlock tile = tile_block(i);
      const auto transform = source_transform(tile);
      parallel_for(transform.items(), work / blocks, [&](int64_t begin, int64_t end) {
        const Points layout_of_points(tile.tiles, channels.count);
        for (int64_t item = begin; item < end; ++item) transform.run(item, layout_of_points, points.data());
      });
      parallel_for(target_blocks / span, work / blocks, [&](int64_t begin, int64_t end) {
        const Buffers own = make_buffers();
        FiniteCheck check;
        for (int64_t k = begin * span; k < end * span; k += span)
          multiply(tile, k, k + span, points.data(), own, check);
        if (!check.all()) finite = false;
      });
    }
  }
  return finite;
}

// The sums over tiles are cut by the geometry alone and added in order, so the result does not depend on the number of
// threads. False if some result is not finite.
template <int kTaps>
bool winograd_grad_weight(const Conv2dGeometry& geometry, const float* input, const float* grad_output, float* weight) {
  constexpr int64_t lanes = kLanes<float>, block = kBlock<float>;
  // The tiles are cut into slices where the sums are so small that a thread keeps those of a slice in its cache, with a
  // few tiles: what one thread transforms is then not read by another (channels_last 5x5 of 64 channels at 56 x 56
  // takes 9 ms with 2 threads, where blocks of tiles that the threads share take 14).
  constexpr int64_t kSliceSumBytes = 1 << 20, kSlicePointBytes = 1 << 20, kSliceTiles = 112, kMostSlices = 16;
  constexpr int64_t kPointBytes = 6 << 20, kSumBytes = 16 << 20, kCachedBytes = 2 << 20, kMostTiles = 224;
  Correlation c = make_correlation(geometry, false);
  order_taps(c.h);
  order_taps(c.w);
  // Reads the gradient of the output as it is, tile by tile.
  Correlation same = c;
  for (const auto& [to, from] : {std::pair(&same.h, &c.h), std::pair(&same.w, &c.w)}) {
    *to = {1, from->target, from->target, 1, 1, {{{0, 0, 0}}}};
  }
  same.source_channels = c.target_channels;
  const ChannelBlocks channels(c.source_channels, lanes);
  const PanelLayout<float> layout(c, channels);
  const int64_t target_blocks = ceil_div(c.target_channels, block);
  const WinogradGrid grid(c.h, c.w, c.N, kWinogradOutputs<kTaps>);
  const auto size = [](int64_t floats) { return kPoints * floats * int64_t(sizeof(float)); };
  const int64_t all_sums = size(channels.padded() * target_blocks * block);
  // A power of two, which as many threads share out evenly.
  const auto slices = static_cast<int64_t>(std::bit_floor(
      static_cast<uint64_t>(std::clamp<int64_t>(
          all_sums <= kSliceSumBytes ? grid.units * grid.width / kSliceTiles : 1, 1, kMostSlices))));
  const bool sliced = slices > 1;
  const int64_t most = sliced ? std::max<int64_t>(1, kSlicePointBytes / size(channels.padded() + target_blocks * block))
                              : std::clamp<int64_t>(kPointBytes / size(channels.padded()), 1, kMostTiles);
  const int64_t blocks = ceil_div(grid.units, std::max<int64_t>(1, most / grid.width));
  const int64_t most_tiles = ceil_div(grid.units, std::max<int64_t>(blocks, 1)) * grid.width;
  // Targets whose sums, [point][block of targets][block of channels][channel][target], are kept at a time: all of a
  // slice, else few while the transformed input can be kept for the next ones, or many, since it is made anew for each
  // slab.
  const int64_t slab = sliced ? target_blocks
                              : std::clamp<int64_t>(
                                    blocks == 1 ? kCachedBytes / size((channels.padded() + most_tiles) * block)
                                                : kSumBytes / size(channels.padded() * block),
                                    1, target_blocks);
  const int64_t sum_step = slab * channels.padded() * block + kPointGap, slice_size = kPoints * sum_step;
  using Points = PointLayout<1>;
  using Gradients = PointLayout<2>;
  struct Buffers {
    Scratch<float> points, gradients;
  };
  const auto make_buffers = [&](bool wanted) {
    return Buffers{
        Scratch<float>(wanted ? Points::size(most_tiles, channels.count) : 0),
        Scratch<float>(wanted ? Gradients::size(most_tiles, 2 * slab) : 0)};
  };
  const Buffers shared = make_buffers(!sliced);
  const Scratch<float> sums(slices * slice_size);
  const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
  const int64_t work = multiplications(geometry);

  // Adds a block of tiles to the sums of target blocks [k0, k0 + k_count), in parallel unless the caller is.
  const auto add_tiles = [&](int64_t group, int64_t tile_block, int64_t k0, int64_t k_count, const Buffers& own,
                             float* sums) {
    const float* x = input + group * c.source_channels * (c.channels_last ? 1 : source_plane);
    const float* g = grad_output + group * c.target_channels * (c.channels_last ? 1 : target_plane);
    const int64_t unit = tile_block * grid.units / blocks, last_unit = (tile_block + 1) * grid.units / blocks;
    const int64_t tiles = (last_unit - unit) * grid.width;
    const Points layout_of_points(tiles, channels.count);
    const Gradients layout_of_gradients(tiles, 2 * k_count);
    if (blocks > 1 || k0 == 0) {
      const TileTransform<WinogradInput, 1> transform(x, c, grid, unit, last_unit, 0, c.source_channels);
      parallel_for(transform.items(), work / blocks, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) transform.run(i, layout_of_points, own.points.data());
      });
    }
    const int64_t targets = std::min(k_count * block, c.target_channels - k0 * block);
    const TileTransform<WinogradGradOutput<kTaps>, 2> transform(g, same, grid, unit, last_unit, k0 * block, targets);
    parallel_for(transform.items(), work / blocks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) transform.run(i, layout_of_gradients, own.gradients.data());
    });
    if (ceil_div(targets, lanes) % 2 != 0) {  // half a block of targets does not exist
      for (int64_t i = 0; i < kPoints * tiles; ++i) {
        store(
            own.gradients.data() + i / tiles * layout_of_gradients.point_step +
                layout_of_gradients.at(2 * k_count - 1, i % tiles),
            Vector<float>{});
      }
    }
    parallel_for(kPoints, work / blocks, [&](int64_t begin, int64_t end) {
      const int64_t step = ceil_div(lanes, ceil_div(lanes, kMaxScalars));
      for (int64_t point = begin; point < end; ++point) {
        float* to = sums + point * sum_step;
        for (int64_t k = 0; k < k_count; ++k) {
          const float* gradient =
              own.gradients.data() + point * layout_of_gradients.point_step + layout_of_gradients.at(2 * k, 0);
          for (int64_t b = 0; b < channels.count; ++b) {
            const float* row = own.points.data() + point * layout_of_points.point_step + layout_of_points.at(b, 0);
            for (int64_t m = 0; m < lanes; m += step, to += step * block) {
              accumulate_outer_instance<float>(step, 2)(&row, m, lanes, gradient, {block, 0}, 1, tiles, to);
            }
          }
        }
      }
    });
  };

  std::atomic<bool> finite = true;
  for (int64_t group = 0; group < c.groups; ++group) {
    for (int64_t k0 = 0; k0 < target_blocks; k0 += slab) {
      const int64_t k_count = std::min(slab, target_blocks - k0);
      std::fill_n(sums.data(), slices * slice_size, 0.0f);
      if (sliced) {
        parallel_for(slices, work, [&](int64_t begin, int64_t end) {
          const Buffers own = make_buffers(true);
          for (int64_t slice = begin; slice < end; ++slice) {
            for (int64_t i = slice * blocks / slices; i < (slice + 1) * blocks / slices; ++i)
              add_tiles(group, i, k0, k_count, own, sums.data() + slice * slice_size);
          }
        });
      } else {
        for (int64_t i = 0; i < blocks; ++i) add_tiles(group, i, k0, k_count, shared, sums.data());
      }
      parallel_for(k_count, slices * slice_size, [&](int64_t begin, int64_t end) {
        const Scratch<float> panel(layout.size);
        FiniteCheck check;
        for (int64_t k = begin; k < end; ++k) {
          for (int64_t i = 0; i < channels.padded() * block; i += lanes) {
            const int64_t size = lanes * block;
            const float* from = sums.data() + k * channels.padded() * block + i;
            float* to = panel.data() + i / size * kTaps * kTaps * size + i % size;
            transform_tile<WinogradGradWeight<kTaps>, Vector<float>>(
                [&](int r, int s) CONVOPS_INLINE_LAMBDA {
                  const float* point = from + (r * kWinogradPoints + s) * sum_step;
                  Vector<float> sum = load(point);
                  for (int64_t slice = 1; slice < slices; ++slice) sum += load(point + slice * slice_size);
                  return sum;
                },
                [&](int r, int s, Vector<float> value) CONVOPS_INLINE_LAMBDA {
                  check.add(value);
                  store(to + (r * kTaps + s) * size, value);
                });
          }
          unpack_weight(panel.data(), c, layout, (k0 + k) * block, weight + group * c.weight_group);
        }
        if (!check.all()) finite = false;
      });
    }
  }
  return finite;
}

template <int kTaps>
void winograd_of(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const bool finite = run_pass<float>(
      problem, arguments, [&](auto... operands) { return winograd_correlate<kTaps>(problem, operands...); },
      [&](auto... operands) { return winograd_grad_weight<kTaps>(problem.geometry, operands...); });
  if (!finite) conv2d_implicit_gemm(problem, arguments);
}

inline void winograd(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  (problem.geometry.h.kernel == 3 ? winograd_of<3> : winograd_of<5>)(problem, arguments);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
