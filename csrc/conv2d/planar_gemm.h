// Planar implicit GEMM: the matrix product of implicit_gemm.h turned on its side. Vectors hold neighbouring pixels of a
// plane and filters are the scalars, so that any number of target channels fills the vectors: contiguous images need no
// transposition, an image filter or the gradient of a first layer's input (1 to 4 target channels) wastes no lanes, and
// neither does a grouped convolution with few channels a group.
//
// A tile of the source is packed as planes [channel][row][slot] (slots as in packing.h). A tile of F filters times V
// vectors of pixels is kept in registers over all channels and taps; a step costs F * V FMAs and loads F scalars and V
// vectors, half of which cross a cache line where a tap is off by an odd number of pixels. With 14 x 2 or 4 x 6 tiles
// the FMA units bind, with 1 x 8 the loads.
//
// grad_weight is a product of rows: the planes of the gradient times the shifted planes of the source, vectors of
// pixels on both sides, whose lanes are added up at the end of a tile.
#pragma once

#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

// Vectors of pixels beside `scalars` filters: accumulators, a vector of the source each and one broadcast.
constexpr int pixel_vectors(int scalars) {
  const int most = (kVectorRegisters - 1) / (scalars + 1);
  return most < 8 ? most : 8;
}

// out[f][0 : count] = init[f] + sum over runs and their steps i of source[run.source + offsets[i] + ...] *
// panel[(run.weight + i) * kScalars + f]. Reads kVectors whole vectors whatever the count.
template <typename scalar_t, int kScalars, int kVectors>
void multiply_planes(
    const Compute<scalar_t>* source, const int64_t* offsets, const Run* runs, int64_t run_count,
    const Compute<scalar_t>* panel, const Compute<scalar_t>* init, int64_t count, scalar_t* out, int64_t out_step) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> sum[kScalars][kVectors];
#pragma GCC unroll 16
  for (int f = 0; f < kScalars; ++f) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[f][v] = broadcast(init[f]);
  }
  for (const Run* run = runs; run < runs + run_count; ++run) {
    const acc_t* from = source + run->source;
    const acc_t* w = panel + run->weight * kScalars;
    for (int64_t i = 0; i < run->length; ++i, w += kScalars) {
      const acc_t* at = from + offsets[i];
      Vector<acc_t> x[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) x[v] = load(at + v * lanes);
#pragma GCC unroll 16
      for (int f = 0; f < kScalars; ++f) {
        Vector<acc_t> b = broadcast(w[f]);
        CONVOPS_PIN(b);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[f][v] += b * x[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int f = 0; f < kScalars; ++f) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store_partial(out + f * out_step + v * lanes, sum[f][v], count - v * lanes);
  }
}

template <typename scalar_t>
using MultiplyPlanes = void (*)(
    const Compute<scalar_t>*, const int64_t*, const Run*, int64_t, const Compute<scalar_t>*, const Compute<scalar_t>*,
    int64_t, scalar_t*, int64_t);

template <typename scalar_t>
MultiplyPlanes<scalar_t> multiply_planes_instance(int64_t scalars, int64_t vectors) {
  return select_instance<kMaxScalars>(scalars, []<int F>() {
    return +[](int64_t n) {
      return select_instance<pixel_vectors(F)>(n, []<int V>() { return &multiply_planes<scalar_t, F, V>; });
    };
  })(vectors);
}

// Some channels of one image.
template <typename scalar_t>
struct Planes {
  scalar_t* data;  // the first channel's first pixel
  int64_t channels, height, width;
  int64_t pixel;  // channels of a whole pixel
  bool channels_last;

  scalar_t* row(int64_t channel, int64_t h) const {
    return channels_last ? data + h * width * pixel + channel : data + (channel * height + h) * width;
  }
};

// Puts the columns [columns.source_begin, columns.source_end) of a row into their slots.
template <typename scalar_t>
void place_row(const scalar_t* from, const TileColumns& columns, Compute<scalar_t>* row) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  const int64_t stretch = columns.source_end - columns.source_begin;
  const int32_t* slot_of = columns.slot_of_source.data();
  int64_t w = 0;
  if (columns.in_order) {
    if (stretch <= 0) return;
    for (; w < stretch; w += lanes)
      store_partial(row + slot_of[0] + w, load_partial(from + w, stretch - w), stretch - w);
    return;
  }
  // With a source step of 2, the even lanes of two vectors follow each other, and so do the odd ones.
  for (; columns.source_step == 2 && w + 2 * lanes <= stretch; w += 2 * lanes) {
    const int32_t even = slot_of[w], odd = slot_of[w + 1];
    const bool all_even = even >= 0 && slot_of[w + 2 * lanes - 2] == even + lanes - 1;
    const bool all_odd = odd >= 0 && slot_of[w + 2 * lanes - 1] == odd + lanes - 1;
    if (!all_even && !all_odd) break;
    const Vector<acc_t> a = load(from + w), b = load(from + w + lanes);
    if (all_even) store(row + even, unzip<false, acc_t>(a, b));
    if (all_odd) store(row + odd, unzip<true, acc_t>(a, b));
    for (int64_t i = all_even ? 1 : 0; !(all_even && all_odd) && i < 2 * lanes; i += 2) {
      if (slot_of[w + i] >= 0) row[slot_of[w + i]] = widen(from[w + i]);
    }
  }
  for (; w < stretch; ++w) {
    if (slot_of[w] >= 0) row[slot_of[w]] = widen(from[w]);
  }
}

// Packs a tile as packed[channel * pitch + row * columns.slots + slot].
template <typename scalar_t>
void pack_planes(
    const Planes<const scalar_t>& image, const TileRows& rows, const TileColumns& columns, int64_t pitch,
    Compute<scalar_t>* packed) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t stretch = columns.source_end - columns.source_begin;
  const int64_t column_step = image.channels_last ? image.pixel : 1;
  const Scratch<acc_t> line(image.channels_last && !columns.in_order ? lanes * stretch : 0);
  for (size_t r = 0; r < rows.source.size(); ++r) {
    acc_t* row = packed + static_cast<int64_t>(r) * columns.slots;
    const int64_t h = rows.source[r];
    if (r + 1 == rows.source.size()) {
      // Multiplied, though not stored, by the vectors that reach beyond the last row: no accident of memory may be so
      // small a number that it slows them down.
      for (int64_t channel = 0; channel < image.channels; ++channel) {
        acc_t* end = packed + channel * pitch + static_cast<int64_t>(r + 1) * columns.slots;
        std::fill(end, packed + (channel + 1) * pitch, acc_t(0));
      }
    }
    for (const auto& [slot, column] : columns.outside) {
      for (int64_t channel = 0; channel < image.channels; ++channel) {
        row[channel * pitch + slot] = column < 0 ? acc_t(0) : widen(image.row(channel, h)[column * column_step]);
      }
    }
    if (!image.channels_last) {
      for (int64_t channel = 0; channel < image.channels; ++channel) {
        place_row(image.row(channel, h) + columns.source_begin, columns, row + channel * pitch);
      }
      continue;
    }
    for (int64_t channel = 0; channel < image.channels; channel += lanes) {
      const int64_t count = std::min<int64_t>(lanes, image.channels - channel);
      acc_t* to = row + channel * pitch;
      for (int64_t w = 0; w < stretch; w += lanes) {
        const int64_t width = std::min<int64_t>(lanes, stretch - w);
        transpose_tile(
            image.row(channel, h) + (columns.source_begin + w) * image.pixel, image.pixel, width, count,
            [&](int64_t j, Vector<acc_t> pixels) CONVOPS_INLINE_LAMBDA {
              acc_t* at = columns.in_order ? to + j * pitch + columns.slot_of_source[0] : line.data() + j * stretch;
              store_partial(at + w, pixels, width);
            });
      }
      for (int64_t j = 0; !columns.in_order && j < count; ++j) {
        place_row(line.data() + j * stretch, columns, to + j * pitch);
      }
    }
  }
}

// Writes columns [begin, begin + width) of a row of all its channels. buffer holds [channel][phase][pitch]: column
// i * phases + phase at place i.
template <typename scalar_t>
void write_planes(
    const Compute<scalar_t>* buffer, int64_t pitch, int64_t phases, const Planes<scalar_t>& image, int64_t h,
    int64_t begin, int64_t width, Compute<scalar_t>* line) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  // The whole row of a channel, its phases zipped.
  const auto line_of = [&](int64_t channel, acc_t* to) -> const acc_t* {
    const acc_t* from = buffer + channel * phases * pitch;
    if (phases == 1) return from;
    if (phases == 2) {
      for (int64_t i = 0; 2 * i < width; i += lanes) {
        const Vector<acc_t> even = load(from + i), odd = load(from + pitch + i);
        store(to + 2 * i, zip<false, acc_t>(even, odd));
        store(to + 2 * i + lanes, zip<true, acc_t>(even, odd));
      }
    } else {
      for (int64_t phase = 0; phase < phases; ++phase) {
        for (int64_t i = 0; i * phases + phase < width; ++i) to[i * phases + phase] = from[phase * pitch + i];
      }
    }
    return to;
  };
  if (!image.channels_last) {
    for (int64_t channel = 0; channel < image.channels; ++channel) {
      const acc_t* from = line_of(channel, line);
      scalar_t* to = image.row(channel, h) + begin;
      for (int64_t w = 0; w < width; w += lanes) {
        store_partial(to + w, load_partial(from + w, width - w), width - w);
      }
    }
    return;
  }
  const int64_t line_pitch = phases == 1 ? pitch : phases * pitch + 2 * lanes;
  for (int64_t channel = 0; channel < image.channels; channel += lanes) {
    const int64_t count = std::min<int64_t>(lanes, image.channels - channel);
    for (int64_t j = 0; j < count && phases > 1; ++j) line_of(channel + j, line + j * line_pitch);
    const acc_t* from = phases == 1 ? buffer + channel * pitch : line;
    for (int64_t w = 0; w < width; w += lanes) {
      scalar_t* to = image.row(channel, h) + (begin + w) * image.pixel;
      transpose_tile(
          from + w, line_pitch, count, std::min<int64_t>(lanes, width - w),
          [&](int64_t j, Vector<acc_t> values)
              CONVOPS_INLINE_LAMBDA { store_partial(to + j * image.pixel, values, count); });
    }
  }
}

// The order of the weights of one filter: [row tap][column phase][channel][tap of the phase].
struct StepOrder {
  explicit StepOrder(const Correlation& c) : channels(c.source_channels), row_taps(tap_count(c.h)) {
    for (const auto& phase : c.w.phases) {
      phase_begin.push_back(column_taps);
      column_taps += static_cast<int64_t>(phase.size());
    }
  }
  int64_t size() const { return row_taps * channels * column_taps; }
  // The first step of a row tap and column phase.
  int64_t begin(int64_t row_order, size_t phase) const {
    return (row_order * column_taps + phase_begin[phase]) * channels;
  }
  // For each step of a row tap: where it reads in a packed row.
  std::vector<int64_t> offsets(const TileColumns& columns, size_t phase, int64_t pitch) const {
    std::vector<int64_t> result;
    for (int64_t channel = 0; channel < channels; ++channel) {
      for (const ColumnRun& run : columns.runs[phase]) {
        for (int64_t t = 0; t < run.taps; ++t) result.push_back(channel * pitch + run.slot + t);
      }
    }
    return result;
  }

  int64_t channels, row_taps, column_taps = 0;
  std::vector<int64_t> phase_begin;
};

// Packs `count` filters, from target channel `target` on, as panel[step * count + filter].
template <typename scalar_t>
void pack_filter_panel(
    const scalar_t* weight, const Correlation& c, const StepOrder& order, int64_t target, int64_t count,
    Compute<scalar_t>* panel) {
  using acc_t = Compute<scalar_t>;
  // The step of a tap's first channel (-1: no target reads through it), and how many are between channels.
  std::vector<std::pair<int64_t, int64_t>> steps(c.h.kernel * c.w.kernel, {-1, 0});
  for (const auto& row_phase : c.h.phases) {
    for (const AxisTap& r : row_phase) {
      for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
        const int64_t begin = order.begin(r.order, phase), taps = static_cast<int64_t>(c.w.phases[phase].size());
        for (int64_t t = 0; t < taps; ++t) steps[r.tap * c.w.kernel + c.w.phases[phase][t].tap] = {begin + t, taps};
      }
    }
  }
  const auto* step_of = steps.data();
  read_weight(
      weight, c, {0, c.source_channels}, {target, target + count},
      [&](int64_t first, int64_t channel, int64_t tap, Vector<acc_t> values) CONVOPS_INLINE_LAMBDA {
        const auto [begin, between] = step_of[tap];
        const int64_t place = first - target;
        if (begin >= 0) store_partial(panel + (begin + channel * between) * count + place, values, count - place);
      });
}

// Groups that share a packed tile: enough channels to fill vectors where the image is channels_last.
template <typename T>
int64_t groups_together(const Correlation& c) {
  const int64_t least = std::max<int64_t>(1, std::min(c.source_channels, c.target_channels));
  return std::min(c.groups, ceil_div(kLanes<T>, least));
}

// Planes whose distance is a power of two would all fall into a few sets of the cache.
template <typename T>
int64_t plane_pitch(int64_t size) {
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t lines = ceil_div(size, line);
  return (lines % 8 == 0 ? lines + 1 : lines) * line;
}

template <typename scalar_t>
void correlate_planes(
    const Correlation& c, int64_t work, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  const StepOrder order(c);
  const int64_t H = c.h.target, W = c.w.target, K = c.target_channels, steps = order.size();
  const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * K;
  const int64_t source_plane = c.h.source * c.w.source, target_plane = H * W;

  // Filters in tiles of about equal height; the tiles of a group follow each other.
  const int64_t filter_tiles = ceil_div(K, kMaxScalars);
  const auto first_filter = [&](int64_t tile) { return tile * K / filter_tiles; };
  const Scratch<acc_t> panels(c.groups * K * steps), init(target_pixel);
  parallel_for(c.groups * filter_tiles, c.groups * K * steps, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / filter_tiles, first = first_filter(i % filter_tiles);
      pack_filter_panel(
          weight + group * c.weight_group, c, order, first, first_filter(i % filter_tiles + 1) - first,
          panels.data() + (group * K + first) * steps);
    }
  });
  for (int64_t k = 0; k < target_pixel; ++k) init[k] = bias != nullptr ? widen(bias[k]) : acc_t(0);

  const int64_t together = groups_together<acc_t>(c), group_blocks = ceil_div(c.groups, together);
  const Tiling t = choose_tiling(
      c, c.N * group_blocks, together * c.source_channels * static_cast<int64_t>(sizeof(acc_t)), 2 * lanes);
  const int64_t tiles = c.N * group_blocks * t.row_tiles * t.column_tiles;
  // Few tiles: let several tasks pack the same tile and share out its filters.
  const int64_t shares = std::clamp<int64_t>(ceil_div(2 * thread_count(), tiles), 1, filter_tiles);
  // Rows of contiguous targets are written from registers, others by way of a buffer.
  const bool direct = !c.channels_last && c.w.target_step == 1;
  parallel_for(tiles * shares, work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, tile = task / shares;
      const int64_t i0 = tile / t.column_tiles % t.row_tiles * t.rows, j0 = tile % t.column_tiles * t.columns;
      const int64_t group0 = tile / (t.column_tiles * t.row_tiles) % group_blocks * together,
                    n = tile / (t.column_tiles * t.row_tiles * group_blocks);
      const int64_t groups = std::min(together, c.groups - group0);
      const TileRows rows(c.h, i0, std::min(t.rows, c.h.positions() - i0));
      const TileColumns columns(c.w, j0, std::min(t.columns, c.w.positions() - j0));

      const int64_t pitch = plane_pitch<acc_t>(static_cast<int64_t>(rows.source.size()) * columns.slots);
      // The last vectors of the last row read beyond it.
      const Scratch<acc_t> packed(groups * c.source_channels * pitch + 8 * lanes);
      const Planes<const scalar_t> from{
          source + n * source_pixel * source_plane + group0 * c.source_channels * (c.channels_last ? 1 : source_plane),
          groups * c.source_channels,
          c.h.source,
          c.w.source,
          source_pixel,
          c.channels_last};
      pack_planes(from, rows, columns, pitch, packed.data());
      std::fill_n(packed.data() + from.channels * pitch, 8 * lanes, acc_t(0));

      // What this share writes: filter tiles [item0, item1) of the block's groups, which are neighbouring channels.
      const int64_t items = groups * filter_tiles, item0 = share * items / shares, item1 = (share + 1) * items / shares;
      const auto channel_of = [&](int64_t item) {
        return (group0 + item / filter_tiles) * K + first_filter(item % filter_tiles);
      };
      const int64_t channel0 = channel_of(item0), phases = static_cast<int64_t>(c.w.phases.size());
      const int64_t w0 = j0 * c.w.target_step, width = std::min(W - w0, columns.count * c.w.target_step);
      const Planes<scalar_t> to{
          target + n * target_pixel * target_plane + channel0 * (c.channels_last ? 1 : target_plane),
          channel_of(item1) - channel0,
          H,
          W,
          target_pixel,
          c.channels_last};
      const int64_t buffer_pitch = ceil_div(columns.count, lanes) * lanes;
      const Scratch<acc_t> buffer(direct ? 0 : to.channels * phases * buffer_pitch + 2 * lanes),
          line(direct ? 0 : lanes * (phases * buffer_pitch + 2 * lanes));
      std::vector<std::vector<int64_t>> offsets;
      for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
        offsets.push_back(order.offsets(columns, phase, pitch));
      }
      std::vector<std::vector<Run>> runs(phases);

      for (int64_t row = i0 * c.h.target_step; row < std::min(H, (i0 + rows.count) * c.h.target_step); ++row) {
        for (int64_t phase = 0; phase < phases; ++phase) {
          runs[phase].clear();
          const int64_t length = static_cast<int64_t>(offsets[phase].size());
          for (const AxisTap& r : c.h.phases[row % c.h.target_step]) {
            const int64_t slot = rows.slot(row / c.h.target_step * c.h.source_step + r.offset);
            if (slot >= 0 && length > 0) {
              runs[phase].push_back({slot * columns.slots, order.begin(r.order, phase), length});
            }
          }
        }
        for (int64_t item = item0; item < item1; ++item) {
          const int64_t channel = channel_of(item), scalars = channel_of(item + 1) - channel;
          const acc_t* planes = packed.data() + item / filter_tiles * c.source_channels * pitch;
          const acc_t* panel = panels.data() + channel * steps;
          for (int64_t phase = 0; phase < phases; ++phase) {
            const int64_t pixels = ceil_div(width - phase, c.w.target_step), vectors = ceil_div(pixels, lanes);
            if (vectors <= 0) continue;
            const int64_t step = ceil_div(vectors, ceil_div(vectors, pixel_vectors(static_cast<int>(scalars))));
            const auto multiply = [&](auto* out, int64_t out_step) {
              using out_t = std::remove_pointer_t<decltype(out)>;
              for (int64_t v = 0; v < vectors; v += step) {
                multiply_planes_instance<out_t>(scalars, std::min(step, vectors - v))(
                    planes + v * lanes, offsets[phase].data(), runs[phase].data(),
                    static_cast<int64_t>(runs[phase].size()), panel, init.data() + channel, pixels - v * lanes,
                    out + v * lanes, out_step);
              }
            };
            if (direct) {
              multiply(to.row(channel - channel0, row) + w0, target_plane);
            } else {
              multiply(buffer.data() + ((channel - channel0) * phases + phase) * buffer_pitch, phases * buffer_pitch);
            }
          }
        }
        if (!direct) write_planes(buffer.data(), buffer_pitch, phases, to, row, w0, width, line.data());
      }
    }
  });
}

// Filters and steps of a tile of grad_weight: accumulators, a vector of each filter's gradient and one of the source.
constexpr int kDotFilters = kVectorRegisters == 32 ? 4 : 2;
constexpr int dot_steps(int filters) {
  const int most = (kVectorRegisters - 2 - filters) / filters;
  return most < 8 ? most : 8;
}

// sums[step * kFilters + filter] += sum over rows i and columns j of rows[i][offsets[step] + j] * gradient[filter *
// gradient_plane + gradient_rows[i] + j]. A null row is a row of padding.
template <typename T, int kFilters, int kSteps>
void multiply_rows(
    const T* const* rows, const int64_t* offsets, const T* gradient, int64_t gradient_plane,
    const int64_t* gradient_rows, int64_t row_count, int64_t columns, T* sums) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[kSteps][kFilters] = {};
  Vector<LaneInt<T>> lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  const int64_t whole = columns / lanes * lanes;
  const Vector<LaneInt<T>> inside = lane < static_cast<LaneInt<T>>(columns - whole);
  for (int64_t i = 0; i < row_count; ++i) {
    if (rows[i] == nullptr) continue;
    const T* x[kSteps];
#pragma GCC unroll 8
    for (int m = 0; m < kSteps; ++m) x[m] = rows[i] + offsets[m];
    const T* g = gradient + gradient_rows[i];
    const auto step = [&](int64_t j, const auto& read) CONVOPS_INLINE_LAMBDA {
      Vector<T> gradients[kFilters];
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) gradients[f] = read(g + f * gradient_plane + j);
#pragma GCC unroll 8
      for (int m = 0; m < kSteps; ++m) {
        const Vector<T> values = read(x[m] + j);
#pragma GCC unroll 8
        for (int f = 0; f < kFilters; ++f) sum[m][f] += values * gradients[f];
      }
    };
    for (int64_t j = 0; j < whole; j += lanes) {
      step(j, [](const T* at) CONVOPS_INLINE_LAMBDA { return load(at); });
    }
    if (whole < columns) {
      step(whole, [&](const T* at) CONVOPS_INLINE_LAMBDA {
        const Vector<T> values = load(at);
        return inside ? values : Vector<T>{};
      });
    }
  }
  constexpr int count = kSteps * kFilters;
  for (int begin = 0; begin < count; begin += lanes) {
    Vector<T> tile[lanes];
    for (int i = 0; i < lanes; ++i) {
      const int at = begin + i;
      tile[i] = at < count ? sum[at / kFilters][at % kFilters] : Vector<T>{};
    }
    transpose<T>(tile);
    Vector<T> total = tile[0];
    for (int i = 1; i < lanes; ++i) total += tile[i];
    store_partial(sums + begin, load_partial(sums + begin, count - begin) + total, count - begin);
  }
}

template <typename T>
using MultiplyRows = void (*)(const T* const*, const int64_t*, const T*, int64_t, const int64_t*, int64_t, int64_t, T*);

template <typename T>
MultiplyRows<T> multiply_rows_instance(int64_t filters, int64_t steps) {
  return select_instance<kDotFilters>(filters, []<int F>() {
    return +[](int64_t n) { return select_instance<dot_steps(F)>(n, []<int M>() { return &multiply_rows<T, F, M>; }); };
  })(steps);
}

// As in implicit_gemm_grad_weight.h, slices of the sum are fixed by the geometry and added in order.
template <typename scalar_t>
void planes_grad_weight(
    const Correlation& c, int64_t work, const scalar_t* input, const scalar_t* grad_output, scalar_t* weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  const StepOrder order(c);
  const int64_t P = c.h.target, Q = c.w.target, C = c.source_channels, K = c.target_channels;
  const int64_t group_size = K * order.size();
  const int64_t together = groups_together<acc_t>(c), group_blocks = ceil_div(c.groups, together);
  const CorrelationAxis gradient_h{1, P, P, 1, 1, {{{0, 0, 0}}}}, gradient_w{1, Q, Q, 1, 1, {{{0, 0, 0}}}};

  // A tile holds some rows and columns of one image, or several whole images, so that the lanes of an accumulator are
  // added up only after many pixels.
  constexpr int64_t kBytes = 640 << 10;
  Tiling t{P, Q, 1, 1};
  const auto bytes = [&] {
    return (c.h.sources(t.rows) * c.w.sources(t.columns) * C + t.rows * t.columns * K) * together *
           static_cast<int64_t>(sizeof(acc_t));
  };
  while (t.rows > 1 && bytes() > kBytes) t.rows = ceil_div(t.rows, 2);
  while (t.columns > 8 * lanes && bytes() > kBytes) t.columns = ceil_div(ceil_div(t.columns, 2), lanes) * lanes;
  t.row_tiles = ceil_div(P, t.rows);
  t.column_tiles = ceil_div(Q, t.columns);
  const int64_t cuts = t.row_tiles * t.column_tiles;
  constexpr int64_t kTasks = 16, kSliceBytes = 32 << 20;
  const int64_t images =
      cuts > 1 ? 1
               : std::clamp<int64_t>(
                     kBytes / std::max<int64_t>(1, bytes()), 1, std::max<int64_t>(1, c.N * group_blocks / kTasks));
  const int64_t items = ceil_div(c.N, images) * cuts;
  const int64_t most_slices = std::max<int64_t>(
      1, kSliceBytes / std::max<int64_t>(1, c.groups * group_size * static_cast<int64_t>(sizeof(acc_t))));
  const int64_t slices = std::max<int64_t>(1, std::min({ceil_div(kTasks, group_blocks), items, most_slices}));

  // [slice][group][row tap][filter tile][step][filter]
  const Scratch<acc_t> sums(slices * c.groups * group_size);
  const int64_t filter_tiles = ceil_div(K, kDotFilters);
  const auto first_filter = [&](int64_t tile) { return tile * K / filter_tiles; };
  const int64_t row_steps = C * order.column_taps;
  parallel_for(slices * group_blocks, work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slice = task / group_blocks, group0 = task % group_blocks * together;
      const int64_t groups = std::min(together, c.groups - group0);
      acc_t* own = sums.data() + (slice * c.groups + group0) * group_size;
      std::fill_n(own, groups * group_size, acc_t(0));
      for (int64_t item = slice * items / slices; item < (slice + 1) * items / slices; ++item) {
        const int64_t n0 = item / cuts * images, n1 = std::min(n0 + images, c.N);
        const int64_t i0 = item % cuts / t.column_tiles * t.rows, j0 = item % t.column_tiles * t.columns;
        const int64_t height = std::min(t.rows, P - i0), width = std::min(t.columns, Q - j0);
        const TileRows rows(c.h, i0, height), gradient_rows(gradient_h, i0, height);
        const TileColumns columns(c.w, j0, width), gradient_columns(gradient_w, j0, width);
        const int64_t pitch = plane_pitch<acc_t>(static_cast<int64_t>(rows.source.size()) * columns.slots);
        const int64_t gradient_pitch = plane_pitch<acc_t>(height * width);
        const int64_t source_size = groups * C * pitch, gradient_size = groups * K * gradient_pitch;
        const Scratch<acc_t> packed((n1 - n0) * source_size + lanes), gradient((n1 - n0) * gradient_size + lanes);
        const auto planes = [&](const scalar_t* data, int64_t n, int64_t channels, int64_t h, int64_t w) {
          const int64_t pixel = c.groups * channels;
          return Planes<const scalar_t>{
              data + n * pixel * h * w + group0 * channels * (c.channels_last ? 1 : h * w),
              groups * channels,
              h,
              w,
              pixel,
              c.channels_last};
        };
        for (int64_t n = n0; n < n1; ++n) {
          pack_planes(
              planes(input, n, C, c.h.source, c.w.source), rows, columns, pitch,
              packed.data() + (n - n0) * source_size);
          pack_planes(
              planes(grad_output, n, K, P, Q), gradient_rows, gradient_columns, gradient_pitch,
              gradient.data() + (n - n0) * gradient_size);
        }
        const std::vector<int64_t> offsets = order.offsets(columns, 0, pitch);
        std::vector<const acc_t*> tap_rows((n1 - n0) * height);
        std::vector<int64_t> gradient_at((n1 - n0) * height);
        for (int64_t group = 0; group < groups; ++group) {
          for (const AxisTap& r : c.h.phases[0]) {
            for (int64_t n = 0; n < n1 - n0; ++n) {
              for (int64_t i = 0; i < height; ++i) {
                const int64_t slot = rows.slot((i0 + i) * c.h.source_step + r.offset);
                tap_rows[n * height + i] =
                    slot < 0 ? nullptr : packed.data() + n * source_size + group * C * pitch + slot * columns.slots;
                gradient_at[n * height + i] = n * gradient_size + i * width;
              }
            }
            acc_t* to = own + (group * order.row_taps + r.order) * row_steps * K;
            const int64_t widest = dot_steps(static_cast<int>(std::min<int64_t>(kDotFilters, K)));
            const int64_t step = row_steps > 0 ? ceil_div(row_steps, ceil_div(row_steps, widest)) : 1;
            for (int64_t m = 0; m < row_steps; m += step) {
              for (int64_t tile = 0; tile < filter_tiles; ++tile) {
                const int64_t first = first_filter(tile), filters = first_filter(tile + 1) - first;
                multiply_rows_instance<acc_t>(filters, std::min(step, row_steps - m))(
                    tap_rows.data(), offsets.data() + m, gradient.data() + (group * K + first) * gradient_pitch,
                    gradient_pitch, gradient_at.data(), static_cast<int64_t>(tap_rows.size()), width,
                    to + first * row_steps + m * filters);
              }
            }
          }
        }
      }
    }
  });

  parallel_for(c.groups, slices * c.groups * group_size, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      acc_t* sum = sums.data() + group * group_size;
      for (int64_t slice = 1; slice < slices; ++slice) {
        const acc_t* part = sum + slice * c.groups * group_size;
        for (int64_t e = 0; e < group_size; ++e) sum[e] += part[e];
      }
      for (const AxisTap& r : c.h.phases[0]) {
        const acc_t* from = sum + r.order * row_steps * K;
        for (int64_t tile = 0; tile < filter_tiles; ++tile) {
          for (int64_t i = 0; i < C; ++i) {
            for (const AxisTap& s : c.w.phases[0]) {
              for (int64_t k = first_filter(tile); k < first_filter(tile + 1); ++k) {
                weight
                    [group * c.weight_group + k * c.weight_target + i * c.weight_source + r.tap * c.weight_row +
                     s.tap * c.weight_column] = narrow<scalar_t>(*from++);
              }
            }
          }
        }
      }
    }
  });
}

template <typename scalar_t>
void planar_gemm(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const Correlation c = ordered_correlation(problem);
  const int64_t work = multiplications(problem.geometry);
  run_pass<scalar_t>(
      problem, arguments, [&](auto... operands) { correlate_planes<scalar_t>(c, work, operands...); },
      [&](auto... operands) { planes_grad_weight<scalar_t>(c, work, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
