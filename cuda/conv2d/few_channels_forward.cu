// output(n, k, p, q) = bias(k) + sum over c, r, s of input(n, c, h, w) weight(k, c, r, s) for up to four channels.
//
// A warp multiplies 32 neighbouring outputs by up to 64 filters. The reduction's order is free as long as both sides
// have the same, so each lane takes a whole slot: 8 bytes of two fragment words by one load, and weights wait in shared
// memory as fragments, 16 bytes a lane. channels_last has outputs as the rows of the product and filters as its
// columns, planes the other way round: either way a lane holds chunks of 16 bytes of what is written, and lanes beside
// it the chunks beside.
//
// 7 x 7, stride 2, 3 -> 64 at 224, 128 images in half types: 13 steps of 16 mma, 4 reads of slots (8 wavefronts) and 4
// of weights (16) for 32 outputs. On an SM of an H100 a step of 4 warps takes 96 clocks of shared memory and 64 to 104
// of tensor cores, 70 us in all, and filling tiles 10 us, which products of the other block hide in part. The bytes (39
// MB read, 206 MB written) take 81 us: expected are 50 % of that floor, and of 3 x 3 to 32 filters, with 3 steps, 80 %.
#include "few_channels.cuh"

namespace convops {

namespace {

// What a lane reads of a step: a slot in half types, half of one in TF32. `mask` has the bits of elements that are
// taps, so that what lies beside them never meets the zeros that stand for their weights.
struct alignas(16) Read {
  int offset;  // in bytes
  uint32_t mask[2];
};

constexpr int kReadBytes = 8, kFragmentBytes = 16 * 32;

int few_steps(const FewChannels& few, int64_t slot_bytes) {
  return static_cast<int>(ceil_div(few.taps * (slot_bytes / kReadBytes), 4));
}

// Shared memory: reads, weights, bias, tile.
CONVOPS_HOST_DEVICE int weights_at(int steps) {
  return steps * 4 * static_cast<int>(sizeof(Read));
}
CONVOPS_HOST_DEVICE int bias_at(const FewChannels& few, int steps) {
  return weights_at(steps) + steps * few.filter_blocks * kFragmentBytes;
}
CONVOPS_HOST_DEVICE int tile_at(const FewChannels& few, int steps) {
  return bias_at(few, steps) + few.tile_filters() * static_cast<int>(sizeof(float));
}

template <typename scalar_t, int kFilterBlocks, bool kChannelsLast, bool kBordered>
__global__ void __launch_bounds__(kBlockThreads, 2) conv2d_few_channels_forward_kernel(
    const FewChannels few, const int steps, const int full_steps, const bool vector_store,
    const scalar_t* __restrict__ input, const scalar_t* __restrict__ weight, const scalar_t* __restrict__ bias,
    scalar_t* __restrict__ output) {
  constexpr int kReads = sizeof(Slot<scalar_t>) / kReadBytes, kReadElements = kSlot / kReads;
  constexpr int kUnit = 32;  // outputs of a warp
  constexpr int kRowBlocks = kChannelsLast ? kUnit / 16 : kFilterBlocks;
  constexpr int kColumnBlocks = kChannelsLast ? 2 * kFilterBlocks : kUnit / 8;
  using Columns = SpreadColumns<scalar_t, kColumnBlocks>;
  using Bits = ElementBits<scalar_t>;
  unsigned char* const shared = dynamic_shared();
  Read* const reads = reinterpret_cast<Read*>(shared);
  uint32_t* const weights = reinterpret_cast<uint32_t*>(shared + weights_at(steps));
  float* const offsets = reinterpret_cast<float*>(shared + bias_at(few, steps));
  unsigned char* const tile = shared + tile_at(few, steps);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t = lane % 4;
  const int filter_tile = static_cast<int>(blockIdx.x) % few.filter_tiles;
  const int first_filter = filter_tile * (16 * kFilterBlocks);

  // The column of taps that element i of slot `tap` is, -1 for none: the last slot of a row may reach past it.
  const auto column_of = [&](int tap, int i) {
    const int column = take_digit(tap, few.by_row_taps) * few.fold + few.shift_of(i);
    return i < few.fold * few.channels && column < few.w.window.kernel ? column : -1;
  };
  for (int i = thread; i < 4 * steps; i += kBlockThreads) {
    const int tap = i / kReads, part = i % kReads;
    Read read{};
    if (tap < few.taps) {
      read.offset = few.tap_offset(tap) * static_cast<int>(sizeof(Slot<scalar_t>)) + part * kReadBytes;
#pragma unroll
      for (int e = 0; e < kReadElements; ++e) {
        const int element = part * kReadElements + e;
        constexpr uint32_t kOnes = sizeof(scalar_t) == 2 ? 0xffff : 0xffffffff;
        const int bit = e * 8 * static_cast<int>(sizeof(scalar_t));
        // Channels that the image does not have are zeros in the tile.
        if (element >= few.fold * few.channels || column_of(tap, element) >= 0) {
          read.mask[bit / 32] |= kOnes << bit % 32;
        }
      }
    }
    reads[i] = read;
  }
  // As words of a fragment: two filters of a lane, two words of its read.
  const auto* const weight_bits = reinterpret_cast<const bits_t<scalar_t>*>(weight);
  for (int i = thread; i < steps * kFilterBlocks * 64; i += kBlockThreads) {
    const int second = i % 2, of_lane = i / 2 % 32, block = i / 64 % kFilterBlocks, step = i / (64 * kFilterBlocks);
    const int column = of_lane / 4;
    const int filter =
        first_filter + (kChannelsLast ? Columns::column(2 * block + second, column) : 16 * block + column + 8 * second);
    const int read = 4 * step + of_lane % 4, tap = read / kReads, part = read % kReads;
    Vector<bits_t<scalar_t>, kReadElements> values{};
    if (filter < few.filters && tap < few.taps) {
      int r = tap;
      take_digit(r, few.by_row_taps);
#pragma unroll
      for (int e = 0; e < kReadElements; ++e) {
        const int element = part * kReadElements + e, s = column_of(tap, element);
        if (s >= 0) {
          values[e] = Bits::rounded(
              weight_bits
                  [static_cast<int64_t>(filter) * few.weight.n + few.channel_of(element) * few.weight.c +
                   r * few.weight.h + s * few.weight.w]);
        }
      }
    }
    // In the order of registers: as columns the words of one filter and of the other, as rows the other way round.
    uint32_t* const to = weights + i / 2 * 4;
    const auto& words = reinterpret_cast<const Vector<uint32_t, 2>&>(values);
#pragma unroll
    for (int half = 0; half < 2; ++half) to[kChannelsLast ? 2 * second + half : second + 2 * half] = words[half];
  }
  for (int i = thread; i < 16 * kFilterBlocks; i += kBlockThreads) {
    const int filter = first_filter + i;
    offsets[i] = bias != nullptr && filter < few.filters ? static_cast<float>(bias[filter]) : 0.0f;
  }

  const int tiles = few.images * few.h.tiles * few.w.tiles, plane = few.h.window.output * few.w.window.output;
  const int units = (few.tile_pixels() + kUnit - 1) / kUnit;
  for (int number = static_cast<int>(blockIdx.x) / few.filter_tiles; number < tiles;
       number += static_cast<int>(gridDim.x) / few.filter_tiles) {
    const FewTile at(few, number);
    // Nobody reads the last tile any more; what is above has been written.
    __syncthreads();
    fill_tile<scalar_t, kBordered>(few, at, input, reinterpret_cast<Slot<scalar_t>*>(tile));
    __syncthreads();
    for (int unit = warp; unit < units; unit += kFewWarps) {
      // The outputs whose slots this lane reads; past the tile's end any will do.
      const unsigned char* from[4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const int pixel = unit * kUnit + (kChannelsLast ? 8 * m + g : Columns::column(m, g));
        int row = pixel < few.tile_pixels() ? pixel : 0;
        const int column = take_digit(row, few.by_columns);
        from[m] = tile + (row * few.line + column) * static_cast<int>(sizeof(Slot<scalar_t>));
      }
      float sums[kRowBlocks][kColumnBlocks][4] = {};
      const auto multiply = [&](int step, auto masked) {
        const Read& read = reads[4 * step + t];
        uint32_t x[4][2];
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          const auto words = Vector<uint32_t, 2>::load(reinterpret_cast<const uint32_t*>(from[m] + read.offset));
#pragma unroll
          for (int i = 0; i < 2; ++i) x[m][i] = masked.value ? words[i] & read.mask[i] : words[i];
        }
        Vector<uint32_t, 4> f[kFilterBlocks];
#pragma unroll
        for (int b = 0; b < kFilterBlocks; ++b) {
          f[b] = Vector<uint32_t, 4>::load(weights + ((step * kFilterBlocks + b) * 32 + lane) * 4);
        }
#pragma unroll
        for (int i = 0; i < kRowBlocks; ++i) {
          uint32_t a[4];
#pragma unroll
          for (int word = 0; word < 4; ++word) {
            if constexpr (kChannelsLast) {
              a[word] = x[2 * i + word % 2][word / 2];
            } else {
              a[word] = f[i][word];
            }
          }
#pragma unroll
          for (int j = 0; j < kColumnBlocks; ++j) {
            uint32_t b[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              if constexpr (kChannelsLast) {
                b[half] = f[j / 2][j % 2 * 2 + half];
              } else {
                b[half] = x[j][half];
              }
            }
            multiply_accumulate<scalar_t>(sums[i][j], a, b);
          }
        }
      };
#pragma unroll 1
      for (int step = 0; step < full_steps; ++step) multiply(step, std::false_type());
#pragma unroll 1
      for (int step = full_steps; step < steps; ++step) multiply(step, std::true_type());

      scalar_t* const image = output + static_cast<int64_t>(at.n) * few.output.n;
      // The place in its plane of an output that there is.
      const auto place = [&](int pixel) {
        int row = pixel;
        const int column = take_digit(row, few.by_columns);
        return row < at.rows && column < at.columns ? (at.p + row) * few.w.window.output + at.q + column : -1;
      };
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = 16 * i + 8 * half + g;
          const int pixel_of_row = kChannelsLast ? place(unit * kUnit + row) : 0;
#pragma unroll
          for (int c = 0; c < Columns::kChunks; ++c) {
            constexpr int kChunk = Columns::kChunk;
            const int column = (4 * c + t) * kChunk;
            Vector<scalar_t, kChunk> values;
#pragma unroll
            for (int e = 0; e < kChunk; ++e) {
              const float sum = sums[i][c * kChunk / 2 + e / 2][2 * half + e % 2];
              values[e] = static_cast<scalar_t>(sum + offsets[kChannelsLast ? column + e : row]);
            }
            if constexpr (kChannelsLast) {
              const int filter = first_filter + column;
              if (pixel_of_row < 0 || filter >= few.filters) continue;
              scalar_t* const to = image + pixel_of_row * few.filters + filter;
              if (vector_store) {
                values.store(to);
              } else {
#pragma unroll
                for (int e = 0; e < kChunk; ++e) {
                  if (filter + e < few.filters) to[e] = values[e];
                }
              }
            } else {
              const int filter = first_filter + row, pixel = unit * kUnit + column;
              if (filter >= few.filters) continue;
              scalar_t* const to = image + filter * plane;
              if (vector_store) {
                const int first = place(pixel);
                if (first >= 0) values.store(to + first);
              } else {
#pragma unroll
                for (int e = 0; e < kChunk; ++e) {
                  const int at_pixel = place(pixel + e);
                  if (at_pixel >= 0) to[at_pixel] = values[e];
                }
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace

bool few_channels_plan_forward(const Conv2dProblem& problem, FewChannels& few) {
  const int64_t slot_bytes = kSlot * element_size(problem.dtype);
  const auto shared_bytes = [&](const FewChannels& plan) {
    return tile_at(plan, few_steps(plan, slot_bytes)) + plan.tile_slots * slot_bytes;
  };
  // Weights take less than two thirds of the room, with fewer filters in a tile of large ones.
  for (int blocks = most_filter_blocks(problem.geometry); blocks > 0; blocks /= 2) {
    if (!plan_few_channels(problem, blocks, shared_bytes, few)) continue;
    if (blocks == 1 || tile_at(few, few_steps(few, slot_bytes)) <= kFewSharedBytes * 2 / 3) return true;
  }
  return false;
}

void few_channels_forward(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  FewChannels few{};
  few_channels_plan_forward(problem, few);
  const int64_t slot_bytes = kSlot * element_size(problem.dtype);
  const int steps = few_steps(few, slot_bytes);
  // Steps before the first slot that is no tap, whole or in part.
  const int first_partial = problem.geometry.w.kernel % few.fold == 0 ? few.taps : few.row_taps - 1;
  const int full_steps = first_partial * static_cast<int>(slot_bytes / kReadBytes) / 4;
  const int64_t blocks = std::min<int64_t>(few.tiles(), std::max(1, kFewBlocks / few.filter_tiles));
  dispatch_few_channels(problem.dtype, few, [&](auto tag, auto filter_blocks, auto channels_last, auto bordered) {
    using scalar_t = typename decltype(tag)::type;
    constexpr int kChunk = kVectorBytes / sizeof(scalar_t);
    const bool vector_store = outputs_in_chunks(few, channels_last.value, kChunk, arguments.output);
    launch(
        "conv2d",
        conv2d_few_channels_forward_kernel<scalar_t, filter_blocks.value, channels_last.value, bordered.value>,
        blocks * few.filter_tiles, kBlockThreads, tile_at(few, steps) + few.tile_slots * slot_bytes, arguments.stream,
        few, steps, full_steps, vector_store, static_cast<const scalar_t*>(arguments.input),
        static_cast<const scalar_t*>(arguments.weight), static_cast<const scalar_t*>(arguments.bias),
        static_cast<scalar_t*>(arguments.output));
  });
}

}  // namespace convops
