// Pointwise (1x1, unpadded) convolution: a matrix product that reads the image in place. A channels_last image is a
// matrix [pixel][channel] whose rows a tile of kMaxScalars pixels walks along; with a stride only the pixels used are
// read. 2 N P Q C K FLOPs over N H W C + N P Q K elements: from about 64 channels on both sides the FMA units bind.
//
// forward and grad_input of contiguous images are planar_gemm.h's, which reads and writes planes without transposing
// either; grad_weight here is the product of planes with the transposed planes of the side with fewer channels.
#pragma once

#include "../common/plane_sum.h"
#include "planar_gemm.h"

namespace convops {
namespace CONVOPS_ISA {

// Of both operands: the distance between neighbours within a tile (of b 1), along the sum, and between rows of the sum.
// Beside the sum, what comes next is asked for: from `ahead` elements behind the first of a on, ahead_next apart.
// Strides defeat the prefetchers of the hardware, and a few hundred bytes from memory take as long as a tile of FMAs.
struct SumStrides {
  int64_t a_tile, a_next, a_row;
  int64_t b_next, b_row;
  int64_t ahead, ahead_next;
};

// out[j][0 : count] = (kAccumulate ? out[j][...] : init[...]) + sum over rows and i < length of
// a[row * a_row + i * a_next + j * a_tile] * b[row * b_row + i * b_next + ...].
template <typename scalar_t, int kScalars, int kVectors, bool kAccumulate>
void multiply_strided(
    const Compute<scalar_t>* a, const Compute<scalar_t>* b, SumStrides strides, int64_t rows, int64_t length,
    const Compute<scalar_t>* init, int64_t count, scalar_t* out, int64_t out_step) {
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
    const acc_t* ahead = a + row * strides.a_row + strides.ahead;
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
      if constexpr (kAccumulate) sum[j][v] += load(to);
      store_partial(to, sum[j][v], count - v * lanes);
    }
  }
}

template <typename scalar_t>
using MultiplyStrided = void (*)(
    const Compute<scalar_t>*, const Compute<scalar_t>*, SumStrides, int64_t, int64_t, const Compute<scalar_t>*, int64_t,
    scalar_t*, int64_t);

template <typename scalar_t, bool kAccumulate>
MultiplyStrided<scalar_t> multiply_strided_instance(int64_t scalars, int64_t vectors) {
  return select_instance<kMaxScalars>(scalars, []<int N>() {
    return +[](int64_t n) {
      return n == 1 ? &multiply_strided<scalar_t, N, 1, kAccumulate> : &multiply_strided<scalar_t, N, 2, kAccumulate>;
    };
  })(vectors);
}

// Rows whose distance is a multiple of a page would all fall into one set of the first cache.
template <typename T>
constexpr bool crowds_cache(int64_t step) {
  return step * static_cast<int64_t>(sizeof(T)) % 4096 == 0;
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

// Packs a matrix as rows of `pitch`: to[i * pitch + k] = from[i * row_step + k * column_step], zero beyond the columns.
// One of the steps is 1.
template <typename scalar_t>
void pack_matrix(
    const scalar_t* from, int64_t row_step, int64_t column_step, int64_t rows, int64_t columns, int64_t pitch,
    Compute<scalar_t>* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>;
  for (int64_t k = 0; k < pitch; k += lanes) {
    const int64_t width = std::clamp<int64_t>(columns - k, 0, lanes);
    if (width == 0 || column_step == 1) {
      for (int64_t i = 0; i < rows; ++i) {
        store(to + i * pitch + k, width == 0 ? Vector<acc_t>{} : load_partial(from + i * row_step + k, width));
      }
    } else {
      for (int64_t i = 0; i < rows; i += lanes) {
        transpose_tile(
            from + k * column_step + i, column_step, width, std::min(lanes, rows - i),
            [&](int64_t j, Vector<acc_t> values) CONVOPS_INLINE_LAMBDA { store(to + (i + j) * pitch + k, values); });
      }
    }
  }
}

// forward and grad_input of channels_last images.
template <typename scalar_t>
void multiply_pixels(
    const Conv2dGeometry& g, bool transposed, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>, block = kBlock<acc_t>;
  const Correlation c = make_correlation(g, transposed);
  const int64_t C = c.source_channels, K = c.target_channels, panels = ceil_div(K, block);
  const int64_t source_pixel = c.groups * C, target_pixel = c.groups * K;

  // [group][panel][channel][kBlock targets]
  const Scratch<acc_t> packed_weight(c.groups * panels * C * block), init(c.groups * panels * block);
  parallel_for(c.groups * panels, c.groups * K * C, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / panels, first = i % panels * block, count = std::min(block, K - first);
      pack_matrix(
          weight + group * c.weight_group + first * c.weight_target, c.weight_source, c.weight_target, C, count, block,
          packed_weight.data() + i * C * block);
      for (int64_t k = 0; k < block; ++k) {
        init[i * block + k] = bias != nullptr && k < count ? widen(bias[group * K + first + k]) : acc_t(0);
      }
    }
  });

  // Positions of the smaller image in rows of neighbours: all of them where there is no stride.
  const Axis &h = g.h, &w = g.w;
  const bool dense = h.stride == 1 && w.stride == 1;
  const int64_t rows = dense ? 1 : g.N * h.output, width = dense ? g.N * h.output * w.output : w.output;
  const int64_t source_step = (transposed ? 1 : position_step(w)) * source_pixel,
                target_step = (transposed ? position_step(w) : 1) * target_pixel;
  const auto pixel_of = [&](int64_t row, bool strided) {
    if (dense) return int64_t(0);
    return strided ? (row / h.output * h.input + row % h.output * position_step(h)) * w.input : row * w.output;
  };
  constexpr bool widened = !std::is_same_v<scalar_t, acc_t>;
  const bool copied = widened || crowds_cache<acc_t>(source_step);
  const int64_t copied_pitch = plane_pitch<acc_t>(C);

  // Blocks of pixels stay in the L2 cache while all panels go over them.
  const int64_t most_pixels =
      std::max<int64_t>(2 * kMaxScalars, kTileBytes / (C * static_cast<int64_t>(sizeof(acc_t))));
  const int64_t wanted = 4 * thread_count();
  int64_t block_rows = std::max<int64_t>(1, std::min(rows, most_pixels / std::max<int64_t>(1, width)));
  block_rows = std::clamp<int64_t>(rows / wanted, 1, block_rows);
  int64_t block_width = std::min(width, most_pixels);
  if (rows == 1) block_width = std::min(block_width, std::max<int64_t>(2 * kMaxScalars, ceil_div(width, wanted)));
  if (block_width < width) block_width = block_width / kMaxScalars * kMaxScalars;
  const int64_t row_blocks = ceil_div(rows, block_rows), column_blocks = ceil_div(width, block_width);
  const int64_t blocks = row_blocks * column_blocks * c.groups;
  const int64_t shares = std::clamp<int64_t>(ceil_div(2 * thread_count(), blocks), 1, panels);
  parallel_for(blocks * shares, multiplications(g), [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> copy(copied ? block_rows * block_width * copied_pitch : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, group = task / shares % c.groups, pixels = task / (shares * c.groups);
      const int64_t row0 = pixels / column_blocks * block_rows, row1 = std::min(row0 + block_rows, rows);
      const int64_t j0 = pixels % column_blocks * block_width, count = std::min(block_width, width - j0);
      const auto source_row = [&](int64_t row) {
        return source + pixel_of(row, !transposed) * source_pixel + j0 * source_step + group * C;
      };
      for (int64_t row = row0; row < row1 && copied; ++row) {
        for (int64_t j = 0; j < count; ++j) {
          copy_row(source_row(row) + j * source_step, C, copy.data() + ((row - row0) * block_width + j) * copied_pitch);
        }
      }
      const int64_t a_step = copied ? copied_pitch : source_step;
      const int64_t step = ceil_div(count, ceil_div(count, kMaxScalars));
      // The first panel walks along a tile of pixels while the next one is fetched.
      const SumStrides first_strides{a_step, 1, 0, block, 0, step * a_step, step},
          next_strides{a_step, 1, 0, block, 0, 0, 0};
      for (int64_t panel = share * panels / shares; panel < (share + 1) * panels / shares; ++panel) {
        const int64_t targets = std::min(block, K - panel * block), at = group * panels + panel;
        for (int64_t row = row0; row < row1; ++row) {
          const acc_t* from;
          if constexpr (widened) {
            from = copy.data() + (row - row0) * block_width * copied_pitch;
          } else {
            from = copied ? copy.data() + (row - row0) * block_width * copied_pitch : source_row(row);
          }
          scalar_t* to =
              target + pixel_of(row, transposed) * target_pixel + j0 * target_step + group * K + panel * block;
          for (int64_t j = 0; j < count; j += step) {
            multiply_strided_instance<scalar_t, false>(std::min(step, count - j), ceil_div(targets, lanes))(
                from + j * a_step, packed_weight.data() + at * C * block,
                panel == share * panels / shares && !copied ? first_strides : next_strides, 1, C,
                init.data() + at * block, targets, to + j * target_step, target_step);
          }
        }
      }
    }
  });

  // The pixels of a strided image that no output read.
  if (!transposed || dense) return;
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

// Copies `count` positions as [panel][position][kBlock channels]. lines: kLanes rows of `pitch`.
template <typename scalar_t>
void copy_panels(
    const scalar_t* from, const SummedImage<scalar_t>& image, int64_t count, Compute<scalar_t>* lines, int64_t pitch,
    int64_t panel_size, Compute<scalar_t>* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t lanes = kLanes<acc_t>, block = kBlock<acc_t>;
  const int64_t padded = ceil_div(image.channels, block) * block;
  const auto place = [&](int64_t channel) { return to + channel / block * panel_size + channel % block; };
  for (int64_t j = 0; j < count && image.channels_last; ++j) {
    for (int64_t channel = 0; channel < padded; channel += lanes) {
      store(place(channel) + j * block, load_partial(from + j * image.next() + channel, image.channels - channel));
    }
  }
  if (image.channels_last) return;
  for (int64_t channel = 0; channel < padded; channel += lanes) {
    acc_t* at = place(channel);
    const int64_t channels = std::min(lanes, image.channels - channel);
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
  const Correlation c = make_correlation(g, false);
  const int64_t C = c.source_channels, K = c.target_channels;
  // Without a stride all positions of an image, and of a whole channels_last batch, are one row.
  const bool dense = g.h.stride == 1 && g.w.stride == 1, last = g.channels_last;
  const int64_t N = dense && last ? std::min<int64_t>(g.N, 1) : g.N, rows = dense ? 1 : g.h.output,
                width = (dense ? g.h.output : 1) * (dense && last ? g.N : 1) * g.w.output;
  const SummedImage<scalar_t> x{
      input, g.groups, C, dense ? 1 : g.h.input, dense ? width : g.w.input, position_step(g.h), position_step(g.w),
      last};
  const SummedImage<scalar_t> gradient{grad_output, g.groups, K, rows, width, 1, 1, last};
  // b fills vectors, a is broadcast: as few idle lanes as possible. Where both fill them equally well, b is the strided
  // one of two channels_last images, which is copied, and the one with fewer channels of two contiguous ones, which is
  // transposed.
  const int64_t with_filters = ceil_div(K, block) * block * C, with_channels = ceil_div(C, block) * block * K;
  const bool filters = with_filters != with_channels ? with_filters < with_channels : last ? dense : K <= C;
  const SummedImage<scalar_t>&a = filters ? x : gradient, &b = filters ? gradient : x;
  const int64_t a_channels = a.channels, panels = ceil_div(b.channels, block), size = panels * a_channels * block;

  // Blocks of positions, of which b stays in the L2 cache: a part of a row, some rows, or the rows of several small
  // planes. A tile of a, kMaxScalars channels of a block, is multiplied by all panels of b.
  const int64_t most = std::clamp<int64_t>(
      (384 << 10) / (std::max(a_channels, panels * block) * static_cast<int64_t>(sizeof(acc_t))), 128, 1024);
  const int64_t columns = width > 0 ? ceil_div(width, ceil_div(width, most)) : 1,
                column_blocks = ceil_div(width, columns);
  const int64_t block_rows = std::clamp<int64_t>(most / columns, 1, rows), row_blocks = ceil_div(rows, block_rows);
  const int64_t cuts = row_blocks * column_blocks;
  const int64_t images =
      last || cuts > 1 ? 1 : std::clamp<int64_t>(most / (rows * columns), 1, std::max<int64_t>(N, 1));
  const int64_t items = ceil_div(N, images) * cuts, positions = images * block_rows * columns;
  // Tasks share out the slices of the sum, and the tiles of a where the weight is too large to be held many times.
  constexpr int64_t kTasks = 16, kSliceBytes = 2 << 20, kSlicePositions = 1024;
  const int64_t most_slices =
      std::max<int64_t>(1, kSliceBytes / std::max<int64_t>(1, g.groups * size * static_cast<int64_t>(sizeof(acc_t))));
  const int64_t slices = std::max<int64_t>(
      1, std::min({ceil_div(kTasks, g.groups), items, most_slices, N * rows * width / kSlicePositions}));
  const int64_t tiles = ceil_div(a_channels, kMaxScalars),
                shares = std::min(tiles, ceil_div(kTasks, slices * g.groups));
  const auto first_of = [&](int64_t tile) { return tile * a_channels / tiles; };

  const bool a_copied = widened || !last || crowds_cache<acc_t>(a.next());
  const bool b_copied = widened || !last || b.channels % block != 0 || !dense || crowds_cache<acc_t>(b.next());
  constexpr int64_t line = 64 / sizeof(acc_t);
  const int64_t ahead_of_block = a_copied ? 0 : positions * a.next();
  const int64_t a_pitch = last ? kMaxScalars : plane_pitch<acc_t>(positions);
  const Scratch<acc_t> sums(slices * g.groups * size);
  parallel_for(slices * g.groups * shares, multiplications(g), [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> a_copy(a_copied ? (last ? positions : kMaxScalars) * a_pitch : 0),
        b_copy(b_copied ? panels * positions * block : 0), lines(lanes * columns);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, group = task / shares % g.groups, slice = task / (shares * g.groups);
      const int64_t tile0 = share * tiles / shares, tile1 = (share + 1) * tiles / shares;
      acc_t* own = sums.data() + (slice * g.groups + group) * size;
      for (int64_t panel = 0; panel < panels; ++panel) {
        acc_t* to = own + panel * a_channels * block;
        std::fill(to + first_of(tile0) * block, to + first_of(tile1) * block, acc_t(0));
      }
      for (int64_t item = slice * items / slices; item < (slice + 1) * items / slices; ++item) {
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
            copy_panels(from, b, count, lines.data(), columns, positions * block, b_copy.data() + at * block);
          });
        }
        for (int64_t tile = tile0; tile < tile1; ++tile) {
          const int64_t first = first_of(tile), scalars = first_of(tile + 1) - first;
          SumStrides strides{};
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
              for (int64_t j = 0; j < count; ++j) {
                copy_row(from + j * a.next() + first, scalars, a_copy.data() + (at + j) * a_pitch);
              }
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
          for (int64_t panel = 0; panel < panels; ++panel) {
            const acc_t* b_from = b_copy.data() + panel * positions * block;
            strides.b_next = block;
            strides.b_row = count * block;
            if constexpr (!widened) {
              if (!b_copied) {
                b_from = b.row(n0, group, row0, j0) + panel * block;
                strides.b_next = b.next();
                strides.b_row = b.next_row();
              }
            }
            // While the tiles walk in steps of a pixel, the block that follows in memory is fetched in order.
            strides.ahead = panel == 0 ? ahead_of_block + tile * positions * line - first : 0;
            strides.ahead_next = panel == 0 ? line : 0;
            multiply_strided_instance<acc_t, true>(
                scalars, ceil_div(std::min(block, b.channels - panel * block), lanes))(
                a_from, b_from, strides, sum_rows, length, nullptr, block, own + (panel * a_channels + first) * block,
                block);
          }
        }
      }
    }
  });

  const int64_t a_step = filters ? c.weight_source : c.weight_target,
                b_step = filters ? c.weight_target : c.weight_source;
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
  const auto input = static_cast<scalar_t*>(arguments.input);
  const auto weight = static_cast<scalar_t*>(arguments.weight);
  const auto output = static_cast<scalar_t*>(arguments.output);
  const auto bias = static_cast<const scalar_t*>(arguments.bias);
  switch (problem.pass) {
    case Conv2dPass::forward: return multiply_pixels(problem.geometry, false, input, weight, bias, output);
    case Conv2dPass::grad_input: return multiply_pixels(problem.geometry, true, output, weight, bias, input);
    default: return multiply_images(problem.geometry, input, output, weight);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
