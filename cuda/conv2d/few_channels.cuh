// Convolutions of images of one to four channels (the first of a network, filters of images) on tensor cores.
//
// A block keeps a tile of the image in shared memory, in slots of four elements: the channels of a pixel, or, of one or
// two channels, those of the 4 or 2 pixels that neighbouring taps of a row read. So a filter of R rows and S columns is
// R x ceil(S / fold) slots, and what it multiplies in vain are the fourth channel of three and, at the end of each row
// of taps, up to fold - 1 elements.
//
// Neighbouring outputs read neighbouring slots whatever the stride: a tile holds the pixels of each residue modulo the
// stride side by side. So a tap is one offset from the slot of an output, lanes meet different banks, and one kernel
// serves every kernel size, stride, dilation, pad and border. The layout of the image only matters where a tile is
// filled: a thread gathers the elements of a slot, lanes side by side. That takes about 20 instructions a slot, where
// 3 x 3 taps of 32 filters take twice as many for its products.
#pragma once

#include "../common/dtype.cuh"
#include "../common/image.cuh"
#include "../common/launch.cuh"
#include "../common/tensor_core.cuh"
#include "../common/vector.cuh"
#include "conv2d.cuh"

namespace convops {

constexpr int kSlot = 4;  // elements
constexpr int kFewWarps = kBlockThreads / 32;
// Two blocks for each of the 132 SMs of an H100 go from tile to tile.
constexpr int kFewBlocks = 264;
// Two blocks of the largest share an SM of a GPU of compute capability 9, and one has room on each since 8.0.
constexpr int64_t kFewSharedBytes = 96 * 1024;

// An axis of a tile: position `phase` + index * stride of it is element (phase, index).
struct TileAxis {
  WindowAxis<int32_t> window;
  int tap_step;        // pixels from a tap to the next
  int outputs, tiles;  // of a tile; tiles along the axis
  int phases, length;  // residues that taps read, and indices of each
  int pitch;           // elements from a phase to the next
  Divisor<int32_t> by_phases, by_tiles, by_stride;

  TileAxis() = default;
  TileAxis(const Axis& axis, int taps, int tap_step, int outputs)
      : window(axis),
        tap_step(tap_step),
        outputs(outputs),
        tiles(static_cast<int>(ceil_div(axis.output, outputs))),
        phases(std::min(window.stride, (taps - 1) * tap_step + 1)),
        length(outputs + (taps - 1) * tap_step / window.stride),
        pitch(length),
        by_phases(phases),
        by_tiles(tiles),
        by_stride(window.stride) {}

  int positions() const { return phases * length; }
  // Where a tap lies, seen from the place of an output.
  __device__ int tap_offset(int tap) const {
    int index = tap * tap_step;
    const int phase = take_digit(index, by_stride);
    return phase * pitch + index;
  }
};

struct FewChannels {
  int images, channels, filters;
  Border border;
  bool channels_last;
  ImageSteps<int32_t> input, output, weight;
  int fold;       // pixels of a slot
  int row_taps;   // slots of a row of taps
  int taps;       // slots of a filter
  TileAxis h, w;  // of slots
  int line;       // slots from a line of the tile to the next
  int64_t tile_slots;
  int filter_blocks, filter_tiles;  // of 16 filters in a tile; tiles
  Divisor<int32_t> by_row_taps, by_columns, by_edge_columns;

  CONVOPS_HOST_DEVICE int tile_filters() const { return 16 * filter_blocks; }
  CONVOPS_HOST_DEVICE int tile_pixels() const { return h.outputs * w.outputs; }
  int64_t tiles() const { return int64_t{images} * h.tiles * w.tiles; }

  // In slots.
  __device__ int tap_offset(int tap) const {
    const int column = take_digit(tap, by_row_taps);
    return h.tap_offset(tap) * line + w.tap_offset(column);
  }

  // Element i of a slot of taps is weight (channel, column of taps), if it is any.
  CONVOPS_HOST_DEVICE int channel_of(int i) const { return i % channels; }
  CONVOPS_HOST_DEVICE int shift_of(int i) const { return i / channels; }
};

// The outputs of a tile and where its image lies.
struct FewTile {
  int n, p, q;        // the first output
  int rows, columns;  // that there are

  __device__ FewTile(const FewChannels& few, int tile) {
    q = take_digit(tile, few.w.by_tiles) * few.w.outputs;
    p = take_digit(tile, few.h.by_tiles) * few.h.outputs;
    n = tile;
    rows = few.h.window.output - p < few.h.outputs ? few.h.window.output - p : few.h.outputs;
    columns = few.w.window.output - q < few.w.outputs ? few.w.window.output - q : few.w.outputs;
  }
};

// The bits of an element as tensor cores are to see it.
template <typename scalar_t>
struct ElementBits {
  using type = uint16_t;
  __device__ static uint16_t rounded(uint16_t bits) { return bits; }
};
template <>
struct ElementBits<float> {
  using type = uint32_t;
  __device__ static uint32_t rounded(uint32_t bits) { return round_to_tf32(bits); }
};
template <typename scalar_t>
using bits_t = typename ElementBits<scalar_t>::type;
template <typename scalar_t>
using Slot = Vector<bits_t<scalar_t>, kSlot>;

// The block's warps fill the tile, a line each. What is neither a pixel nor one that the border shows is zero.
template <typename scalar_t, bool kBordered>
__device__ void fill_tile(
    const FewChannels& few, const FewTile& at, const scalar_t* __restrict__ input, Slot<scalar_t>* tile) {
  using Bits = ElementBits<scalar_t>;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const auto* const image = reinterpret_cast<const bits_t<scalar_t>*>(input) + static_cast<int64_t>(at.n) * few.input.n;
  const int first_h = few.h.window.start(at.p), first_w = few.w.window.start(at.q);
  const int lines = few.h.phases * few.h.length, columns = few.w.phases * few.w.length;
  const auto pixel_of = [&](const WindowAxis<int32_t>& axis, int position) {
    // A border's rule is for the padding; a tile may reach further.
    if (kBordered) position = border_pixel(few.border, position, axis.input);
    return axis.contains(position) ? position : -1;
  };
  // Known to the compiler, the elements of a slot are loads without a branch that are under way together.
  const auto fill = [&](auto channels) {
    constexpr int kChannels = channels.value;
    for (int y = warp; y < lines; y += kFewWarps) {
      int index_h = y;
      const int phase_h = take_digit(index_h, few.h.by_phases);
      const int h = pixel_of(few.h.window, first_h + index_h * few.h.window.stride + phase_h);
      Slot<scalar_t>* const to = tile + (phase_h * few.h.pitch + index_h) * few.line;
      const auto* const row = image + h * few.input.h;
#pragma unroll 4
      for (int x = lane; x < columns; x += 32) {
        int index_w = x;
        const int phase_w = take_digit(index_w, few.w.by_phases);
        const int first = first_w + index_w * few.w.window.stride + phase_w;
        Slot<scalar_t> slot;
#pragma unroll
        for (int shift = 0; shift < ceil_div(kSlot, kChannels); ++shift) {
          const int w = pixel_of(few.w.window, first + shift * few.w.window.dilation);
          const bool shown = h >= 0 && w >= 0 && shift < kSlot / kChannels;
#pragma unroll
          for (int c = 0; c < kChannels && shift * kChannels + c < kSlot; ++c) {
            bits_t<scalar_t> bits = 0;
            if (shown) bits = row[w * few.input.w + c * few.input.c];
            slot[shift * kChannels + c] = Bits::rounded(bits);
          }
        }
        slot.store(reinterpret_cast<bits_t<scalar_t>*>(to + phase_w * few.w.pitch + index_w));
      }
    }
  };
  switch (few.channels) {
    case 1: return fill(std::integral_constant<int, 1>());
    case 2: return fill(std::integral_constant<int, 2>());
    case 3: return fill(std::integral_constant<int, 3>());
    default: return fill(std::integral_constant<int, 4>());
  }
}

// The columns of `blocks` blocks of a product, 8 each, ordered so that what a lane holds of all of them lies side by
// side, in chunks of 16 bytes where there are as many: column n of block j.
template <typename scalar_t, int kBlocks>
struct SpreadColumns {
  static constexpr int kChunk = std::min<int>(kVectorBytes / sizeof(scalar_t), 2 * kBlocks);
  static constexpr int kChunks = 2 * kBlocks / kChunk;

  __device__ static int column(int j, int n) {
    return j / (kChunk / 2) * (4 * kChunk) + n / 2 * kChunk + j % (kChunk / 2) * 2 + n % 2;
  }
};

// Whether the outputs of a tile, pixels counted row by row, or filters where they lie side by side, come to lie in
// memory in whole, aligned chunks.
inline bool outputs_in_chunks(const FewChannels& few, bool channels_last, int chunk, const void* outputs) {
  if (!is_aligned(outputs)) return false;
  if (channels_last) return few.filters % chunk == 0;
  const int P = few.h.window.output, Q = few.w.window.output;
  if (static_cast<int64_t>(P) * Q % chunk != 0) return false;
  return few.w.tiles == 1 ? few.tile_pixels() % chunk == 0 : Q % chunk == 0 && few.w.outputs % chunk == 0;
}

// Cuts a problem into tiles: of those that leave `shared_bytes(few)` within the limit, the ones with the least work for
// the busiest block, in instructions of a warp. False where none does. Depends on the geometry alone.
template <typename SharedBytes>
bool plan_few_channels(
    const Conv2dProblem& problem, int filter_blocks, const SharedBytes& shared_bytes, FewChannels& best) {
  const Conv2dGeometry& geometry = problem.geometry;
  const Axis h = without_unused_steps(geometry.h), w = without_unused_steps(geometry.w);
  const int element = static_cast<int>(element_size(problem.dtype)), chunk = kVectorBytes / element;
  FewChannels few{};
  few.images = static_cast<int>(geometry.N);
  few.channels = static_cast<int>(geometry.C);
  few.filters = static_cast<int>(geometry.K);
  few.border = geometry.border();
  few.channels_last = geometry.channels_last;
  few.input = ImageSteps<int32_t>(geometry.channels_last, geometry.C, h.input, w.input);
  few.output = ImageSteps<int32_t>(geometry.channels_last, geometry.K, h.output, w.output);
  few.weight = ImageSteps<int32_t>(geometry.weight_channels_last, geometry.C, h.kernel, w.kernel);
  few.fold = kSlot / few.channels;
  few.row_taps = static_cast<int>(ceil_div(w.kernel, few.fold));
  few.taps = static_cast<int>(h.kernel) * few.row_taps;
  few.by_row_taps = Divisor<int32_t>(few.row_taps);
  few.filter_blocks = filter_blocks;
  few.filter_tiles = static_cast<int>(ceil_div(geometry.K, few.tile_filters()));

  double least = 0;
  bool found = false;
  constexpr int kMostColumns = 256, kMostRows = 32;
  const int column_tiles = static_cast<int>(ceil_div(w.output, kMostColumns));
  int last_columns = 0;
  for (int n = column_tiles; n < column_tiles + 6; ++n) {
    int columns = static_cast<int>(ceil_div(w.output, n));
    if (n > 1) columns = static_cast<int>(ceil_div(columns, chunk) * chunk);
    if (columns == last_columns) continue;
    last_columns = columns;
    few.w = TileAxis(w, few.row_taps, few.fold * static_cast<int>(w.dilation), columns);
    // The lanes of half a warp read one of 16 places of 8 bytes each: 4 outputs of a row, or in planes 2 and 2, that
    // other taps move by a phase or a line.
    const int places = 8 / element * 4, apart = places / (few.channels_last ? 1 : 2) / (few.w.phases <= 2 ? 2 : 4);
    few.w.pitch = static_cast<int>(ceil_div(few.w.length - apart, places)) * places + apart;
    few.line = few.w.phases * few.w.pitch;
    few.by_columns = Divisor<int32_t>(columns);
    few.by_edge_columns = Divisor<int32_t>(w.output - (few.w.tiles - 1) * columns);
    for (int rows = 1; rows <= std::min<int64_t>(h.output, kMostRows); ++rows) {
      few.h = TileAxis(h, static_cast<int>(h.kernel), static_cast<int>(h.dilation), rows);
      few.tile_slots = int64_t{few.h.positions()} * few.line;
      if (shared_bytes(few) > kFewSharedBytes) break;
      const double fill = few.h.positions() * (30 + 20 * static_cast<double>(ceil_div(few.w.positions(), 32)));
      const double steps = static_cast<double>(ceil_div(few.taps * element, 8));
      const double unit = 80 + steps * (10 + 6 * filter_blocks);
      const double units = static_cast<double>(ceil_div(few.tile_pixels(), 32 * kFewWarps)) * kFewWarps;
      const double blocks = std::max(1, kFewBlocks / few.filter_tiles);
      const double work = std::ceil(static_cast<double>(few.tiles()) / blocks) * (100 + fill + unit * units);
      if (!found || work < least) best = few, least = work, found = true;
    }
  }
  return found;
}

// Filters of a tile: all, up to 64, or as few as leave room for others.
inline int most_filter_blocks(const Conv2dGeometry& geometry) {
  return geometry.K > 32 ? 4 : geometry.K > 16 ? 2 : 1;
}

// Calls function(TypeTag<scalar_t>(), filter_blocks, channels_last, bordered), the last three integral constants.
template <typename Function>
void dispatch_few_channels(DType dtype, const FewChannels& few, const Function& function) {
  const auto with_dtype = [&](auto tag) {
    const auto with_blocks = [&](auto blocks) {
      const auto with_layout = [&](auto last) {
        if (few.border == Border::zeros) return function(tag, blocks, last, std::false_type());
        function(tag, blocks, last, std::true_type());
      };
      if (few.channels_last) return with_layout(std::true_type());
      with_layout(std::false_type());
    };
    switch (few.filter_blocks) {
      case 4: return with_blocks(std::integral_constant<int, 4>());
      case 2: return with_blocks(std::integral_constant<int, 2>());
      default: return with_blocks(std::integral_constant<int, 1>());
    }
  };
  switch (dtype) {
    case DType::bfloat16: return with_dtype(TypeTag<__nv_bfloat16>());
    case DType::float16: return with_dtype(TypeTag<__half>());
    default: return with_dtype(TypeTag<float>());
  }
}

bool few_channels_plan_forward(const Conv2dProblem& problem, FewChannels& few);
void few_channels_forward(const Conv2dProblem& problem, const Conv2dArguments& arguments);
bool few_channels_plan_grad_weight(const Conv2dProblem& problem, FewChannels& few);
int64_t few_channels_slices(const FewChannels& few);
void few_channels_grad_weight(const Conv2dProblem& problem, const Conv2dArguments& arguments);

}  // namespace convops
