// Winograd F(m x m, r x r) with m + r - 1 = 6: convolutions through 2 to 5 taps with 25 to 36 % of the
// multiplications (winograd_transforms.h), and those with a stride, which are such convolutions of the image's phases
// (winograd_tiles.h).
//
// The target is cut into tiles of m x m, which read 6x6 pixels. A block of tiles is transformed to kPoints = 36
// matrices V [channel][tile], the weight to 36 matrices U [target][channel]; 36 matrix products, by the micro kernel of
// implicit_gemm.h, and the transform back give the tiles of the targets. grad_input is the same with the weight turned
// around, grad_weight sums V times the transformed gradient of the output over all tiles and transforms the sum back.
//
// A tile costs 36 C K FMAs where the definition has m^2 r^2 C K: with stride 1 36 % of them for 2x2, a quarter for 3x3
// and 4x4, 36 % for 5x5; with stride 2, where C counts four times, 64 % for 3x3, 36 % for 4x4 and 5x5, a third for 7x7.
// Transforms take about 250 cycles for a vector of channels: 16 channels x 32 targets take 576 cycles of FMAs, so with
// 64 channels and targets a quarter of the time goes to transforms, with 256 a tenth. Planes that are not multiples of
// a tile compute pixels that are thrown away: 23 % at 7x7 with tiles of 4x4.
//
// The products reach half to two thirds of the peak: what does not fit the L2 cache, a deep layer's points or weights,
// is read from beyond it once for each block of the other. That makes 3x3 with stride 2 slower than the definition.
//
// Rounding is coarser than the definition's, up to 5e-6 in relative norm (winograd_transforms.h); and since a tile
// mixes its pixels, one that is not finite spoils outputs that do not read it, and transforms of values near the
// largest overflow. So a result that is not finite everywhere is left to implicit_gemm.
#pragma once

#include <atomic>
#include <bit>

#include "unpacking.h"
#include "winograd_tiles.h"

namespace convops {
namespace CONVOPS_ISA {

// Takes what overflows here; another file's (conv2d_kernels.cpp).
void conv2d_implicit_gemm(const Conv2dProblem& problem, const Conv2dArguments& arguments);

// Channels of a product that are summed in registers, before the sum is added to those of the channels before them.
constexpr int64_t kWinogradChannels = 128;

// One axis of what a pass reads and writes.
struct WinogradAxis {
  WinogradAxis(const Axis& axis, int64_t taps, bool transposed)
      : read(axis.stride, axis.kernel, axis.input, axis.output, -axis.pad_lower, axis.border),
        stride(axis.stride),
        taps(taps),
        transposed(transposed),
        size(axis.output) {
    if (!transposed) return;
    // Position i was read through tap t of a phase by output i - t.
    const PhasePositions positions(axis);
    read = TileAxis(1, taps, axis.output, positions.end - positions.begin, positions.begin - taps + 1, Border::zeros);
    write_step = stride;
    write_offset = positions.begin * stride - axis.pad_lower;
    size = axis.input;
  }

  int64_t phase(int64_t tap) const { return tap % stride; }
  int64_t tap_of_phase(int64_t tap) const { return transposed ? taps - 1 - tap / stride : tap / stride; }

  // Of `count` targets from `target` on: the pixel that a phase of the first is, perhaps outside the image, and those
  // of whose pixels lie inside.
  struct Written {
    int64_t first, begin, end;
  };
  Written inside(int64_t target, int64_t phase, int64_t count) const {
    const int64_t first = target * write_step + phase + write_offset;
    return {
        first, std::max<int64_t>(0, ceil_div(-first, write_step)), std::min(count, ceil_div(size - first, write_step))};
  }

  TileAxis read;
  int64_t stride, taps;  // taps: of a phase, perhaps of zeros
  bool transposed;
  int64_t write_step = 1, write_offset = 0, size;  // phase f of target i is pixel i * write_step + f + write_offset
};

// A pass and its panels of weights, [tap of a phase][channel of a tile][kBlock targets]. Panel k has the vectors of
// targets 2 k and 2 k + 1. A vector holds targets of one phase, or of several if they are so few.
class WinogradPass {
  static constexpr int64_t lanes = kLanes<float>, block = kBlock<float>;

 public:
  // Neighbouring targets of one phase, from a lane of their vector on.
  struct TargetPiece {
    int64_t row_phase, column_phase, channel, count, lane;
  };

  WinogradPass(const Conv2dGeometry& geometry, int64_t taps, bool transposed)
      : c(make_correlation(geometry, transposed)),
        h(geometry.h, taps, transposed),
        w(geometry.w, taps, transposed),
        channels(c.source_channels, h.read, w.read, c.channels_last),
        tap_step(channels.padded() * block + kPointGap),
        panel_size(taps * taps * tap_step) {
    int64_t lane = lanes;
    for (int64_t row_phase = 0; row_phase < h.write_step; ++row_phase) {
      for (int64_t channel = 0; channel < c.target_channels; channel += lanes) {
        for (int64_t column_phase = 0; column_phase < w.write_step; ++column_phase) {
          const int64_t count = std::min(lanes, c.target_channels - channel);
          if (lane + count > lanes) {
            pieces_.emplace_back();
            lane = 0;
          }
          pieces_.back().push_back({row_phase, column_phase, channel, count, lane});
          lane += count;
        }
      }
      for (int64_t column_phase = 0; column_phase < w.write_step; ++column_phase)
        offsets_.push_back(panel_offsets(row_phase, column_phase));
    }
  }

  int64_t panels() const { return ceil_div(static_cast<int64_t>(pieces_.size()), 2); }
  int64_t vectors(int64_t panel) const {
    return std::min<int64_t>(2, static_cast<int64_t>(pieces_.size()) - 2 * panel);
  }
  const std::vector<TargetPiece>& pieces(int64_t vector) const { return pieces_[static_cast<size_t>(vector)]; }
  // Where forward's weights are in a panel.
  const PanelOffsets& offsets() const { return offsets_.front(); }

  void pack(const float* weight, int64_t group, int64_t k, float* panel) const {
    // Taps that some phase lacks, channels and targets that fill up a vector.
    const bool gaps =
        offsets_.size() > 1 || c.h.kernel * c.w.kernel * c.source_channels != h.taps * w.taps * channels.padded();
    if (gaps) std::fill_n(panel, panel_size, 0.0f);
    const float* group_weight = weight + group * c.weight_group;
    const ChannelRange sources{0, c.source_channels};
    if (offsets_.size() == 1)
      return pack_weight(group_weight, c, offsets(), sources, {k * block, (k + 1) * block}, panel);
    for (int64_t vector = 0; vector < vectors(k); ++vector) {
      for (const TargetPiece& piece : pieces(2 * k + vector)) {
        const PanelOffsets& offsets =
            offsets_[static_cast<size_t>(piece.row_phase * w.write_step + piece.column_phase)];
        pack_weight(
            group_weight, c, offsets, sources, {piece.channel, piece.channel + piece.count},
            panel + vector * lanes + piece.lane);
      }
    }
  }

  Correlation c;
  WinogradAxis h, w;
  TileChannels channels;
  int64_t tap_step, panel_size;

 private:
  // Of the weights between the source, or its phases, and a phase of the target.
  PanelOffsets panel_offsets(int64_t row_phase, int64_t column_phase) const {
    PanelOffsets offsets;
    for (int64_t i = 0; i < c.source_channels; ++i) offsets.of_channel.push_back(i * block);
    for (int64_t r = 0; r < c.h.kernel; ++r) {
      for (int64_t s = 0; s < c.w.kernel; ++s) {
        const int64_t tap = (h.tap_of_phase(r) * h.taps + w.tap_of_phase(s)) * tap_step;
        if (!h.transposed) {
          offsets.of_tap.push_back(tap + channels.at(h.phase(r), w.phase(s)) * block);
        } else {
          offsets.of_tap.push_back(h.phase(r) == row_phase && w.phase(s) == column_phase ? tap : -1);
        }
      }
    }
    return offsets;
  }

  std::vector<std::vector<TargetPiece>> pieces_;  // by vector of targets
  std::vector<PanelOffsets> offsets_;             // by phase of the target
};

// Whether some lane of a value was Inf or NaN: finite values times 0 add up to 0. A local, so that it stays in a
// register: through memory its additions would wait for each other for half of the time of a transform.
class FiniteCheck {
 public:
  CONVOPS_INLINE void add(Vector<float> value) { sum_ += value * 0.0f; }
  bool all() const {
    bool finite = true;
    for (int i = 0; i < kLanes<float>; ++i) finite = finite && sum_[i] == 0;
    return finite;
  }

 private:
  Vector<float> sum_{};
};

// The transformed weight of one panel: [channel chunk][point][channel][kBlock].
template <int kTaps>
struct WinogradWeights {
  explicit WinogradWeights(const WinogradPass& pass)
      : tap_step(pass.tap_step),
        chunk(std::min(kWinogradChannels, pass.channels.padded())),
        chunks(ceil_div(pass.channels.padded(), chunk)),
        point_step(chunk * kBlock<float> + kPointGap),
        chunk_step(kPoints * point_step) {}

  // `count` channels, of which panel points at the first.
  void transform(const float* panel, int64_t count, float* to) const {
    for (int64_t i = 0; i < count * kBlock<float>; i += kLanes<float>) {
      transform_tile<WinogradWeight<kTaps>, Vector<float>>(
          [&](int a, int b) CONVOPS_INLINE_LAMBDA { return load(panel + (a * kTaps + b) * tap_step + i); },
          [&](int a, int b, Vector<float> value)
              CONVOPS_INLINE_LAMBDA { store(to + (a * kWinogradPoints + b) * point_step + i, value); });
    }
  }

  int64_t tap_step, chunk, chunks, point_step, chunk_step;
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
  const WinogradPass pass(problem.geometry, kTaps, problem.pass == Conv2dPass::grad_input);
  const Correlation& c = pass.c;
  const TileChannels& channels = pass.channels;
  const WinogradWeights<kTaps> weights(pass);
  const int64_t target_blocks = pass.panels(), block_size = weights.chunks * weights.chunk_step;

  const auto transform_chunk = [&](const float* panel, int64_t chunk, float* to) {
    const int64_t first = chunk * weights.chunk;
    weights.transform(panel + first * block, std::min(weights.chunk, channels.padded() - first), to);
  };
  const WinogradGrid grid(pass.h.read, pass.w.read, c.N, kOutputs);
  const bool few_tiles = grid.units * grid.width <= kLeastTilesEach && c.groups == 1 && target_blocks >= thread_count();
  const bool once = c.groups * target_blocks * block_size * int64_t(sizeof(float)) <= kMostWeights && !few_tiles;
  const Scratch<float> transformed(once ? c.groups * target_blocks * block_size : 0);
  if (once) {
    parallel_for(c.groups * target_blocks, c.groups * target_blocks * block_size, [&](int64_t begin, int64_t end) {
      const Scratch<float> panel(pass.panel_size);
      for (int64_t i = begin; i < end; ++i) {
        pass.pack(weight, i / target_blocks, i % target_blocks, panel.data());
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
  const int64_t source_plane = pass.h.read.source * pass.w.read.source, source_pixel = c.groups * c.source_channels;
  const int64_t W = pass.w.size, target_plane = pass.h.size * W, target_pixel = c.groups * c.target_channels;
  const ImageSteps target_steps = c.channels_last ? ImageSteps{target_pixel, 1} : ImageSteps{1, target_plane};
  const int64_t work = multiplications(problem.geometry);
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
        source + tile.group * c.source_channels * (c.channels_last ? 1 : source_plane), c.channels_last, pass.h.read,
        pass.w.read, grid, tile.unit, tile.last_unit, source_pixel, c.source_channels);
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
        Scratch<float>(span * products_size), Scratch<float>(once ? 0 : span * pass.panel_size),
        Scratch<float>(once ? 0 : span * weights.chunk_step), Scratch<float>(kOutputs * grid.width * kOutputs * block)};
  };
  const Scratch<float> zeros(block);
  std::fill_n(zeros.data(), block, 0.0f);

  // Transforms the products of a block of tiles back and writes them to target block k.
  const auto write = [&](const TileBlock& tile, int64_t k, const float* from, const Buffers& own) {
    FiniteCheck check;
    const int64_t product_step = Products(tile.tiles, 2).point_step;
    const int64_t buffer_row = grid.width * kOutputs * block;
    const int64_t row_step = pass.h.write_step * W * target_steps.column;
    const ImageSteps steps{pass.w.write_step * target_steps.column, target_steps.channel};
    for (int64_t i = tile.unit; i < tile.last_unit; ++i, from += grid.width * block) {
      const auto [n, first_row, first_column, width] = grid.unit(i);
      const int64_t group_channel = tile.group * c.target_channels;
      float* const image = target + n * target_pixel * target_plane + group_channel * target_steps.channel;
      for (int64_t vector = 0; vector < pass.vectors(k); ++vector) {
        const auto& pieces = pass.pieces(2 * k + vector);
        float start[lanes] = {};
        for (const auto& piece : pieces) {
          if (bias != nullptr) std::copy_n(bias + group_channel + piece.channel, piece.count, start + piece.lane);
        }
        // Targets [begin, end) of the unit's rows.
        const auto write_columns = [&](int64_t begin, int64_t end) {
          for (const auto& piece : pieces) {
            const auto rows = pass.h.inside(first_row, piece.row_phase, kOutputs);
            const auto columns = pass.w.inside(first_column, piece.column_phase, width);
            const int64_t first = std::max(begin, columns.begin), last = std::min(end, columns.end);
            for (int64_t a = rows.begin; a < rows.end; ++a) {
              const int64_t pixel =
                  (rows.first + a * pass.h.write_step) * W + columns.first + first * pass.w.write_step;
              write_vectors(
                  own.rows.data() + a * buffer_row + first * block + vector * lanes + piece.lane, last - first,
                  piece.count, steps, image + piece.channel * target_steps.channel + pixel * target_steps.column);
            }
          }
        };
        // Whole vectors inside a channels_last image are written where they belong.
        const auto rows = pass.h.inside(first_row, pieces.front().row_phase, kOutputs);
        const auto columns = pass.w.inside(first_column, pieces.front().column_phase, width);
        const bool whole = c.channels_last && pieces.front().count == lanes && rows.end - rows.begin == kOutputs;
        for (int64_t j = 0; j < width; j += kOutputs) {
          const float* product = from + j / kOutputs * block + vector * lanes;
          const bool direct = whole && j >= columns.begin && j + kOutputs <= columns.end;
          float* to = own.rows.data() + j * block + vector * lanes;
          if (direct) {
            to = image + pieces.front().channel +
                 (rows.first * W + columns.first + j * pass.w.write_step) * target_steps.column;
          }
          const int64_t to_row = direct ? row_step : buffer_row, to_column = direct ? steps.column : block;
          transform_tile<WinogradOutput<kTaps>, Vector<float>>(
              [&](int a, int b)
                  CONVOPS_INLINE_LAMBDA { return load(product + (a * kWinogradPoints + b) * product_step); },
              [&](int a, int b, Vector<float> value) CONVOPS_INLINE_LAMBDA {
                check.add(value);
                store(to + a * to_row + b * to_column, value + load(start));
              });
          if (whole && !direct) write_columns(j, j + kOutputs);
        }
        if (!whole) write_columns(0, width);
      }
    }
    if (!check.all()) finite = false;
  };

  // Multiplies the points of a block of tiles by the weight of target blocks [k0, k1), at most `span`, and writes the
  // results.
  const auto multiply = [&](const TileBlock& tile, int64_t k0, int64_t k1, const float* points, const Buffers& own) {
    const int64_t tiles = tile.tiles, step = ceil_div(tiles, ceil_div(tiles, kMaxScalars));
    const int64_t point_step = Points(tiles, channels.vectors).point_step, product_step = Products(tiles, 2).point_step;
    for (int64_t k = k0; k < k1 && !once; ++k)
      pass.pack(weight, tile.group, k, own.panel.data() + (k - k0) * pass.panel_size);
    for (int64_t chunk = 0; chunk < weights.chunks; ++chunk) {
      const float* u = transformed.data() + (tile.group * target_blocks + k0) * block_size + chunk * weights.chunk_step;
      const int64_t u_step = once ? block_size : weights.chunk_step;
      if (!once) {
        u = own.weights.data();
        for (int64_t k = 0; k < k1 - k0; ++k)
          transform_chunk(own.panel.data() + k * pass.panel_size, chunk, own.weights.data() + k * u_step);
      }
      const int64_t first = chunk * weights.chunk, count = std::min(weights.chunk, channels.padded() - first);
      std::vector<Run> runs;
      for (int64_t i = 0; i < count; i += lanes)
        runs.push_back({(first + i) * tiles, i * block, channels.count((first + i) / lanes)});
      for (int point = 0; point < kPoints; ++point) {
        for (int64_t j = 0; j < tiles; j += step) {
          // Of so many tiles the points come from beyond the L2 cache: those of the next product.
          const float* const next =
              j + step < tiles ? points + point * point_step + (j + step) * lanes : points + (point + 1) * point_step;
          for (size_t run = 0; run < runs.size() && !once; ++run) {
            for (int64_t i = 0; i < step; ++i) __builtin_prefetch(next + runs[run].source + i * lanes, 0, 2);
          }
          for (int64_t k = 0; k < k1 - k0; ++k) {
            float* product = own.products.data() + k * products_size + point * product_step + j * block;
            multiply_tile_instance<float>(std::min(step, tiles - j), pass.vectors(k0 + k))(
                points + point * point_step + j * lanes, {lanes, 0}, runs.data(), static_cast<int64_t>(runs.size()),
                u + k * u_step + point * weights.point_step, chunk == 0 ? zeros.data() : product,
                {chunk == 0 ? 0 : block, 0}, product, {block, 0});
          }
        }
      }
    }
    for (int64_t k = k0; k < k1; ++k) write(tile, k, own.products.data() + (k - k0) * products_size, own);
  };

  if (once) {
    // A thread takes whole blocks of tiles, or some of the targets of one.
    const int64_t tasks_each = std::clamp<int64_t>(ceil_div(2 * thread_count(), c.groups * blocks), 1, target_blocks);
    parallel_for(c.groups * blocks * tasks_each, work, [&](int64_t begin, int64_t end) {
      const Scratch<float> points(Points::size(most_tiles, channels.vectors));
      const Buffers own = make_buffers();
      int64_t packed = -1;  // the block of tiles that points holds
      for (int64_t task = begin; task < end; ++task) {
        const int64_t share = task % tasks_each;
        const TileBlock tile = tile_block(task / tasks_each);
        if (packed != task / tasks_each) {
          packed = task / tasks_each;
          const auto transform = source_transform(tile);
          const Points layout_of_points(tile.tiles, channels.vectors);
          for (int64_t i = 0; i < transform.items(); ++i) transform.run(i, layout_of_points, points.data());
        }
        for (int64_t k = share * target_blocks / tasks_each; k < (share + 1) * target_blocks / tasks_each; ++k)
          multiply(tile, k, k + 1, points.data(), own);
      }
    });
  } else {
    // The threads share out the targets, so that none transforms a weight that another one does.
    const Scratch<float> points(Points::size(most_tiles, channels.vectors));
    for (int64_t i = 0; i < c.groups * blocks; ++i) {
      const TileBlock tile = tile_block(i);
      const auto transform = source_transform(tile);
      parallel_for(transform.items(), work / blocks, [&](int64_t begin, int64_t end) {
        const Points layout_of_points(tile.tiles, channels.vectors);
        for (int64_t item = begin; item < end; ++item) transform.run(item, layout_of_points, points.data());
      });
      parallel_for(target_blocks / span, work / blocks, [&](int64_t begin, int64_t end) {
        const Buffers own = make_buffers();
        for (int64_t k = begin * span; k < end * span; k += span) multiply(tile, k, k + span, points.data(), own);
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
  const WinogradPass pass(geometry, kTaps, false);
  const Correlation& c = pass.c;
  const TileChannels& channels = pass.channels;
  // The gradient of the output is read as it is, tile by tile.
  const TileAxis gradient_h(1, 1, geometry.h.output, geometry.h.output, 0, Border::zeros);
  const TileAxis gradient_w(1, 1, geometry.w.output, geometry.w.output, 0, Border::zeros);
  const int64_t target_blocks = pass.panels();
  const WinogradGrid grid(pass.h.read, pass.w.read, c.N, kWinogradOutputs<kTaps>);
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
        Scratch<float>(wanted ? Points::size(most_tiles, channels.vectors) : 0),
        Scratch<float>(wanted ? Gradients::size(most_tiles, 2 * slab) : 0)};
  };
  const Buffers shared = make_buffers(!sliced);
  const Scratch<float> sums(slices * slice_size);
  const int64_t source_plane = geometry.h.input * geometry.w.input,
                target_plane = geometry.h.output * geometry.w.output;
  const int64_t work = multiplications(geometry);

  // Adds a block of tiles to the sums of target blocks [k0, k0 + k_count), in parallel unless the caller is.
  const auto add_tiles = [&](int64_t group, int64_t tile_block, int64_t k0, int64_t k_count, const Buffers& own,
                             float* sums) {
    const float* x = input + group * c.source_channels * (c.channels_last ? 1 : source_plane);
    const float* g = grad_output + group * c.target_channels * (c.channels_last ? 1 : target_plane);
    const int64_t unit = tile_block * grid.units / blocks, last_unit = (tile_block + 1) * grid.units / blocks;
    const int64_t tiles = (last_unit - unit) * grid.width;
    const Points layout_of_points(tiles, channels.vectors);
    const Gradients layout_of_gradients(tiles, 2 * k_count);
    if (blocks > 1 || k0 == 0) {
      const TileTransform<WinogradInput, 1> transform(
          x, c.channels_last, pass.h.read, pass.w.read, grid, unit, last_unit, geometry.C, c.source_channels);
      parallel_for(transform.items(), work / blocks, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) transform.run(i, layout_of_points, own.points.data());
      });
    }
    const int64_t targets = std::min(k_count * block, c.target_channels - k0 * block);
    const TileTransform<WinogradGradOutput<kTaps>, 2> transform(
        g + k0 * block * (c.channels_last ? 1 : target_plane), c.channels_last, gradient_h, gradient_w, grid, unit,
        last_unit, geometry.K, targets);
    parallel_for(transform.items(), work / blocks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) transform.run(i, layout_of_gradients, own.gradients.data());
    });
    parallel_for(kPoints, work / blocks, [&](int64_t begin, int64_t end) {
      for (int64_t point = begin; point < end; ++point) {
        float* to = sums + point * sum_step;
        for (int64_t k = 0; k < k_count; ++k) {
          const float* gradient =
              own.gradients.data() + point * layout_of_gradients.point_step + layout_of_gradients.at(2 * k, 0);
          for (int64_t v = 0; v < channels.vectors; ++v, to += lanes * block) {
            const float* row = own.points.data() + point * layout_of_points.point_step + layout_of_points.at(v, 0);
            const int64_t count = channels.count(v), step = ceil_div(count, ceil_div(count, kMaxScalars));
            for (int64_t m = 0; m < count; m += step) {
              accumulate_outer_instance<float>(std::min(step, count - m), pass.vectors(k0 + k))(
                  &row, m, lanes, gradient, {block, 0}, 1, tiles, to + m * block);
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
        const Scratch<float> panel(pass.panel_size);
        FiniteCheck check;
        for (int64_t k = begin; k < end; ++k) {
          for (int64_t i = 0; i < channels.padded() * block; i += lanes) {
            const float* from = sums.data() + k * channels.padded() * block + i;
            float* to = panel.data() + i;
            transform_tile<WinogradGradWeight<kTaps>, Vector<float>>(
                [&](int r, int s) CONVOPS_INLINE_LAMBDA {
                  const float* point = from + (r * kWinogradPoints + s) * sum_step;
                  Vector<float> sum = load(point);
                  for (int64_t slice = 1; slice < slices; ++slice) sum += load(point + slice * slice_size);
                  return sum;
                },
                [&](int r, int s, Vector<float> value) CONVOPS_INLINE_LAMBDA {
                  check.add(value);
                  store(to + (r * kTaps + s) * pass.tap_step, value);
                });
          }
          unpack_weight(panel.data(), c, pass.offsets(), (k0 + k) * block, weight + group * c.weight_group);
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
  const auto of_taps =
      select_instance<4>(winograd_taps(problem.geometry) - 1, []<int N>() { return &winograd_of<N + 1>; });
  of_taps(problem, arguments);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
