// Grouped convolution with few channels a group, over vectors of target channels: of channels_last images in place, of
// others by way of a band of rows gathered into vectors.
//
// A vector of targets holds the filters of as many neighbouring groups as fit. Each of its lanes sums over the `depth`
// source channels of its group, so for each of these, a vector that has every group's channel in all of the group's
// lanes is multiplied by one of weights: no lane is empty and no image is packed. That vector is one permutation of the
// pixel's source channels, which the groups of a vector have next to each other; where a vector holds one group it is a
// broadcast from memory. The blocks are depthwise_channels.h's, with a loop over the depth inside the rows of the
// kernel. A 3x3 block of 14 targets permutes 16 pixels for 42 FMAs. Where both take the same port (512 bits: one of the
// two FMA units) that is 72 % of the peak at most; a broadcast takes none.
//
// FLOPs: 2 N K P Q (C / groups) R S, 144 a value of the output for 3x3 with 8 channels a group. Reached of the peak of
// FMAs for 3x3, in place: 35 % with 4 channels a group, 50 % with 8, 60 % with 16; grad_weight 30, 40 and 60 %. A 16 x
// 16 transposition of contiguous planes costs as much as 8 FMAs a vector, each way.
#pragma once

#include "depthwise_channels.h"

namespace convops {
namespace CONVOPS_ISA {

// How the channels of the groups fill vectors. A unit is what reads the same source channels: a vector of some whole
// groups or the vectors of one group.
template <typename T>
struct GroupedVectors {
  explicit GroupedVectors(const Correlation& c)
      : all_groups(c.groups), depth(c.source_channels), targets(c.target_channels) {
    constexpr int64_t lanes = kLanes<T>;
    groups = std::clamp<int64_t>(lanes / std::max<int64_t>(1, std::max(depth, targets)), 1, all_groups);
    vectors = groups > 1 ? 1 : ceil_div(targets, lanes);
    units = ceil_div(all_groups, groups);
    source_width = ceil_div(groups * depth, lanes) * lanes;
  }
  int64_t groups_of(int64_t unit) const { return std::min(groups, all_groups - unit * groups); }
  int64_t targets_of(int64_t unit) const { return groups_of(unit) * targets; }
  // Whether whole vectors of neighbouring channels are whole units.
  bool fills_vectors() const {
    constexpr int64_t lanes = kLanes<T>;
    return groups > 1 ? groups * depth == lanes && groups * targets == lanes && all_groups % groups == 0
                      : targets % lanes == 0;
  }

  int64_t all_groups, depth, targets;  // targets of a group
  int64_t groups, vectors, units;      // of a unit, of a unit, in all
  int64_t source_width;                // of a pixel of a unit, in whole vectors
};

// The channels of some neighbouring units in an image.
template <typename scalar_t>
struct UnitsImage {
  using acc_t = Compute<std::remove_const_t<scalar_t>>;
  static constexpr int64_t lanes = kLanes<acc_t>;

  // Packs rows [begin, end) as [unit][row][column][width], the channels beyond a unit's last as zeros.
  void gather(int64_t begin, int64_t end, int64_t width, int64_t pitch, acc_t* packed) const {
    for_each_vector(begin, end, width, [&](int64_t unit, int64_t i, int64_t count, int64_t p, scalar_t* from) {
      acc_t* const to = packed + unit * pitch + p * width + i;
      if (channels_last) return store(to, load_partial(from, count));
      transpose_tile(
          from, H * W, count, std::min(lanes, (end - begin) * W - p),
          [&](int64_t j, Vector<acc_t> values) CONVOPS_INLINE_LAMBDA { store(to + j * width, values); });
    });
  }

  // Writes such rows back.
  void scatter(const acc_t* packed, int64_t begin, int64_t end, int64_t width, int64_t pitch) const {
    for_each_vector(begin, end, width, [&](int64_t unit, int64_t i, int64_t count, int64_t p, scalar_t* to) {
      const acc_t* const from = packed + unit * pitch + p * width + i;
      if (channels_last) return store_partial(to, load(from), count);
      store_transposed(
          std::min(lanes, (end - begin) * W - p), 0, count,
          [&](int64_t j) CONVOPS_INLINE_LAMBDA { return load(from + j * width); }, H * W, to);
    });
  }

  // Calls visit(unit, channel of the unit, how many from that on, pixel of the rows, where it is) for vectors of
  // channels: of each pixel in the order of memory, or of the first of as many pixels.
  template <typename Visit>
  CONVOPS_INLINE void for_each_vector(int64_t begin, int64_t end, int64_t width, const Visit& visit) const {
    const int64_t pixels = (end - begin) * W, units = ceil_div(channels, unit_channels);
    const auto visit_unit = [&](int64_t unit, int64_t p, scalar_t* at, int64_t channel_step) CONVOPS_INLINE_LAMBDA {
      const int64_t first = unit * unit_channels, count = std::min(unit_channels, channels - first);
      for (int64_t i = 0; i < width; i += lanes) {
        visit(unit, i, std::clamp<int64_t>(count - i, 0, lanes), p, at + (first + i) * channel_step);
      }
    };
    if (channels_last) {
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t unit = 0; unit < units; ++unit) visit_unit(unit, p, data + (begin * W + p) * pixel, 1);
      }
    } else {
      for (int64_t unit = 0; unit < units; ++unit) {
        for (int64_t p = 0; p < pixels; p += lanes) visit_unit(unit, p, data + begin * W + p, H * W);
      }
    }
  }

  scalar_t* data;  // the first channel's first pixel
  int64_t H, W, unit_channels;
  int64_t channels;  // of all units, of which the last may have fewer
  int64_t pixel;     // channels of a whole pixel
  bool channels_last;
};

template <typename T>
struct GroupedBlocks : DepthwiseBlocks<T> {
  const LaneInt<T>* lane_of;  // [channel of a group][lane]: which of the source's a lane of a target reads
  int64_t unit_vectors;
  int64_t source_unit, target_vector;  // elements from one unit's source, or vector of targets, to the next
};

// Reads a pixel: channel i of the depth in all lanes of its group.
template <typename T, bool kPermuted>
struct ChannelReader {
  CONVOPS_INLINE ChannelReader(const GroupedBlocks<T>& b, int64_t i)
      : channel(i), lane_of(bit_cast<Vector<LaneInt<T>>>(load(b.lane_of + i * kLanes<T>))) {}
  CONVOPS_INLINE Vector<T> operator()(const T* pixel) const {
    if constexpr (kPermuted) {
      return permute<T>(load(pixel), lane_of);
    } else {
      return broadcast(pixel[channel]);
    }
  }

  int64_t channel;
  Vector<LaneInt<T>> lane_of;
};

template <typename T, bool kPermuted, int kPixels, int kTaps, bool kMostlyInside>
void correlate_grouped_pixels(const GroupedBlocks<T>& b) {
  constexpr int lanes = kLanes<T>;
  const int64_t depth_size = b.filter_size / b.depth;
  for (int64_t target_row = b.begin; target_row < b.end; ++target_row) {
    for (int64_t vector = b.vector_begin; vector < b.vector_end; ++vector) {
      const T* const source = b.source + vector / b.unit_vectors * b.source_unit;
      const Vector<T> start = load(b.bias + vector * lanes);
      Vector<T> sum[kPixels];
#pragma GCC unroll 14
      for (int j = 0; j < kPixels; ++j) sum[j] = start;
      for_each_run<kTaps>(
          b, target_row, static_cast<const T*>(b.filters + vector * b.filter_size),
          [&](const T* filter, int64_t row, int64_t offset, auto run) CONVOPS_INLINE_LAMBDA {
            constexpr int taps = run, count = kPixels + taps - 1;
            for (int64_t i = 0; i < b.depth; ++i, filter += depth_size) {
              const ChannelReader<T, kPermuted> read(b, i);
              Vector<T> w[taps];
#pragma GCC unroll 7
              for (int t = 0; t < taps; ++t) w[t] = load(filter + t * lanes);
              for_each_pixel<count, kMostlyInside ? taps / 2 : count>(
                  b, source + row, offset, read, [&](int j, Vector<T> x) CONVOPS_INLINE_LAMBDA {
                    CONVOPS_PIN(x);  // made once, not by each FMA
#pragma GCC unroll 7
                    for (int t = 0; t < taps; ++t) {
                      if (j - t >= 0 && j - t < kPixels) sum[j - t] += x * w[t];
                    }
                  });
            }
          });
      T* const to = b.target + target_row * b.target_row + vector * b.target_vector;
#pragma GCC unroll 14
      for (int j = 0; j < kPixels; ++j) store(to + j * b.target_step, sum[j]);
    }
  }
}

// filters += the pixels times the gradients of the targets that read them.
template <typename T, bool kPermuted, int kPixels, int kTaps, bool kMostlyInside>
void correlate_grouped_gradients(const GroupedBlocks<T>& b) {
  constexpr int lanes = kLanes<T>;
  const int64_t depth_size = b.filter_size / b.depth;
  for (int64_t target_row = b.begin; target_row < b.end; ++target_row) {
    for (int64_t vector = b.vector_begin; vector < b.vector_end; ++vector) {
      const T* const source = b.source + vector / b.unit_vectors * b.source_unit;
      const T* const from = b.target + target_row * b.target_row + vector * b.target_vector;
      Vector<T> gradient[kPixels];
#pragma GCC unroll 14
      for (int j = 0; j < kPixels; ++j) gradient[j] = load(from + j * b.target_step);
      for_each_run<kTaps>(
          b, target_row, b.filters + vector * b.filter_size,
          [&](T* sums, int64_t row, int64_t offset, auto run) CONVOPS_INLINE_LAMBDA {
            constexpr int taps = run, count = kPixels + taps - 1;
            for (int64_t i = 0; i < b.depth; ++i, sums += depth_size) {
              const ChannelReader<T, kPermuted> read(b, i);
              // Sums of their own, added to what there is: long sums in turn would round more.
              Vector<T> low[taps] = {}, high[taps] = {};
              for_each_pixel<count, kMostlyInside ? taps / 2 : count>(
                  b, source + row, offset, read, [&](int j, Vector<T> x) CONVOPS_INLINE_LAMBDA {
                    CONVOPS_PIN(x);  // made once, not by each FMA
#pragma GCC unroll 7
                    for (int t = 0; t < taps; ++t) {
                      if (j - t >= 0 && j - t < kPixels) (j < (count + 1) / 2 ? low : high)[t] += x * gradient[j - t];
                    }
                  });
#pragma GCC unroll 7
              for (int t = 0; t < taps; ++t) store(sums + t * lanes, load(sums + t * lanes) + (low[t] + high[t]));
            }
          });
    }
  }
}

template <typename T>
void correlate_grouped(const ChannelPlan& plan, const GroupedBlocks<T>& blocks, bool permuted) {
  for_each_tile(plan, blocks, [=](const GroupedBlocks<T>& b, const ChannelTile& tile) {
    select_blocks(
        tile.pixels, b.taps->run_taps, tile.inside_but_edges, [=]<int kPixels, int kTaps, bool kMostlyInside>() {
          return permuted ? &correlate_grouped_pixels<T, true, kPixels, kTaps, kMostlyInside>
                          : &correlate_grouped_pixels<T, false, kPixels, kTaps, kMostlyInside>;
        })(b);
  });
}

template <typename T>
void correlate_grouped_gradient(const ChannelPlan& plan, const GroupedBlocks<T>& blocks, bool permuted) {
  for_each_tile(plan, blocks, [=](const GroupedBlocks<T>& b, const ChannelTile& tile) {
    select_blocks(
        tile.pixels, b.taps->run_taps, tile.inside_but_edges, [=]<int kPixels, int kTaps, bool kMostlyInside>() {
          return permuted ? &correlate_grouped_gradients<T, true, kPixels, kTaps, kMostlyInside>
                          : &correlate_grouped_gradients<T, false, kPixels, kTaps, kMostlyInside>;
        })(b);
  });
}

// What all images and units of a problem share.
template <typename scalar_t>
class GroupedPlan {
  using acc_t = Compute<scalar_t>;
  static constexpr int64_t lanes = kLanes<acc_t>;

 public:
  GroupedPlan(const Correlation& c, bool disjoint)
      : c(c), vectors(c), plan(c, disjoint), in_place(reads_in_place()), lane_of(c.source_channels * lanes) {
    for (int64_t i = 0; i < vectors.depth; ++i) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t group = std::min(lane / std::max<int64_t>(1, vectors.targets), vectors.groups - 1);
        lane_of[i * lanes + lane] = static_cast<LaneInt<acc_t>>((group * vectors.depth + i) % lanes);
      }
    }
  }

  bool reads_in_place() const { return std::is_same_v<scalar_t, acc_t> && c.channels_last && vectors.fills_vectors(); }
  bool permuted() const { return vectors.groups > 1; }
  int64_t filter_size() const { return vectors.depth * plan.size() * lanes; }
  int64_t unit_size() const { return vectors.vectors * filter_size(); }

  // A row of targets and what it reads, of some gathered units.
  int64_t row_bytes(int64_t units) const { return units * bytes(vectors.source_width, vectors.vectors * lanes); }
  // The same of channels of both that are read in place.
  int64_t bytes(int64_t source_channels, int64_t target_channels) const {
    const int64_t rows = std::min(c.h.source_step, c.h.source);  // that the next row of targets reads anew
    const int64_t elements = c.w.target * target_channels + c.w.source * source_channels * rows / c.h.target_step;
    return std::max<int64_t>(1, elements * static_cast<int64_t>(sizeof(acc_t)));
  }

  // The blocks of a unit of gathered images, or in place of all units.
  GroupedBlocks<acc_t> blocks() const {
    GroupedBlocks<acc_t> b{};
    b.channels = lanes;
    b.depth = vectors.depth;
    b.lane_of = lane_of.data();
    b.unit_vectors = vectors.vectors;
    if (in_place) {
      b.vector_end = vectors.units * vectors.vectors;
      b.pixel = c.groups * vectors.depth;
      b.target_step = c.groups * vectors.targets;
      b.source_unit = vectors.groups * vectors.depth;
      b.target_vector = lanes;
    } else {
      b.vector_end = vectors.vectors;
      b.pixel = vectors.source_width;
      b.target_step = vectors.vectors * lanes;
      b.source_unit = 0;
      b.target_vector = lanes;
    }
    return b;
  }

  // The channels of an image that some units read and write.
  template <typename value_t>
  UnitsImage<value_t> source_image(value_t* data, int64_t n, int64_t first_unit, int64_t last_unit) const {
    return units_image(data, n, first_unit, last_unit, c.h.source, c.w.source, vectors.depth);
  }
  template <typename value_t>
  UnitsImage<value_t> target_image(value_t* data, int64_t n, int64_t first_unit, int64_t last_unit) const {
    return units_image(data, n, first_unit, last_unit, c.h.target, c.w.target, vectors.targets);
  }

  // Units that are gathered together: of channels_last images some lines of each pixel, which follow each other.
  int64_t units_together() const {
    constexpr int64_t kLines = 8;
    return c.channels_last ? std::min(vectors.units, ceil_div(kLines * lanes, vectors.source_width)) : 1;
  }

  // A band of rows of targets: the rows of the source that they read, in order, and which of these each tap reads.
  struct Band {
    std::vector<int64_t> sources;
    std::vector<RowTap> rows;
  };
  Band band(int64_t first, int64_t last) const {
    const auto* const rows = plan.rows.data();
    Band result{{}, {rows + plan.row_begin[first], rows + plan.row_begin[last]}};
    auto& sources = result.sources;
    for (const RowTap& row : result.rows) sources.push_back(row.source);
    std::sort(sources.begin(), sources.end());
    sources.erase(std::unique(sources.begin(), sources.end()), sources.end());
    for (RowTap& row : result.rows) {
      row.source = std::lower_bound(sources.begin(), sources.end(), row.source) - sources.begin();
    }
    return result;
  }

  // Calls visit(i, tap, lane, weights of the lanes from that on, how many) for source channel i of a unit's vector.
  template <typename Visit>
  void for_each_weight(int64_t unit, int64_t vector, const scalar_t* weight, const Visit& visit) const {
    const int64_t taps = c.h.kernel * c.w.kernel, first = vector * lanes;
    const int64_t count = std::min(lanes, vectors.targets - first);
    for (int64_t group = 0; group < vectors.groups_of(unit); ++group) {
      const int64_t lane = group * vectors.targets;
      const scalar_t* from = weight + (unit * vectors.groups + group) * c.weight_group + first * c.weight_target;
      if (c.weight_target == 1) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          for (int64_t i = 0; i < vectors.depth; ++i) {
            visit(i, tap, lane, load_partial(from + tap * c.weight_column + i * c.weight_source, count), count);
          }
        }
        continue;
      }
      // What is contiguous for one target: taps inside channels, channels inside taps, or taps alone.
      const bool channels_inside = c.weight_source == 1 && c.weight_column != 1;
      const bool whole = channels_inside || c.weight_source == taps;
      const int64_t length = whole ? vectors.depth * taps : taps;
      for (int64_t o = 0; o < (whole ? 1 : vectors.depth); ++o) {
        for (int64_t e = 0; e < length; e += lanes) {
          transpose_tile(
              from + o * c.weight_source + e, c.weight_target, count, std::min(lanes, length - e),
              [&](int64_t j, Vector<acc_t> weights) {
                if (channels_inside) {
                  visit((e + j) % vectors.depth, (e + j) / vectors.depth, lane, weights, count);
                } else {
                  visit(o + (e + j) / taps, (e + j) % taps, lane, weights, count);
                }
              });
        }
      }
    }
  }

  void pack_weight(int64_t unit, const scalar_t* weight, acc_t* filters) const {
    std::fill_n(filters, unit_size(), acc_t(0));
    for (int64_t vector = 0; vector < vectors.vectors; ++vector, filters += filter_size()) {
      for_each_weight(
          unit, vector, weight, [&](int64_t i, int64_t tap, int64_t lane, Vector<acc_t> weights, int64_t count) {
            if (plan.of_tap[tap] < 0) return;
            store_partial(filters + (i * plan.size() + plan.of_tap[tap]) * lanes + lane, weights, count);
          });
    }
  }

  // The weight's gradient from sums in that order: that of a forward plan, in which every tap is.
  void unpack_weight(int64_t unit, const acc_t* sums, scalar_t* weight) const {
    const int64_t taps = c.h.kernel * c.w.kernel;
    const bool channels_inside = c.weight_column != 1;
    for (int64_t vector = 0; vector < vectors.vectors; ++vector, sums += filter_size()) {
      store_transposed(
          vectors.depth * taps, 0, std::min(lanes, vectors.targets_of(unit) - vector * lanes),
          [&](int64_t e) CONVOPS_INLINE_LAMBDA {
            const int64_t i = channels_inside ? e % vectors.depth : e / taps;
            const int64_t tap = channels_inside ? e / vectors.depth : e % taps;
            return load(sums + (i * plan.size() + plan.of_tap[tap]) * lanes);
          },
          c.weight_target, weight + unit * vectors.groups * c.weight_group + vector * lanes * c.weight_target);
    }
  }

  template <typename value_t>
  UnitsImage<value_t> units_image(
      value_t* data, int64_t n, int64_t first_unit, int64_t last_unit, int64_t H, int64_t W, int64_t channels) const {
    const int64_t pixel = c.groups * channels, unit = vectors.groups * channels, first = first_unit * unit;
    return {
        data + n * pixel * H * W + first * (c.channels_last ? 1 : H * W),
        H,
        W,
        unit,
        std::min(last_unit * unit, pixel) - first,
        pixel,
        c.channels_last};
  }

  Correlation c;
  GroupedVectors<acc_t> vectors;
  ChannelPlan plan;
  bool in_place;
  std::vector<LaneInt<acc_t>> lane_of;
};

// The rows of some units' sources that a band of rows of targets reads, gathered, and room for the targets.
template <typename scalar_t>
class GatheredBand {
  using acc_t = Compute<scalar_t>;
  static constexpr int64_t lanes = kLanes<acc_t>;

 public:
  GatheredBand(
      const GroupedPlan<scalar_t>& plan, const UnitsImage<const scalar_t>& image, int64_t first, int64_t last,
      int64_t units)
      : band_(plan.band(first, last)),
        rows_(band_.rows.data() - plan.plan.row_begin[first]),
        target_width(plan.vectors.vectors * lanes),
        target_pitch((last - first) * plan.c.w.target * target_width),
        first_target_(first * plan.c.w.target * target_width),
        source_pitch_(static_cast<int64_t>(band_.sources.size()) * image.W * plan.vectors.source_width),
        sources_(units * source_pitch_),
        targets(units * target_pitch) {
    const auto& sources = band_.sources;
    for (size_t begin = 0, end = 0; begin < sources.size(); begin = end) {
      for (end = begin + 1; end < sources.size() && sources[end] == sources[end - 1] + 1;) ++end;
      image.gather(
          sources[begin], sources[end - 1] + 1, plan.vectors.source_width, source_pitch_,
          sources_.data() + static_cast<int64_t>(begin) * image.W * plan.vectors.source_width);
    }
  }

  // Lets blocks read and write a unit.
  void place(int64_t unit, GroupedBlocks<acc_t>& blocks) const {
    blocks.source = sources_.data() + unit * source_pitch_;
    blocks.rows = rows_;
    blocks.target = targets.data() + unit * target_pitch - first_target_;
  }

 private:
  typename GroupedPlan<scalar_t>::Band band_;
  const RowTap* rows_;

 public:
  const int64_t target_width;  // elements of a pixel, and from a unit to the next
  const int64_t target_pitch;

 private:
  int64_t first_target_, source_pitch_;
  Scratch<acc_t> sources_;

 public:
  const Scratch<acc_t> targets;  // [unit][row][column][target_width]
};

// Forward and grad_input (see correlation.h).
template <typename scalar_t>
void grouped_correlate(
    const Correlation& c, int64_t work, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  const GroupedPlan<scalar_t> plan(c, false);
  const auto& vectors = plan.vectors;
  const int64_t unit_size = plan.unit_size(), unit_lanes = vectors.vectors * lanes;
  const Scratch<acc_t> filters(vectors.units * unit_size), start(vectors.units * unit_lanes);
  parallel_for(vectors.units, vectors.units * unit_size, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      plan.pack_weight(unit, weight, filters.data() + unit * unit_size);
      const int64_t first = unit * vectors.groups * vectors.targets;
      for (int64_t i = 0; i < unit_lanes; ++i) {
        start[unit * unit_lanes + i] =
            bias != nullptr && i < vectors.targets_of(unit) ? widen(bias[first + i]) : acc_t(0);
      }
    }
  });

  const int64_t H = c.h.target, W = c.w.target;
  const int64_t source_channels = c.groups * vectors.depth, target_channels = c.groups * vectors.targets;
  const int64_t source_image = c.h.source * c.w.source * source_channels, target_image = H * W * target_channels;
  constexpr int64_t kBytes = 512 << 10, kItems = 64;
  // Bands of rows that stay in the second cache: of all channels where they are read in place, else of some units.
  const int64_t together = plan.units_together(), shares = plan.in_place ? 1 : ceil_div(vectors.units, together);
  const int64_t row_bytes = plan.in_place ? plan.bytes(source_channels, target_channels) : plan.row_bytes(together);
  const int64_t band =
      std::clamp<int64_t>(std::min(kBytes / row_bytes, std::max<int64_t>(8, ceil_div(c.N * shares * H, kItems))), 1, H);
  const int64_t bands = ceil_div(H, band);
  parallel_for(c.N * shares * bands, work, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (shares * bands), share = item / bands % shares;
      const int64_t first = item % bands * H / bands, last = (item % bands + 1) * H / bands;
      auto blocks = plan.blocks();
      blocks.begin = first, blocks.end = last;
      if constexpr (std::is_same_v<scalar_t, acc_t>) {
        if (plan.in_place) {
          blocks.filters = filters.data();
          blocks.bias = start.data();
          blocks.source = source + n * source_image;
          blocks.target = target + n * target_image;
          correlate_grouped(plan.plan, blocks, plan.permuted());
          continue;
        }
      }
      const int64_t first_unit = share * vectors.units / shares, last_unit = (share + 1) * vectors.units / shares;
      const GatheredBand<scalar_t> gathered(
          plan, plan.source_image(source, n, first_unit, last_unit), first, last, last_unit - first_unit);
      for (int64_t unit = first_unit; unit < last_unit; ++unit) {
        blocks.filters = filters.data() + unit * unit_size;
        blocks.bias = start.data() + unit * unit_lanes;
        gathered.place(unit - first_unit, blocks);
        correlate_grouped(plan.plan, blocks, plan.permuted());
      }
      plan.target_image(target, n, first_unit, last_unit)
          .scatter(gathered.targets.data(), first, last, gathered.target_width, gathered.target_pitch);
    }
  });
}

template <typename scalar_t>
void grouped_grad_weight(
    const Correlation& c, int64_t work, const scalar_t* input, const scalar_t* grad_output, scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  const GroupedPlan<scalar_t> plan(c, true);
  const auto& vectors = plan.vectors;
  const int64_t unit_size = plan.unit_size(), size = vectors.units * unit_size;
  const int64_t P = c.h.target, Q = c.w.target;
  const int64_t source_channels = c.groups * vectors.depth, target_channels = c.groups * vectors.targets;
  const int64_t source_image = c.h.source * c.w.source * source_channels, target_image = P * Q * target_channels;
  // Slices of rows of targets, fixed by the geometry and added in order; each is cut into shares of the units. More
  // slices than threads need cost more than they bring: a slice is as large as the weight, in fresh pages.
  constexpr int64_t kItems = 16, kSliceBytes = 32 << 20, kBandBytes = 512 << 10;
  const int64_t shares = plan.in_place ? std::clamp<int64_t>(source_channels / 128, 1, std::min(vectors.units, kItems))
                                       : ceil_div(vectors.units, plan.units_together());
  const int64_t most = kSliceBytes / std::max<int64_t>(1, size * static_cast<int64_t>(sizeof(acc_t)));
  const int64_t slices = std::clamp<int64_t>(std::min({ceil_div(kItems, shares), most, c.N * P / 8}), 1, kItems);
  const int64_t row_bytes = plan.in_place ? plan.bytes(source_channels / shares, target_channels / shares)
                                          : plan.row_bytes(plan.units_together());
  const int64_t band = std::clamp<int64_t>(kBandBytes / row_bytes, 1, P);
  const Scratch<acc_t> sums(slices * size);
  parallel_for(slices * shares, work, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t slice = item / shares, share = item % shares;
      const int64_t first_unit = share * vectors.units / shares, last_unit = (share + 1) * vectors.units / shares;
      acc_t* const slice_sums = sums.data() + slice * size;
      std::fill(slice_sums + first_unit * unit_size, slice_sums + last_unit * unit_size, acc_t(0));
      const int64_t rows_end = (slice + 1) * c.N * P / slices;
      for (int64_t row = slice * c.N * P / slices; row < rows_end;) {
        const int64_t n = row / P, first = row % P, last = std::min({rows_end - n * P, first + band, P});
        row = n * P + last;
        auto blocks = plan.blocks();
        blocks.filters = slice_sums;
        blocks.begin = first, blocks.end = last;
        if constexpr (std::is_same_v<scalar_t, acc_t>) {
          if (plan.in_place) {
            blocks.vector_begin = first_unit * vectors.vectors, blocks.vector_end = last_unit * vectors.vectors;
            blocks.source = input + n * source_image;
            blocks.target = const_cast<scalar_t*>(grad_output) + n * target_image;
            correlate_grouped_gradient(plan.plan, blocks, plan.permuted());
            continue;
          }
        }
        const GatheredBand<scalar_t> gathered(
            plan, plan.source_image(input, n, first_unit, last_unit), first, last, last_unit - first_unit);
        plan.target_image(grad_output, n, first_unit, last_unit)
            .gather(first, last, gathered.target_width, gathered.target_pitch, gathered.targets.data());
        for (int64_t unit = first_unit; unit < last_unit; ++unit) {
          blocks.filters = slice_sums + unit * unit_size;
          gathered.place(unit - first_unit, blocks);
          correlate_grouped_gradient(plan.plan, blocks, plan.permuted());
        }
      }
    }
  });

  parallel_for(vectors.units, slices * size, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      acc_t* const sum = sums.data() + unit * unit_size;
      for (int64_t slice = 1; slice < slices; ++slice) {
        const acc_t* const part = sum + slice * size;
        for (int64_t i = 0; i < unit_size; i += lanes) store(sum + i, load(sum + i) + load(part + i));
      }
      plan.unpack_weight(unit, sum, grad_weight);
    }
  });
}

template <typename scalar_t>
void grouped_channels(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const Correlation c = ordered_correlation(problem);
  const int64_t work = multiplications(problem.geometry);
  run_pass<scalar_t>(
      problem, arguments, [&](auto... operands) { grouped_correlate<scalar_t>(c, work, operands...); },
      [&](auto... operands) { grouped_grad_weight<scalar_t>(c, work, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
