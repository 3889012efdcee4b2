// Pointwise (1x1, unpadded) convolution: a matrix product that reads the image in place. A channels_last image is a
// matrix [pixel][channel] whose rows a tile of kMaxScalars pixels walks along; with a stride only the pixels used are
// read. 2 N P Q C K FLOPs over N H W C + N P Q K elements: from about 64 channels on both sides the FMA units bind, if
// the image and where the outputs go are fetched meanwhile. Reached with 64 and 256 channels on one core whose FMA
// units do 205 GF/s: 170 in forward and grad_input, 160 in grad_weight; matrix products of MKL of that size: 95 to 150.
//
// forward and grad_input of contiguous images are planar_gemm.h's, which reads and writes planes without transposing
// either; grad_weight here is the product of planes with the transposed planes of the side with fewer channels.
#pragma once

#include "../common/plane_sum.h"
#include "planar_gemm.h"

namespace convops {
namespace CONVOPS_ISA {

// Of both operands: the distance between neighbours within a tile (of b 1), along the sum, and between rows of the sum.
// Beside the sum, what comes next is asked for, along distances of its own: a few hundred bytes from memory take as
// long as a tile of FMAs, and the prefetchers of the hardware follow neither strides nor what is not read yet.
// Passed by reference: a copy is stored in pieces and loaded as a whole, for which outputs in flight have to wait.
template <typename T>
struct SumStrides {
  int64_t a_tile, a_next, a_row;
  int64_t b_next, b_row;
  const T* ahead;
  int64_t ahead_next, ahead_row;
};

// out[j][0 : count] = (kAccumulate ? out[j][...] : init[...]) + sum over rows and i < length of
// a[row * a_row + i * a_next + j * a_tile] * b[row * b_row + i * b_next + ...].
template <typename scalar_t, int kScalars, int kVectors, bool kAccumulate>
void multiply_strided(
    const Compute<scalar_t>* a, const Compute<scalar_t>* b, const SumStrides<Compute<scalar_t>>& strides, int64_t rows,
    int64_t length, const Compute<scalar_t>* init, int64_t count, scalar_t* out, int64_t out_step) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> sum[kScalars][kVectors];
#pragma GCC unroll 16
  for (int j = 0; j < kScalars; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[j][v] = kAccumulate ? Vector<acc_t>{} : load(init + v * lanes);
  }
  const int64_t step = strides.a_tile, step3 = 3 * step;
  for (int64_t row = 0; row < rows; ++row) {
    // Four base pointers and two strides address 14 scalars without an index register each.
    const acc_t* at[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) at[i] = a + row * strides.a_row + 4 * i * step;
    const acc_t* w = b + row * strides.b_row;
    const acc_t* ahead = strides.ahead + row * strides.ahead_row;
    for (int64_t i = 0; i < length; ++i) {
      __builtin_prefetch(ahead, 0, kAccumulate ? 2 : 3);
      ahead += strides.ahead_next;
      Vector<acc_t> values[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) values[v] = load(w + v * lanes);
#pragma GCC unroll 16
      for (int j = 0; j < kScalars; ++j) {
        Vector<acc_t> x = broadcast(at[j / 4][j % 4 == 0 ? 0 : j % 4 == 1 ? step : j % 4 == 2 ? 2 * step : step3]);
        CONVOPS_PIN(x);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[j][v] += x * values[v];
      }
#pragma GCC unroll 4
      for (int i4 = 0; i4 < 4; ++i4) at[i4] += strides.a_next;
      w += strides.b_next;
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < kScalars; ++j) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      scalar_t* to = out + j * out_step + v * lanes;
      if constexpr (kAccumulate) sum[j][v] += load_partial(to, count - v * lanes);
      store_partial(to, sum[j][v], count - v * lanes);
    }
  }
}

template <typename scalar_t>
using MultiplyStrided = void (*)(
    const Compute<scalar_t>*, const Compute<scalar_t>*, const SumStrides<Compute<scalar_t>>&, int64_t, int64_t,
    const Compute<scalar_t>*, int64_t, scalar_t*, int64_t);

template <typename scalar_t, bool kAccumulate>
MultiplyStrided<scalar_t> multiply_strided_instance(int64_t scalars, int64_t vectors) {
  return select_instance<kMaxScalars>(scalars, []<int N>() {
    return +[](int64_t n) {
      return n == 1 ? &multiply_strided<scalar_t, N, 1, kAccumulate> : &multiply_strided<scalar_t, N, 2, kAccumulate>;
    };
  })(vectors);
}

// The step between the positions of an axis; of a single one it may be larger than any distance in memory.
inline int64_t position_step(const Axis& axis) {
  return axis.output > 1 ? axis.stride : 1;
}

// Widens a row of channels.
template <typename scalar_t>
void copy_row(const scalar_t* from, int64_t count, Compute<scalar_t>* to) {
  constexpr int lanes = kLanes<Compute<scalar_t>>;
  for (int64_t i = 0; i < count; i += lanes) store_partial(to + i, load_partial(from + i, count - i), count - i);
}

// A tile of scalars in whole vectors.
template <typename T>
constexpr int64_t kTilePitch = (kMaxScalars + kLanes<T> - 1) / kLanes<T> * kLanes<T>;

// Copies at most kMaxScalars neighbouring channels of `count` pixels as rows of kTilePitch.
template <typename scalar_t>
void copy_tile(const scalar_t* from, int64_t pixel_step, int64_t count, int64_t channels, Compute<scalar_t>* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>, pitch = kTilePitch<acc_t>;
  for (int64_t j = 0; j < count; ++j) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < pitch; i += lanes) {
      store(to + j * pitch + i, load_partial(from + j * pixel_step + i, channels - i));
    }
  }
}

// Packs a matrix as panels of kBlock columns: row i of column k goes to place i * kBlock + k % kBlock of panel
// k / kBlock, zeros beyond the columns. One of the steps is 1.
template <typename scalar_t>
void pack_matrix(
    const scalar_t* from, int64_t row_step, int64_t column_step, int64_t rows, int64_t columns, int64_t panel_pitch,
    Compute<scalar_t>* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>, block = kBlock<acc_t>;
  const auto place = [&](int64_t k) { return to + k / block * panel_pitch + k % block; };
  const int64_t padded = ceil_div(columns, block) * block;
  if (column_step == 1) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t k = 0; k < padded; k += lanes) {
        store(place(k) + i * block, load_partial(from + i * row_step + k, columns - k));
      }
    }
    return;
  }
  for (int64_t k = 0; k < padded; k += lanes) {
    const int64_t width = std::clamp<int64_t>(columns - k, 0, lanes);
    acc_t* at = place(k);
    if (width == 0) {
      for (int64_t i = 0; i < rows; ++i) store(at + i * block, Vector<acc_t>{});
      continue;
    }
    for (int64_t i = 0; i < rows; i += lanes) {
      transpose_tile(
          from + k * column_step + i, column_step, width, std::min(lanes, rows - i),
          [&](int64_t j, Vector<acc_t> values) CONVOPS_INLINE_LAMBDA { store(at + (i + j) * block, values); });
    }
  }
}

// The positions of the smaller image of forward or grad_input in rows of neighbours: all of them where there is no
// stride. What the passes read and write there, in pixels.
struct PixelRows {
  PixelRows(const Conv2dGeometry& g, bool transposed)
      : h(g.h),
        input_width(g.w.input),
        dense(g.h.stride == 1 && g.w.stride == 1),
        transposed(transposed),
        rows(dense ? 1 : g.N * g.h.output),
        width(dense ? g.N * g.h.output * g.w.output : g.w.output),
        source_step(transposed ? 1 : position_step(g.w)),
        target_step(transposed ? position_step(g.w) : 1) {}

  int64_t source(int64_t row) const { return first_pixel(row, !transposed); }
  int64_t target(int64_t row) const { return first_pixel(row, transposed); }

  Axis h;
  int64_t input_width;
  bool dense, transposed;
  int64_t rows, width;
  int64_t source_step, target_step;  // between neighbours of a row

 private:
  int64_t first_pixel(int64_t row, bool input) const {
    if (dense) return 0;
    return input ? (row / h.output * h.input + row % h.output * position_step(h)) * input_width : row * width;
  }
};

// Few target channels would leave most lanes of their vectors idle; vectors of source channels do not: C / kLanes FMAs
// a pixel and target and about 5 cycles to add up the lanes, against a broadcast for each channel, two a cycle. An
// image of one target is then read at the speed of memory.
template <typename T>
bool has_few_targets(int64_t sources, int64_t targets) {
  return targets * (ceil_div(sources, kLanes<T>) + 5) < sources / 2;
}

// out[j * out_step] = init + sum over channels of a[j * step + channel] * w[channel], for up to kLanes pixels. w is
// padded with zeros.
template <typename scalar_t>
void dot_pixels(
    const scalar_t* a, int64_t step, int64_t count, const Compute<scalar_t>* w, int64_t channels,
    Compute<scalar_t> init, scalar_t* out, int64_t out_step) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  Vector<acc_t> sum[lanes] = {};
  const auto add = [&](int j, const scalar_t* from, Vector<acc_t> values, Vector<acc_t> weights) CONVOPS_INLINE_LAMBDA {
    prefetch_ahead(from);
    sum[j] += values * weights;
  };
  int64_t i = 0;
  if (count == lanes) {
    for (; i + lanes <= channels; i += lanes) {
      const Vector<acc_t> weights = load(w + i);
#pragma GCC unroll 16
      for (int j = 0; j < lanes; ++j) add(j, a + j * step + i, load(a + j * step + i), weights);
    }
  }
  for (; i < channels; i += lanes) {
    const Vector<acc_t> weights = load(w + i);
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) {
      const scalar_t* from = a + std::min<int64_t>(j, count - 1) * step + i;
      add(j, from, load_partial(from, channels - i), weights);
    }
  }
  transpose<acc_t>(sum);
  Vector<acc_t> total = broadcast(init);
#pragma GCC unroll 16
  for (int j = 0; j < lanes; ++j) total += sum[j];
  if (out_step == 1) return store_partial(out, total, count);
  for (int64_t j = 0; j < count; ++j) out[j * out_step] = narrow<scalar_t>(total[j]);
}

// forward and grad_input of channels_last images with few target channels.
template <typename scalar_t>
void multiply_few(
    const Conv2dGeometry& g, const Correlation& c, const PixelRows& pixels, const scalar_t* source,
    const scalar_t* weight, const scalar_t* bias, scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  const int64_t C = c.source_channels, K = c.target_channels;
  const int64_t source_pixel = c.groups * C, target_pixel = c.groups * K;
  const int64_t pitch = ceil_div(C, lanes) * lanes;
  const Scratch<acc_t> weights(target_pixel * pitch);
  for (int64_t k = 0; k < target_pixel; ++k) {
    const scalar_t* from = weight + k / K * c.weight_group + k % K * c.weight_target;
    for (int64_t i = 0; i < pitch; ++i) weights[k * pitch + i] = i < C ? widen(from[i * c.weight_source]) : acc_t(0);
  }
  const int64_t tiles = ceil_div(pixels.width, lanes);
  parallel_for(pixels.rows * tiles, multiplications(g), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / tiles, j = task % tiles * lanes;
      const scalar_t* from = source + (pixels.source(row) + j * pixels.source_step) * source_pixel;
      scalar_t* to = target + (pixels.target(row) + j * pixels.target_step) * target_pixel;
      for (int64_t k = 0; k < target_pixel; ++k) {
        dot_pixels(
            from + k / K * C, pixels.source_step * source_pixel, std::min(lanes, pixels.width - j),
            weights.data() + k * pitch, C, bias != nullptr ? widen(bias[k]) : acc_t(0), to + k,
            pixels.target_step * target_pixel);
      }
    }
  });
}

// forward and grad_input of channels_last images with target channels for vectors.
template <typename scalar_t>
void multiply_many(
    const Conv2dGeometry& g, const Correlation& c, const PixelRows& pixels, const scalar_t* source,
    const scalar_t* weight, const scalar_t* bias, scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>, block = kBlock<acc_t>;
  const int64_t C = c.source_channels, K = c.target_channels, panels = ceil_div(K, block);
  const int64_t source_pixel = c.groups * C, target_pixel = c.groups * K;

  // Panels [channel][kBlock targets]; their distance is not a multiple of a page.
  const int64_t panel_pitch = (C + 1) * block;
  const auto pack_panels = [&](int64_t group, int64_t panel, int64_t count, acc_t* to) {
    pack_matrix(
        weight + group * c.weight_group + panel * block * c.weight_target, c.weight_source, c.weight_target, C,
        std::min(count * block, K - panel * block), panel_pitch, to);
  };
  const Scratch<acc_t> init(c.groups * panels * block);
  for (int64_t i = 0; i < c.groups * panels * block; ++i) {
    const int64_t k = i % (panels * block);
    init[i] = bias != nullptr && k < K ? widen(bias[i / (panels * block) * K + k]) : acc_t(0);
  }

  const int64_t rows = pixels.rows, width = pixels.width, source_step = pixels.source_step * source_pixel,
                target_step = pixels.target_step * target_pixel;
  constexpr bool widened = !std::is_same_v<scalar_t, acc_t>;
  constexpr int64_t kValues = sizeof(acc_t) / sizeof(scalar_t);  // stored ones in the room of a computed one
  // Short rows, which fill no tile, are copied, too, where their targets follow each other: they become one row.
  const bool joins = !pixels.transposed && width < 2 * kMaxScalars && panels > 2;
  const bool copied = widened || crowds_cache<acc_t>(source_step) || (joins && rows > 1);
  const int64_t copied_pitch = plane_pitch<acc_t>(C);

  // Blocks of pixels stay in the L2 cache while all panels go over them: enough of them to keep the threads evenly
  // busy, but of a large weight threads share out the panels instead.
  const int64_t most_pixels =
      std::max<int64_t>(2 * kMaxScalars, most_tile_bytes(c) / (C * static_cast<int64_t>(sizeof(acc_t))));
  const auto cut = [&](int64_t length, int64_t most) {
    int64_t parts = ceil_div(length, std::clamp<int64_t>(most, 1, length));
    if (!has_large_weight(c)) parts = std::max(parts, std::min(length, 4 * thread_count()));
    return parts == 1 ? length : ceil_div(length, ceil_div(parts, thread_count()) * thread_count());
  };
  int64_t block_rows = rows > 1 ? cut(rows, most_pixels / width) : 1;
  int64_t block_width =
      rows > 1 ? std::min(width, most_pixels) : std::max<int64_t>(2 * kMaxScalars, cut(width, most_pixels));
  block_width = std::min(width, ceil_div(block_width, kMaxScalars) * kMaxScalars);
  // Few pixels: tasks share out the panels alone, and each packs its own.
  const bool few = rows * width <= 4 * kMaxScalars && panels * c.groups >= 2 * thread_count();
  if (few) {
    block_rows = rows;
    block_width = width;
  }
  const int64_t row_blocks = ceil_div(rows, block_rows), column_blocks = ceil_div(width, block_width);
  const int64_t blocks = row_blocks * column_blocks * c.groups;
  const bool packed_once = row_blocks * column_blocks == 1;
  const int64_t shares = std::clamp<int64_t>(ceil_div(2 * thread_count(), blocks), 1, panels);
  // A tile of pixels is multiplied by as many panels as the L2 cache holds, so that its outputs follow each other.
  constexpr int64_t kChunkBytes = 512 << 10;
  const int64_t chunk = std::clamp<int64_t>(kChunkBytes / (C * block * static_cast<int64_t>(sizeof(acc_t))), 1, panels);
  const Scratch<acc_t> packed(packed_once ? 0 : c.groups * panels * panel_pitch);
  if (!packed_once) {
    // Of several panels at a time, to read longer stretches of the rows of grad_input's weight.
    const int64_t together = std::clamp<int64_t>(panels / (2 * thread_count()), 1, 8),
                  parts = ceil_div(panels, together);
    parallel_for(c.groups * parts, c.groups * K * C, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / parts, panel = i % parts * together;
        pack_panels(
            group, panel, std::min(together, panels - panel), packed.data() + (group * panels + panel) * panel_pitch);
      }
    });
  }
  parallel_for(blocks * shares, multiplications(g), [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> copy(copied ? block_rows * block_width * copied_pitch : 0),
        own(packed_once ? chunk * panel_pitch : 0);
    int64_t block_copied = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, group = task / shares % c.groups, cut = task / (shares * c.groups);
      const int64_t row0 = cut / column_blocks * block_rows, row1 = std::min(row0 + block_rows, rows);
      const int64_t j0 = cut % column_blocks * block_width, row_count = std::min(block_width, width - j0);
      const auto source_row = [&](int64_t row) {
        return source + pixels.source(row) * source_pixel + j0 * source_step + group * C;
      };
      for (int64_t row = row0; row < row1 && copied && block_copied != task / shares; ++row) {
        for (int64_t j = 0; j < row_count; ++j) {
          copy_row(source_row(row) + j * source_step, C, copy.data() + ((row - row0) * block_width + j) * copied_pitch);
        }
      }
      block_copied = task / shares;
      const int64_t a_step = copied ? copied_pitch : source_step;
      const bool joined = copied && joins && row_count == width;
      const int64_t count = joined ? (row1 - row0) * width : row_count, row_end = joined ? row0 + 1 : row1;
      const int64_t step = ceil_div(count, ceil_div(count, kMaxScalars));
      const int64_t panel0 = share * panels / shares, panel1 = (share + 1) * panels / shares;
      for (int64_t chunk0 = panel0; chunk0 < panel1; chunk0 += chunk) {
        const int64_t calls = std::min(chunk, panel1 - chunk0);
        if (packed_once) pack_panels(group, chunk0, calls, own.data());
        const acc_t* weights = packed_once ? own.data() : packed.data() + (group * panels + chunk0) * panel_pitch;
        // While the panels go over a tile, the next one and where its outputs go are fetched.
        const bool reads_ahead = !copied && chunk0 == panel0, writes_ahead = calls == panels && c.groups == 1;
        const int64_t a_calls = reads_ahead ? ceil_div(calls * C, C + K) : 0;
        for (int64_t row = row0; row < row_end; ++row) {
          const acc_t* from;
          if constexpr (widened) {
            from = copy.data() + (row - row0) * block_width * copied_pitch;
          } else {
            from = copied ? copy.data() + (row - row0) * block_width * copied_pitch : source_row(row);
          }
          scalar_t* to = target + pixels.target(row) * target_pixel + j0 * target_step + group * K;
          for (int64_t j = 0; j < count; j += step) {
            for (int64_t call = 0; call < calls; ++call) {
              const int64_t panel = chunk0 + call, targets = std::min(block, K - panel * block);
              const acc_t* tile = from + j * a_step;
              SumStrides<acc_t> strides{a_step, 1, 0, block, 0, tile, 0, 0};
              if (call < a_calls) {
                strides.ahead += step * a_step + call * step * a_step / a_calls;
                strides.ahead_next = ceil_div(step * a_step, a_calls * C);
              } else if (writes_ahead) {
                const int64_t part = call - a_calls, parts = calls - a_calls;
                strides.ahead =
                    reinterpret_cast<const acc_t*>(to + (j + step) * target_step + part * step * target_step / parts);
                strides.ahead_next = ceil_div(step * target_step / kValues, parts * C);
              }
              multiply_strided_instance<scalar_t, false>(std::min(step, count - j), ceil_div(targets, lanes))(
                  tile, weights + call * panel_pitch, strides, 1, C, init.data() + (group * panels + panel) * block,
                  targets, to + j * target_step + panel * block, target_step);
            }
          }
        }
      }
    }
  });
}

// forward and grad_input of channels_last images.
template <typename scalar_t>
void multiply_pixels(
    const Conv2dGeometry& g, bool transposed, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  if (g.output_numel() == 0) return;  // nor has the input a pixel
  const Correlation c = make_correlation(g, transposed);
  const PixelRows pixels(g, transposed);
  const auto multiply =
      has_few_targets<acc_t>(c.source_channels, c.target_channels) ? &multiply_few<scalar_t> : &multiply_many<scalar_t>;
  multiply(g, c, pixels, source, weight, bias, target);

  // The pixels of a strided image that no output read.
  if (!transposed || pixels.dense) return;
  const int64_t target_pixel = c.groups * c.target_channels;
  const Axis &h = g.h, &w = g.w;
  const Scratch<acc_t> value(target_pixel);
  for (int64_t k = 0; k < target_pixel; ++k) value[k] = bias != nullptr ? widen(bias[k]) : acc_t(0);
  parallel_for(g.N * h.input, g.input_numel(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t i = row % h.input;
      const bool written = i % h.stride == 0 && i / h.stride < h.output;
      for (int64_t j = 0; j < w.input; ++j) {
        if (written && j % w.stride == 0 && j / w.stride < w.output) continue;
        scalar_t* to = target + (row * w.input + j) * target_pixel;
        for (int64_t k = 0; k < target_pixel; k += lanes) {
          store_partial(to + k, load_partial(value.data() + k, target_pixel - k), target_pixel - k);
        }
      }
    }
  });
}

// The positions of an image that grad_weight sums over, every column_step'th of every row_step'th row.
template <typename scalar_t>
struct SummedImage {
  // A group's row of positions from one of them on, as a plane or, if channels_last, as pixels.
  const scalar_t* row(int64_t n, int64_t group, int64_t row, int64_t column) const {
    const int64_t pixel = row * row_step * width + column * column_step, plane = height * width;
    return channels_last ? data + ((n * plane + pixel) * groups + group) * channels
                         : data + (n * groups + group) * channels * plane + pixel;
  }
  // Distances in a channels_last image.
  int64_t next() const { return column_step * groups * channels; }
  int64_t next_row() const { return row_step * width * groups * channels; }

  const scalar_t* data;
  int64_t groups, channels;  // channels of a group
  int64_t height, width, row_step, column_step;
  bool channels_last;
};

// Every step'th value of a plane's row.
template <typename scalar_t>
void copy_columns(const scalar_t* from, int64_t step, int64_t count, Compute<scalar_t>* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  if (step == 1) return copy_row(from, count, to);
  int64_t i = 0;
  for (; step == 2 && i + lanes < count; i += lanes) {
    store(to + i, unzip<false, acc_t>(load(from + 2 * i), load(from + 2 * i + lanes)));
  }
  for (; i < count; ++i) to[i] = widen(from[i * step]);
}

// Copies some channels of `count` positions as [panel][position][kBlock channels]. lines: kLanes rows of `pitch`.
template <typename scalar_t>
void copy_panels(
    const scalar_t* from, const SummedImage<scalar_t>& image, int64_t image_channels, int64_t count,
    Compute<scalar_t>* lines, int64_t pitch, int64_t panel_size, Compute<scalar_t>* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>, block = kBlock<acc_t>;
  const int64_t padded = ceil_div(image_channels, block) * block;
  const auto place = [&](int64_t channel) { return to + channel / block * panel_size + channel % block; };
  for (int64_t j = 0; j < count && image.channels_last; ++j) {
    for (int64_t channel = 0; channel < padded; channel += lanes) {
      store(place(channel) + j * block, load_partial(from + j * image.next() + channel, image_channels - channel));
    }
  }
  if (image.channels_last) return;
  for (int64_t channel = 0; channel < padded; channel += lanes) {
    acc_t* at = place(channel);
    const int64_t channels = std::min(lanes, image_channels - channel);
    if (channels <= 0) {
      for (int64_t j = 0; j < count; ++j) store(at + j * block, Vector<acc_t>{});
      continue;
    }
    const auto transpose_rows = [&](const auto* rows, int64_t row_step) {
      for (int64_t j = 0; j < count; j += lanes) {
        transpose_tile(
            rows + j, row_step, channels, std::min(lanes, count - j),
            [&](int64_t i, Vector<acc_t> values) CONVOPS_INLINE_LAMBDA { store(at + (j + i) * block, values); });
      }
    };
    const int64_t plane = image.height * image.width;
    const scalar_t* planes = from + channel * plane;
    if (image.column_step == 1) {
      transpose_rows(planes, plane);
    } else {
      for (int64_t i = 0; i < channels; ++i) {
        copy_columns(planes + i * plane, image.column_step, count, lines + i * pitch);
      }
      transpose_rows(lines, pitch);
    }
  }
}

// grad_weight: the product of two images, summed over their positions. The sum is cut into slices by the geometry alone
// and the slices are added in order.
template <typename scalar_t>
void multiply_images(const Conv2dGeometry& g, const scalar_t* input, const scalar_t* grad_output, scalar_t* weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>, block = kBlock<acc_t>;
  constexpr bool widened = !std::is_same_v<scalar_t, acc_t>;
  constexpr int64_t kValues = sizeof(acc_t) / sizeof(scalar_t);
  const Correlation c = make_correlation(g, false);
  const int64_t C = c.source_channels, K = c.target_channels;
  if (g.output_numel() == 0) {
    std::fill_n(weight, g.weight_numel(), scalar_t{});
    return;
  }
  // Without a stride all positions of an image, and of a whole channels_last batch, are one row.
  const bool dense = g.h.stride == 1 && g.w.stride == 1, last = g.channels_last;
  const int64_t N = dense && last ? 1 : g.N, rows = dense ? 1 : g.h.output,
                width = (dense ? g.h.output : 1) * (dense && last ? g.N : 1) * g.w.output;
  const SummedImage<scalar_t> x{
      input, g.groups, C, dense ? 1 : g.h.input, dense ? width : g.w.input, position_step(g.h), position_step(g.w),
      last};
  const SummedImage<scalar_t> gradient{grad_output, g.groups, K, rows, width, 1, 1, last};
  // b fills vectors, a is broadcast: as few idle lanes as possible. Where both fill them equally well, b is the input
  // of two channels_last images, whose channels are neighbours in the weight too, and the one with fewer channels of
  // two contiguous ones, which is transposed.
  const int64_t with_filters = ceil_div(K, block) * block * C, with_channels = ceil_div(C, block) * block * K;
  const bool filters = with_filters != with_channels ? with_filters < with_channels : !last && K <= C;
  const SummedImage<scalar_t>&a = filters ? x : gradient, &b = filters ? gradient : x;
  const int64_t a_channels = a.channels, panels = ceil_div(b.channels, block), size = panels * a_channels * block;
  const int64_t a_step = filters ? c.weight_source : c.weight_target,
                b_step = filters ? c.weight_target : c.weight_source;

  // Blocks of positions: a part of a row, some rows, or the rows of several small planes. A tile of a, kMaxScalars
  // channels of a block, stays in the L1 cache while it is multiplied by panels of b, which stay in the L2 cache.
  const int64_t most = last ? 144 : 256;
  const int64_t columns = ceil_div(width, ceil_div(width, most)), column_blocks = ceil_div(width, columns);
  const int64_t block_rows = std::clamp<int64_t>(most / columns, 1, rows), row_blocks = ceil_div(rows, block_rows);
  const int64_t cuts = row_blocks * column_blocks;
  const int64_t images = last || cuts > 1 ? 1 : std::clamp<int64_t>(most / (rows * columns), 1, N);
  const int64_t items = ceil_div(N, images) * cuts, positions = images * block_rows * columns;
  // Tasks share out the panels, which costs but another copy of a, and slices of the sum: as few as keep threads busy.
  constexpr int64_t kTasks = 16, kSliceBytes = 2 << 20, kSlicePositions = 256;
  const int64_t most_slices =
      std::max<int64_t>(1, kSliceBytes / (g.groups * size * static_cast<int64_t>(sizeof(acc_t))));
  const int64_t slices = std::max<int64_t>(
      1, std::min({ceil_div(kTasks, g.groups * panels), items, most_slices, N * rows * width / kSlicePositions}));
  const int64_t tiles = ceil_div(a_channels, kMaxScalars);
  const int64_t chunks = ceil_div(panels * positions * block * static_cast<int64_t>(sizeof(acc_t)), kTileBytes);
  const bool even = slices * g.groups % thread_count() == 0;
  const int64_t shares = std::min(panels, std::max(chunks, even ? 1 : ceil_div(2 * thread_count(), slices * g.groups)));
  const int64_t most_panels = ceil_div(panels, shares);
  const auto first_of = [&](int64_t tile) { return tile * a_channels / tiles; };

  const bool a_copied = widened || !last || (panels > 1 && a.next() > kTilePitch<acc_t>);
  const bool b_copied = widened || !last || b.channels % block != 0 || !dense || crowds_cache<acc_t>(b.next());
  const int64_t a_pitch = last ? kTilePitch<acc_t> : plane_pitch<acc_t>(positions);
  const int64_t panel_pitch = (positions + 1) * block;  // not a multiple of a page
  // A sum in one slice is added up in the weight itself where vectors are neighbours there.
  const bool in_place = !widened && slices == 1 && b_step == 1;
  const Scratch<acc_t> sums(in_place ? 0 : slices * g.groups * size);
  const Vector<acc_t> zeros[2] = {};
  parallel_for(slices * g.groups * shares, multiplications(g), [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> a_copy(a_copied ? (last ? positions : kMaxScalars) * a_pitch : 0),
        b_copy(b_copied ? most_panels * panel_pitch : 0), lines(lanes * columns);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, group = task / shares % g.groups, slice = task / (shares * g.groups);
      const int64_t panel0 = share * panels / shares, panel1 = (share + 1) * panels / shares;
      acc_t* out = sums.data() + (slice * g.groups + group) * size;
      int64_t out_tile = block, out_panel = a_channels * block;
      if constexpr (!widened) {
        if (in_place) {
          out = weight + group * c.weight_group;
          out_tile = a_step;
          out_panel = block;
        }
      }
      const int64_t chunk_channels = std::min(panel1 * block, b.channels) - panel0 * block;
      if (!in_place && b.channels - (panel1 - 1) * block <= lanes) {  // half of this panel is never written
        std::fill_n(out + (panel1 - 1) * out_panel, out_panel, acc_t(0));
      }
      const int64_t item0 = slice * items / slices, item1 = (slice + 1) * items / slices;
      for (int64_t item = item0; item < item1; ++item) {
        const int64_t n0 = item / cuts * images, n1 = std::min(n0 + images, N);
        const int64_t row0 = item % cuts / column_blocks * block_rows, row1 = std::min(row0 + block_rows, rows);
        const int64_t j0 = item % column_blocks * columns, count = std::min(columns, width - j0);
        const int64_t block_lines = (n1 - n0) * (row1 - row0);
        // Calls visit(start of a row in the image, its place among the block's positions).
        const auto for_each_row = [&](const SummedImage<scalar_t>& image, const auto& visit) {
          int64_t at = 0;
          for (int64_t n = n0; n < n1; ++n) {
            for (int64_t row = row0; row < row1; ++row, at += count) visit(image.row(n, group, row, j0), at);
          }
        };
        if (b_copied) {
          for_each_row(b, [&](const scalar_t* from, int64_t at) {
            copy_panels(
                from + panel0 * block * (last ? 1 : b.height * b.width), b, chunk_channels, count, lines.data(),
                columns, panel_pitch, b_copy.data() + at * block);
          });
        }
        // While the tiles walk along the positions, the next block is fetched, evenly: each call of the kernel asks for
        // a part of a's channels and then of b's, in the order of memory.
        const int64_t calls = tiles * (panel1 - panel0);
        const int64_t a_calls = ceil_div(calls * a_channels, a_channels + chunk_channels);
        const auto fetch_next = [&](int64_t call, SumStrides<acc_t>& strides) {
          const int64_t next = item + 1, b_calls = calls - a_calls;
          const bool of_a = call < a_calls;
          if (!last || next == item1) return;
          const SummedImage<scalar_t>& image = of_a ? a : b;
          const int64_t values = positions * (of_a ? a_channels : chunk_channels);
          const int64_t begin = of_a ? call * values / a_calls : (call - a_calls) * values / b_calls;
          const int64_t position = begin / (values / positions), channel = begin % (values / positions);
          strides.ahead = reinterpret_cast<const acc_t*>(
              image.row(
                  next / cuts * images, group, next % cuts / column_blocks * block_rows + position / columns,
                  next % column_blocks * columns + position % columns) +
              channel + (of_a ? 0 : panel0 * block));
          strides.ahead_next = ceil_div(values / kValues, (of_a ? a_calls : b_calls) * count * block_lines);
          strides.ahead_row = strides.ahead_next * count;
        };
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t first = first_of(tile), scalars = first_of(tile + 1) - first;
          SumStrides<acc_t> strides{};
          const acc_t* a_from = a_copy.data();
          if (!a_copied) {
            if constexpr (!widened) a_from = a.row(n0, group, row0, j0) + first;
            strides.a_tile = 1;
            strides.a_next = a.next();
            strides.a_row = a.next_row();
          } else if (last) {
            strides.a_tile = 1;
            strides.a_next = a_pitch;
            strides.a_row = count * a_pitch;
            for_each_row(a, [&](const scalar_t* from, int64_t at) {
              copy_tile(from + first, a.next(), count, scalars, a_copy.data() + at * a_pitch);
            });
          } else {
            strides.a_tile = a_pitch;
            strides.a_next = 1;
            strides.a_row = count;
            for_each_row(a, [&](const scalar_t* from, int64_t at) {
              for (int64_t i = 0; i < scalars; ++i) {
                copy_columns(
                    from + (first + i) * a.height * a.width, a.column_step, count, a_copy.data() + i * a_pitch + at);
              }
            });
          }
          // The copied planes of a block are one row.
          const int64_t sum_rows = last ? block_lines : 1, length = last ? count : block_lines * count;
          for (int64_t panel = panel0; panel < panel1; ++panel) {
            const acc_t* b_from = b_copy.data() + (panel - panel0) * panel_pitch;
            strides.b_next = block;
            strides.b_row = count * block;
            if constexpr (!widened) {
              if (!b_copied) {
                b_from = b.row(n0, group, row0, j0) + panel * block;
                strides.b_next = b.next();
                strides.b_row = b.next_row();
              }
            }
            strides.ahead = a_from;
            strides.ahead_next = strides.ahead_row = 0;
            fetch_next(tile * (panel1 - panel0) + panel - panel0, strides);
            const int64_t used = in_place ? std::min(block, b.channels - panel * block) : block;
            const int64_t vectors = ceil_div(std::min(block, b.channels - panel * block), lanes);
            const auto multiply = item == item0 ? multiply_strided_instance<acc_t, false>(scalars, vectors)
                                                : multiply_strided_instance<acc_t, true>(scalars, vectors);
            multiply(
                a_from, b_from, strides, sum_rows, length, reinterpret_cast<const acc_t*>(zeros), used,
                out + panel * out_panel + first * out_tile, out_tile);
          }
        }
      }
    }
  });
  if (in_place) return;

  parallel_for(g.groups * panels, slices * g.groups * size, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      acc_t* sum = sums.data() + i * a_channels * block;
      for (int64_t slice = 1; slice < slices; ++slice) {
        add_row(sum + slice * g.groups * size, a_channels * block, sum);
      }
      const int64_t first = i % panels * block, targets = std::min(block, b.channels - first);
      scalar_t* to = weight + i / panels * c.weight_group + first * b_step;
      if (b_step == 1) {
        for (int64_t j = 0; j < a_channels; ++j) {
          for (int64_t k = 0; k < targets; k += lanes) {
            store_partial(to + j * a_step + k, load(sum + j * block + k), targets - k);
          }
        }
        continue;
      }
      for (int64_t half = 0; half < targets; half += lanes) {
        for (int64_t j = 0; j < a_channels; j += lanes) {
          const int64_t height = std::min(lanes, a_channels - j);
          transpose_tile(
              sum + j * block + half, block, height, std::min(lanes, targets - half),
              [&](int64_t k, Vector<acc_t> values)
                  CONVOPS_INLINE_LAMBDA { store_partial(to + (half + k) * b_step + j, values, height); });
        }
      }
    }
  });
}

template <typename scalar_t>
void pointwise(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const bool transposed = problem.pass == Conv2dPass::grad_input;
  run_pass<scalar_t>(
      problem, arguments,
      [&](auto... operands) { multiply_pixels<scalar_t>(problem.geometry, transposed, operands...); },
      [&](auto... operands) { multiply_images<scalar_t>(problem.geometry, operands...); });
}

}  // namespace CONVOPS_ISA
}  // namespace convops
