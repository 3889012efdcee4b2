// weight(k, c, r, s) = sum over n, p, q of output(n, k, p, q) input(n, c, h, w) for up to four channels.
//
// The rows of the product are the elements of slots, its columns filters, and its reduction runs over outputs. A warp
// owns 8 slots of taps and up to 64 filters, in 64 registers a lane, and goes over a tile's outputs; where there are
// fewer than 8 such groups of taps, warps share the outputs of one. A lane reads its slot for 4 neighbouring outputs
// and pairs the halves: rows g and g + 8 are two elements of its slot, so that nothing is read twice. The gradient
// waits in shared memory as it lies in memory. Each block, and each warp that shares, writes the sums of its tiles to a
// slice of its own, and the slices are added up in order.
//
// 7 x 7, stride 2, 3 -> 64 at 224, 128 images in half types: per 16 outputs 7 warps read 26 wavefronts each, on an SM
// of an H100 80 us in all, and multiply for 50 to 80 us. Its bytes (39 MB and 206 MB) take 81 us: 50 % of that floor
// are to be expected, and of 3 x 3 to 32 filters 60 %.
#include "../common/block_sum.cuh"
#include "few_channels.cuh"

namespace convops {

namespace {

constexpr int kGroupTaps = 8;

// How the sums are shared out.
struct FewSums {
  int groups;     // of taps, of a block
  int tap_tiles;  // of so many groups
  int splits;     // warps that share a group
  int blocks;     // for each tile of the weight

  explicit FewSums(const FewChannels& few) {
    const int64_t all = ceil_div(few.taps, kGroupTaps);
    tap_tiles = static_cast<int>(ceil_div(all, kFewWarps));
    groups = static_cast<int>(ceil_div(all, tap_tiles));
    splits = kFewWarps / groups;
    const int64_t wanted = std::max<int64_t>(1, kFewBlocks / (int64_t{tap_tiles} * few.filter_tiles));
    blocks = static_cast<int>(std::max<int64_t>(1, std::min(wanted, few.tiles())));
  }
};

// The tile of the gradient: lines of filters in channels_last, else of outputs, in chunks of 16 bytes with some between
// lines, so that lanes meet different banks.
template <bool kChannelsLast>
CONVOPS_HOST_DEVICE int gradient_line(const FewChannels& few, int element) {
  if (kChannelsLast) return few.tile_filters() * element + (element == 4 ? 32 : 16);
  return ((few.tile_pixels() + 15) / 16 * element | 1) * 16;
}
CONVOPS_HOST_DEVICE int padded_pixels(const FewChannels& few) {
  return (few.tile_pixels() + 15) / 16 * 16;
}

// Shared memory: offsets of taps and of outputs, gradient, tile.
CONVOPS_HOST_DEVICE int gradient_at(const FewChannels& few) {
  return (kFewWarps * kGroupTaps + padded_pixels(few)) * static_cast<int>(sizeof(int));
}
CONVOPS_HOST_DEVICE int gradient_bytes(const FewChannels& few, int element) {
  return few.channels_last ? padded_pixels(few) * gradient_line<true>(few, element)
                           : few.tile_filters() * gradient_line<false>(few, element);
}

template <typename scalar_t, int kFilterBlocks, bool kChannelsLast, bool kBordered>
__global__ void __launch_bounds__(kBlockThreads, 2) conv2d_few_channels_grad_weight_kernel(
    const FewChannels few, const FewSums share, const bool vector_load, const scalar_t* __restrict__ input,
    const scalar_t* __restrict__ grad_output, float* __restrict__ partials) {
  constexpr int kChunk = kVectorBytes / sizeof(scalar_t);
  constexpr int kStep = 2 * kChunk;  // outputs of an instruction
  constexpr int kReads = kStep / 4;  // of them a lane reads
  constexpr int kFilters = 16 * kFilterBlocks;
  using Chunk = Vector<scalar_t, kChunk>;
  unsigned char* const shared = dynamic_shared();
  int* const tap_offsets = reinterpret_cast<int*>(shared);
  int* const pixel_offsets = tap_offsets + kFewWarps * kGroupTaps;
  unsigned char* const gradient = shared + gradient_at(few);
  unsigned char* const tile = gradient + gradient_bytes(few, sizeof(scalar_t));
  const int line_bytes = gradient_line<kChannelsLast>(few, sizeof(scalar_t));

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t = lane % 4;
  int block = static_cast<int>(blockIdx.x);
  const int first_filter = block % few.filter_tiles * kFilters;
  block /= few.filter_tiles;
  const int first_tap = block % share.tap_tiles * share.groups * kGroupTaps;
  block /= share.tap_tiles;
  const int group = warp % share.groups, split = warp / share.groups;

  if (thread < kFewWarps * kGroupTaps) {
    const int tap = first_tap + thread;
    tap_offsets[thread] = tap < few.taps ? few.tap_offset(tap) * static_cast<int>(sizeof(Slot<scalar_t>)) : 0;
  }

  float sums[2][2 * kFilterBlocks][4] = {};
  const int tiles = few.images * few.h.tiles * few.w.tiles, plane = few.h.window.output * few.w.window.output;
  for (int number = block; number < tiles; number += share.blocks) {
    const FewTile at(few, number);
    // Outputs that there are, row by row, and as many more as fill an instruction.
    const Divisor<int32_t>& by_columns = at.columns == few.w.outputs ? few.by_columns : few.by_edge_columns;
    const int count = at.rows * at.columns, padded = (count + kStep - 1) / kStep * kStep;
    const scalar_t* const image = grad_output + static_cast<int64_t>(at.n) * few.output.n;
    const auto place = [&](int pixel) {
      const int column = take_digit(pixel, by_columns);
      return (at.p + pixel) * few.w.window.output + at.q + column;
    };
    __syncthreads();
    for (int i = thread; i < padded; i += kBlockThreads) {
      int row = i < count ? i : 0;
      const int column = take_digit(row, by_columns);
      pixel_offsets[i] = (row * few.line + column) * static_cast<int>(sizeof(Slot<scalar_t>));
    }
    // A chunk of the gradient: outputs from `pixel` on of a filter, or filters from `filter` on of an output. Of what
    // is not there the zeros are added up, or nothing.
    const auto load_chunk = [&](unsigned char* to, int pixel, int filter) {
      const bool there = pixel < count && filter < few.filters;
      if (vector_load) {
        const scalar_t* from = image;
        if (there) from += kChannelsLast ? place(pixel) * few.filters + filter : filter * plane + place(pixel);
        copy_async(to, from, there);
        return;
      }
      Chunk values;
#pragma unroll
      for (int e = 0; e < kChunk; ++e) {
        const int i = kChannelsLast ? pixel : pixel + e, k = kChannelsLast ? filter + e : filter;
        values[e] = static_cast<scalar_t>(0.0f);
        if (i < count && k < few.filters) {
          values[e] = image[kChannelsLast ? place(i) * few.filters + k : k * plane + place(i)];
        }
      }
      values.store(reinterpret_cast<scalar_t*>(to));
    };
    if constexpr (kChannelsLast) {
      constexpr int kLine = kFilters / kChunk;
      for (int i = thread; i < padded * kLine; i += kBlockThreads) {
        const int pixel = i / kLine, chunk = i % kLine;
        load_chunk(gradient + pixel * line_bytes + chunk * kVectorBytes, pixel, first_filter + chunk * kChunk);
      }
    } else {
      for (int filter = warp; filter < kFilters; filter += kFewWarps) {
        for (int chunk = lane; chunk < padded / kChunk; chunk += 32) {
          load_chunk(gradient + filter * line_bytes + chunk * kVectorBytes, chunk * kChunk, first_filter + filter);
        }
      }
    }
    copy_async_commit();
    fill_tile<scalar_t, kBordered>(few, at, input, reinterpret_cast<Slot<scalar_t>*>(tile));
    copy_async_wait<0>();
    __syncthreads();

    const unsigned char* const from = tile + tap_offsets[group * kGroupTaps + g];
    const auto multiply = [&](int step, auto masked) {
      // Words of a slot for 4 outputs, in half types, 2t, 2t + 1, 2t + 8 and 2t + 9, or for 2, in TF32, t and t + 4.
      constexpr int kWords = sizeof(Slot<scalar_t>) / 4;
      Vector<uint32_t, kWords> x[kReads];
#pragma unroll
      for (int i = 0; i < kReads; ++i) {
        const int pixel = step * kStep + (kReads == 4 ? 2 * t + i % 2 + i / 2 * 8 : t + 4 * i);
        x[i] = Vector<uint32_t, kWords>::load(reinterpret_cast<const uint32_t*>(from + pixel_offsets[pixel]));
        // What is no output meets a zero of the gradient, and must not be infinite.
        if (masked.value && pixel >= count) x[i] = Vector<uint32_t, kWords>{};
      }
      uint32_t a[2][4];
#pragma unroll
      for (int f = 0; f < 2; ++f) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (sizeof(scalar_t) == 2) {
            const uint32_t first = x[2 * half][f], second = x[2 * half + 1][f];
            a[f][2 * half] = (first & 0xffff) | second << 16;
            a[f][2 * half + 1] = first >> 16 | (second & 0xffff0000);
          } else {
            a[f][2 * half] = x[half][2 * f];
            a[f][2 * half + 1] = x[half][2 * f + 1];
          }
        }
      }
#pragma unroll
      for (int b = 0; b < kFilterBlocks; ++b) {
        uint32_t words[4];
        [[maybe_unused]] const int in_step = lane / 8 % 2, in_block = lane / 16;
        if constexpr (!kChannelsLast) {
          load_matrices(
              words, gradient + (16 * b + 8 * in_block + lane % 8) * line_bytes + (2 * step + in_step) * kVectorBytes);
        } else if constexpr (sizeof(scalar_t) == 2) {
          load_matrices_transposed(
              words,
              gradient + (kStep * step + 8 * in_step + lane % 8) * line_bytes + (2 * b + in_block) * kVectorBytes);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const unsigned char* const line = gradient + (kStep * step + 4 * (i % 2) + t) * line_bytes;
            words[i] = reinterpret_cast<const uint32_t*>(line)[16 * b + 8 * (i / 2) + g];
          }
        }
        if constexpr (sizeof(scalar_t) == 4) {
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = round_to_tf32(words[i]);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint32_t pair[2] = {words[2 * j], words[2 * j + 1]};
#pragma unroll
          for (int f = 0; f < 2; ++f) multiply_accumulate<scalar_t>(sums[f][2 * b + j], a[f], pair);
        }
      }
    };
    if (split < share.splits) {
      const int full = count / kStep;
#pragma unroll 1
      for (int step = split; step < full; step += share.splits) multiply(step, std::false_type());
      if (full * kStep < count && full % share.splits == split) multiply(full, std::true_type());
    }
  }

  if (split >= share.splits) return;
  const int tap = first_tap + group * kGroupTaps + g;
  if (tap >= few.taps) return;
  int r = tap;
  const int first_column = take_digit(r, few.by_row_taps) * few.fold;
  const int64_t count = static_cast<int64_t>(few.filters) * few.weight.n;
  float* const slice = partials + (static_cast<int64_t>(block) * share.splits + split) * count;
#pragma unroll
  for (int element = 0; element < kSlot; ++element) {
    const int s = first_column + few.shift_of(element);
    if (element >= few.fold * few.channels || s >= few.w.window.kernel) continue;
    const int64_t at = few.channel_of(element) * few.weight.c + r * few.weight.h + s * few.weight.w;
#pragma unroll
    for (int j = 0; j < 2 * kFilterBlocks; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int filter = first_filter + 8 * j + 2 * t + e;
        if (filter < few.filters) {
          slice[at + static_cast<int64_t>(filter) * few.weight.n] = sums[element / 2][j][element % 2 * 2 + e];
        }
      }
    }
  }
}

// weight[i] = sum of partials[slice][i]: 32 threads a weight, for there are more slices than weights.
constexpr int kSumWeights = kBlockThreads / 32;
template <typename scalar_t>
__global__ void __launch_bounds__(kBlockThreads) conv2d_few_channels_sum_kernel(
    const float* __restrict__ partials, scalar_t* __restrict__ weight, int64_t count, int slices) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSumWeights + threadIdx.x % kSumWeights;
  float sum[1] = {};
  if (i < count) {
#pragma unroll 4
    for (int slice = static_cast<int>(threadIdx.x) / kSumWeights; slice < slices; slice += 32) {
      sum[0] += partials[slice * count + i];
    }
  }
  block_sum<kSumWeights>(sum);
  if (threadIdx.x < kSumWeights && i < count) weight[i] = static_cast<scalar_t>(sum[0]);
}

int64_t shared_bytes(const FewChannels& few, int64_t element) {
  return gradient_at(few) + gradient_bytes(few, static_cast<int>(element)) + few.tile_slots * kSlot * element;
}

}  // namespace

bool few_channels_plan_grad_weight(const Conv2dProblem& problem, FewChannels& few) {
  const int64_t element = element_size(problem.dtype);
  return plan_few_channels(
      problem, most_filter_blocks(problem.geometry),
      [&](const FewChannels& plan) { return shared_bytes(plan, element); }, few);
}

int64_t few_channels_slices(const FewChannels& few) {
  const FewSums share(few);
  return int64_t{share.blocks} * share.splits;
}

void few_channels_grad_weight(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  FewChannels few{};
  few_channels_plan_grad_weight(problem, few);
  const FewSums share(few);
  const int64_t count = problem.geometry.weight_numel();
  float* const partials = static_cast<float*>(arguments.workspace);
  dispatch_few_channels(problem.dtype, few, [&](auto tag, auto filter_blocks, auto channels_last, auto bordered) {
    using scalar_t = typename decltype(tag)::type;
    constexpr int kChunk = kVectorBytes / sizeof(scalar_t);
    const bool vector_load = outputs_in_chunks(few, channels_last.value, kChunk, arguments.output);
    launch(
        "conv2d",
        conv2d_few_channels_grad_weight_kernel<scalar_t, filter_blocks.value, channels_last.value, bordered.value>,
        int64_t{share.blocks} * share.tap_tiles * few.filter_tiles, kBlockThreads, shared_bytes(few, sizeof(scalar_t)),
        arguments.stream, few, share, vector_load, static_cast<const scalar_t*>(arguments.input),
        static_cast<const scalar_t*>(arguments.output), partials);
    launch(
        "conv2d", conv2d_few_channels_sum_kernel<scalar_t>, ceil_div(count, kSumWeights), kBlockThreads, 0,
        arguments.stream, partials, static_cast<scalar_t*>(arguments.weight), count,
        static_cast<int>(few_channels_slices(few)));
  });
}

}  // namespace convops
