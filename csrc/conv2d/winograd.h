// Winograd F(4x4, 3x3): 3x3 convolutions of stride 1 with a quarter of the multiplications (winograd_transforms.h).
//
// The target is cut into tiles of 4x4. A block of tiles is transformed to kPoints = 36 matrices V [channel][tile], the
// weight to 36 matrices U [target][channel]; 36 matrix products, by the micro kernel of implicit_gemm.h, and the
// transform back give the tiles of the targets. grad_input is the same with the weight turned around (correlation.h),
// grad_weight sums V times the transformed gradient of the output over all tiles and transforms the sum back.
//
// A tile costs 36 C K FMAs where the definition has 144 C K, and 14 + 14 operations a value to transform, about
// 250 cycles for a vector of channels: 16 channels x 32 targets take 576 cycles of FMAs, so with 64 channels and
// targets a quarter of the time goes to transforms, with 256 a tenth. Planes that are not multiples of 4 compute pixels
// that are thrown away: 23 % at 7x7.
//
// Rounding is coarser than the definition's, up to 5e-6 in relative norm (winograd_transforms.h); and since a tile
// mixes its pixels, one that is not finite spoils 16 outputs where the definition spoils the 9 that read it, and
// transforms of values near the largest overflow. So a result that is not finite everywhere is left to implicit_gemm.
#pragma once

#include <atomic>

#include "implicit_gemm.h"
#include "winograd_transforms.h"

namespace convops {
namespace CONVOPS_ISA {

constexpr int kPoints = kWinogradPoints * kWinogradPoints;
// Between the matrices of two points, so that they do not all fall into the same sets of the caches.
constexpr int64_t kPointGap = 32;
// Channels of a product that are summed in registers, before the sum is added to those of the channels before them.
constexpr int64_t kWinogradChannels = 128;

// Tiles of all target planes in the order in which they are worked on: units of a few tiles side by side, down the
// plane, then to the right, then to the next image.
struct WinogradGrid {
  explicit WinogradGrid(const CorrelationAxis& h, const CorrelationAxis& w, int64_t N)
      : rows(ceil_div(h.target, kWinogradOutputs)) {
    constexpr int64_t kMostTiles = 56;
    const int64_t columns = ceil_div(w.target, kWinogradOutputs);
    ranges = ceil_div(columns, kMostTiles);
    width = ceil_div(columns, ranges);
    units = N * ranges * rows;
  }

  int64_t rows, ranges, width, units;  // width: tiles of a unit
};

// Units [unit, unit + rows) of a grid that lie below each other in one image, and how to pack what they read.
struct WinogradSegment {
  WinogradSegment(
      const CorrelationAxis& h, const CorrelationAxis& w, const WinogradGrid& grid, int64_t unit, int64_t end)
      : n(unit / (grid.rows * grid.ranges)),
        row(unit % grid.rows),
        column(unit / grid.rows % grid.ranges * grid.width),
        count(std::min(end - unit, grid.rows - row)),
        width(std::min(grid.width * kWinogradOutputs, w.target - column * kWinogradOutputs)),
        rows(h, row * kWinogradOutputs, std::min(count * kWinogradOutputs, h.target - row * kWinogradOutputs)),
        columns(w, column * kWinogradOutputs, width, grid.width * kWinogradOutputs - width) {
    const int64_t first = h.phases[0].front().offset, last = h.phases[0].back().offset;
    for (int64_t i = 0; i < count * kWinogradOutputs + last - first; ++i) {
      const bool read = i < rows.count + last - first;
      slots.push_back(read ? rows.slot(row * kWinogradOutputs + first + i) : -1);
    }
  }

  int64_t n, row, column, count, width;  // row and column in tiles, width in targets
  TileRows rows;
  TileColumns columns;
  std::vector<int64_t> slots;  // packed rows by position, -1: zeros
};

inline std::vector<WinogradSegment> winograd_segments(
    const CorrelationAxis& h, const CorrelationAxis& w, const WinogradGrid& grid, int64_t begin, int64_t end) {
  std::vector<WinogradSegment> segments;
  for (int64_t unit = begin; unit < end; unit += segments.back().count) segments.emplace_back(h, w, grid, unit, end);
  return segments;
}

// Transforms one vector of channels, from `first` on, of the tiles of some segments: to[point * point_step + tile *
// tile_step]. image is the group's first channel in the first image.
template <typename Transform>
void transform_tiles(
    const float* image, const Correlation& c, const WinogradGrid& grid, const std::vector<WinogradSegment>& segments,
    int64_t first, int64_t point_step, int64_t tile_step, float* to) {
  constexpr int lanes = kLanes<float>;
  const int64_t plane = c.h.source * c.w.source;
  ChannelBlocks block(std::min<int64_t>(lanes, c.source_channels - first), lanes);
  for (const WinogradSegment& segment : segments) {
    const int64_t pitch = segment.columns.slots * lanes, rows = static_cast<int64_t>(segment.rows.source.size());
    const Scratch<float> packed((rows + 1) * pitch);
    pack_source(
        image + segment.n * c.groups * c.source_channels * plane + first * (c.channels_last ? 1 : plane), c, block,
        segment.rows, segment.columns, packed.data());
    float* const zeros = packed.data() + rows * pitch;
    std::fill_n(zeros, pitch, 0.0f);
    for (int64_t i = 0; i < segment.count; ++i) {
      const float* row[Transform::inputs];
      for (int a = 0; a < Transform::inputs; ++a) {
        const int64_t slot = segment.slots[i * kWinogradOutputs + a];
        row[a] = slot < 0 ? zeros : packed.data() + slot * pitch;
      }
      for (int64_t j = 0; j < grid.width; ++j) {
        transform_tile<Transform, Vector<float>>(
            [&](int a, int b) CONVOPS_INLINE_LAMBDA { return load(row[a] + (j * kWinogradOutputs + b) * lanes); },
            [&](int a, int b, Vector<float> value)
                CONVOPS_INLINE_LAMBDA { store(to + (a * Transform::outputs + b) * point_step, value); });
        to += tile_step;
      }
    }
  }
}

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
      const float* from = panel + i / (tap_step) * (9 * tap_step) + i % tap_step;
      transform_tile<WinogradWeight, Vector<float>>(
          [&](int a, int b) CONVOPS_INLINE_LAMBDA { return load(from + (a * kWinogradTaps + b) * tap_step); },
          [&](int a, int b, Vector<float> value)
              CONVOPS_INLINE_LAMBDA { store(to + (a * kWinogradPoints + b) * point_step + i, value); });
    }
  }

  int64_t chunk, chunks, point_step, chunk_step;
};

// forward and grad_input; false if some result is not finite.
inline bool winograd_correlate(
    const Conv2dProblem& problem, const float* source, const float* weight, const float* bias, float* target) {
  constexpr int64_t lanes = kLanes<float>, block = kBlock<float>;
  // The transformed weight is made once if it is no larger than this, and anew for each block of tiles otherwise.
  constexpr int64_t kMostWeights = 6 << 20, kTileBytes = 1 << 20, kLeastTiles = 56;
  Correlation c = make_correlation(problem.geometry, problem.pass == Conv2dPass::grad_input);
  order_taps(c.h);
  order_taps(c.w);
  const ChannelBlocks channels(c.source_channels, lanes);
  const PanelLayout<float> layout(c, channels);
  const WinogradWeights weights(channels);
  const int64_t target_blocks = ceil_div(c.target_channels, block), block_size = weights.chunks * weights.chunk_step;

  // One panel of the weight to one block of transformed weights, a chunk at a time.
  const auto pack_panel = [&](int64_t group, int64_t k, float* panel) {
    if (channels.padded() > channels.channels) std::fill_n(panel, layout.size, 0.0f);
    pack_weight(weight + group * c.weight_group, c, layout, k * block, panel);
  };
  const auto transform_chunk = [&](const float* panel, int64_t chunk, float* to) {
    const int64_t first = chunk * weights.chunk;
    weights.transform(
        panel + first * kWinogradTaps * kWinogradTaps * block, lanes * block,
        std::min(weights.chunk, channels.padded() - first), to);
  };
  const bool once = c.groups * target_blocks * block_size * int64_t(sizeof(float)) <= kMostWeights;
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

  const WinogradGrid grid(c.h, c.w, c.N);
  const int64_t bytes = kPoints * (channels.padded() + block) * sizeof(float);
  const int64_t most = std::max<int64_t>(1, std::max(kTileBytes / bytes, kLeastTiles) / grid.width);
  const int64_t blocks = std::min(grid.units, ceil_div(ceil_div(grid.units, most), thread_count()) * thread_count());
  const int64_t tasks_each = std::clamp<int64_t>(ceil_div(2 * thread_count(), c.groups * blocks), 1, target_blocks);
  const int64_t most_tiles = ceil_div(grid.units, blocks) * grid.width;
  const int64_t source_plane = c.h.source * c.w.source, H = c.h.target, W = c.w.target, target_plane = H * W;
  const int64_t target_pixel = c.groups * c.target_channels;
  std::atomic<bool> finite = true;
  parallel_for(c.groups * blocks * tasks_each, multiplications(problem.geometry), [&](int64_t begin, int64_t end) {
    const Scratch<float> points(kPoints * (most_tiles * channels.padded() + kPointGap));
    const Scratch<float> products(kPoints * (most_tiles * block + kPointGap));
    const Scratch<float> panel(once ? 0 : layout.size), own_weights(once ? 0 : weights.chunk_step);
    const Scratch<float> rows(kWinogradOutputs * grid.width * kWinogradOutputs * block);
    const Scratch<float> zeros(block);
    std::fill_n(zeros.data(), block, 0.0f);
    std::vector<WinogradSegment> segments;
    FiniteCheck check;
    int64_t packed = -1;  // the block of tiles and group that points holds
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % tasks_each, tile_block = task / tasks_each % blocks,
                    group = task / (tasks_each * blocks);
      const int64_t unit = tile_block * grid.units / blocks, last_unit = (tile_block + 1) * grid.units / blocks;
      const int64_t tiles = (last_unit - unit) * grid.width;
      const int64_t point_step = tiles * channels.padded() + kPointGap, product_step = tiles * block + kPointGap;
      if (packed != task / tasks_each) {
        packed = task / tasks_each;
        segments = winograd_segments(c.h, c.w, grid, unit, last_unit);
        for (int64_t b = 0; b < channels.count; ++b) {
          transform_tiles<WinogradInput>(
              source + group * c.source_channels * (c.channels_last ? 1 : source_plane), c, grid, segments, b * lanes,
              point_step, lanes, points.data() + b * tiles * lanes);
        }
      }
      const int64_t step = ceil_div(tiles, ceil_div(tiles, kMaxScalars));
      for (int64_t k = share * target_blocks / tasks_each; k < (share + 1) * target_blocks / tasks_each; ++k) {
        if (!once) pack_panel(group, k, panel.data());
        for (int64_t chunk = 0; chunk < weights.chunks; ++chunk) {
          const float* u = transformed.data() + (group * target_blocks + k) * block_size + chunk * weights.chunk_step;
          if (!once) {
            transform_chunk(panel.data(), chunk, own_weights.data());
            u = own_weights.data();
          }
          const int64_t first = chunk * weights.chunk, count = std::min(weights.chunk, channels.padded() - first);
          std::vector<Run> runs;
          for (int64_t i = 0; i < count; i += lanes) runs.push_back({(first + i) * tiles, i * block, lanes});
          for (int point = 0; point < kPoints; ++point) {
            for (int64_t tile = 0; tile < tiles; tile += step) {
              const auto multiply = [&](auto select) {
                select(
                    points.data() + point * point_step + tile * lanes, lanes, runs.data(),
                    static_cast<int64_t>(runs.size()), u + point * weights.point_step, zeros.data(),
                    products.data() + point * product_step + tile * block, block);
              };
              const int64_t scalars = std::min(step, tiles - tile);
              if (chunk == 0) {
                multiply(select_instance<kMaxScalars>(scalars, []<int N>() { return &multiply_tile<float, N>; }));
              } else {
                multiply(select_instance<kMaxScalars>(scalars, []<int N>() { return &multiply_tile<float, N, true>; }));
              }
            }
          }
        }

        const int64_t channel = group * c.target_channels + k * block;
        const int64_t targets = std::min(block, c.target_channels - k * block);
        const float* from = products.data();
        for (const WinogradSegment& segment : segments) {
          for (int64_t i = 0; i < segment.count; ++i) {
            const int64_t row_step = grid.width * kWinogradOutputs * block;
            for (int64_t j = 0; j < grid.width; ++j, from += block) {
              for (int64_t half = 0; half < block; half += lanes) {
                const Vector<float> start =
                    bias == nullptr ? Vector<float>{} : load_partial(bias + channel + half, targets - half);
                transform_tile<WinogradOutput, Vector<float>>(
                    [&](int a, int b)
                        CONVOPS_INLINE_LAMBDA { return load(from + (a * kWinogradPoints + b) * product_step + half); },
                    [&](int a, int b, Vector<float> value) CONVOPS_INLINE_LAMBDA {
                      check.add(value);
                      store(rows.data() + a * row_step + (j * kWinogradOutputs + b) * block + half, value + start);
                    });
              }
            }
            for (int64_t a = 0; a < kWinogradOutputs; ++a) {
              const int64_t h = (segment.row + i) * kWinogradOutputs + a, w = segment.column * kWinogradOutputs;
              if (h >= H) break;
              float* to = target + segment.n * target_pixel * target_plane +
                          (c.channels_last ? (h * W + w) * target_pixel + channel : channel * target_plane + h * W + w);
              write_row(
                  rows.data() + a * row_step, segment.width, targets, c.channels_last, target_pixel, target_plane, to);
            }
          }
        }
      }
    }
    if (!check.all()) finite = false;
  });
  return finite;
}

// The sums over tiles are cut by the geometry alone and added in order, so the result does not depend on the number of
// threads. False if some result is not finite.
inline bool winograd_grad_weight(
    const Conv2dGeometry& geometry, const float* input, const float* grad_output, float* weight) {
  constexpr int64_t lanes = kLanes<float>, block = kBlock<float>;
  constexpr int64_t kTileBytes = 4 << 20, kSumBytes = 16 << 20;
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
  const int64_t sum_size = kPoints * lanes * block;  // of a block of channels and one of targets
  const int64_t slab =
      std::clamp<int64_t>(kSumBytes / (channels.count * sum_size * int64_t(sizeof(float))), 1, target_blocks);

  const WinogradGrid grid(c.h, c.w, c.N);
  const int64_t tile_bytes = kPoints * (channels.padded() + slab * block) * sizeof(float);
  const int64_t most = std::max<int64_t>(1, std::max<int64_t>(kTileBytes / tile_bytes, 56) / grid.width);
  const int64_t blocks = ceil_div(grid.units, most),
                most_tiles = ceil_div(grid.units, std::max<int64_t>(blocks, 1)) * grid.width;
  const Scratch<float> points(kPoints * (most_tiles * channels.padded() + kPointGap));
  const Scratch<float> gradients(slab * kPoints * (most_tiles * block + kPointGap));
  const Scratch<float> sums(slab * channels.count * sum_size);
  const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
  const int64_t work = multiplications(geometry);
  std::atomic<bool> finite = true;
  for (int64_t group = 0; group < c.groups; ++group) {
    const float* x = input + group * c.source_channels * (c.channels_last ? 1 : source_plane);
    const float* g = grad_output + group * c.target_channels * (c.channels_last ? 1 : target_plane);
    for (int64_t k0 = 0; k0 < target_blocks; k0 += slab) {
      const int64_t k_count = std::min(slab, target_blocks - k0);
      const int64_t vectors = ceil_div(std::min(k_count * block, c.target_channels - k0 * block), lanes);
      std::fill_n(sums.data(), k_count * channels.count * sum_size, 0.0f);
      for (int64_t tile_block = 0; tile_block < blocks; ++tile_block) {
        const int64_t unit = tile_block * grid.units / blocks, last_unit = (tile_block + 1) * grid.units / blocks;
        const int64_t tiles = (last_unit - unit) * grid.width;
        const int64_t point_step = tiles * channels.padded() + kPointGap, gradient_step = tiles * block + kPointGap;
        const auto segments = winograd_segments(c.h, c.w, grid, unit, last_unit);
        const auto gradient_segments = winograd_segments(same.h, same.w, grid, unit, last_unit);
        parallel_for(
            channels.count + k_count * 2, work / std::max<int64_t>(1, blocks), [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) {
                if (i < channels.count) {
                  transform_tiles<WinogradInput>(
                      x, c, grid, segments, i * lanes, point_step, lanes, points.data() + i * tiles * lanes);
                } else {
                  const int64_t vector = i - channels.count;
                  float* to = gradients.data() + vector / 2 * kPoints * gradient_step + vector % 2 * lanes;
                  if (vector < vectors) {
                    transform_tiles<WinogradGradOutput>(
                        g, same, grid, gradient_segments, k0 * block + vector * lanes, gradient_step, block, to);
                  } else {
                    for (int64_t j = 0; j < kPoints * tiles; ++j)
                      store(to + j / tiles * gradient_step + j % tiles * block, Vector<float>{});
                  }
                }
              }
            });
        parallel_for(k_count * channels.count, work / std::max<int64_t>(1, blocks), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t k = i / channels.count, b = i % channels.count;
            const int64_t step = ceil_div(lanes, ceil_div(lanes, kMaxScalars));
            for (int point = 0; point < kPoints; ++point) {
              const float* row = points.data() + point * point_step + b * tiles * lanes;
              for (int64_t m = 0; m < lanes; m += step) {
                select_instance<kMaxScalars>(
                    std::min(step, lanes - m), []<int N>() { return &accumulate_outer<float, N>; })(
                    &row, m, lanes, gradients.data() + (k * kPoints + point) * gradient_step, tiles, 1, tiles,
                    sums.data() + (i * kPoints + point) * lanes * block + m * block);
              }
            }
          }
        });
      }
      parallel_for(k_count, k_count * channels.count * sum_size, [&](int64_t begin, int64_t end) {
        const Scratch<float> panel(layout.size);
        FiniteCheck check;
        for (int64_t k = begin; k < end; ++k) {
          for (int64_t i = 0; i < channels.padded() * block; i += lanes) {
            const int64_t b = i / (lanes * block), at = i % (lanes * block);
            const float* from = sums.data() + (k * channels.count + b) * sum_size + at;
            float* to = panel.data() + b * kWinogradTaps * kWinogradTaps * lanes * block + at;
            transform_tile<WinogradGradWeight, Vector<float>>(
                [&](int r, int s)
                    CONVOPS_INLINE_LAMBDA { return load(from + (r * kWinogradPoints + s) * lanes * block); },
                [&](int r, int s, Vector<float> value) CONVOPS_INLINE_LAMBDA {
                  check.add(value);
                  store(to + (r * kWinogradTaps + s) * lanes * block, value);
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

inline void winograd(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const auto input = static_cast<float*>(arguments.input);
  const auto weight = static_cast<float*>(arguments.weight);
  const auto output = static_cast<float*>(arguments.output);
  const auto bias = static_cast<const float*>(arguments.bias);
  const bool finite = problem.pass == Conv2dPass::forward ? winograd_correlate(problem, input, weight, bias, output)
                      : problem.pass == Conv2dPass::grad_input
                          ? winograd_correlate(problem, output, weight, bias, input)
                          : winograd_grad_weight(problem.geometry, input, output, weight);
  if (!finite) implicit_gemm<float>(problem, arguments);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
