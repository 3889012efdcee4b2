// AMX: eight tile registers of 16 rows x 64 bytes, and one instruction that adds the product of a 16 x 32 and a 32 x 16
// tile of bfloat16 to a 16 x 16 tile of float32. The right operand lies in pairs: row i holds rows 2i and 2i + 1 of the
// matrix, interleaved. Products are exact and sums are rounded to float32; denormal numbers count as zero.
//
// A product takes as many cycles as the left tile has rows, 16 at most, and a load 8: with 2 x 2 accumulators a step of
// four products waits for 4 loads that take half of its time. Peak: 1024 FLOPs a cycle.
#pragma once

#include <array>

#include "../common/simd.h"

namespace convops {
namespace CONVOPS_ISA {

constexpr int64_t kTileRows = 16, kTileDepth = 32;         // of a left operand, in values
constexpr int64_t kTileValues = kTileRows * kTileDepth;    // of bfloat16 in a tile
constexpr int64_t kTileBlock = 32;                         // rows and columns of 2 x 2 accumulators
constexpr int64_t kPanelValues = kTileDepth * kTileBlock;  // two right tiles

// The tile registers of this thread while it lives: 0 to 3 accumulators, 4 and 5 left operands, 6 and 7 right ones,
// where left operands and accumulators have `rows` rows and products the depth `depth`, an even number.
class TileRegisters {
 public:
  explicit TileRegisters(int64_t rows, int64_t depth = kTileDepth) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.rows[i] = static_cast<uint8_t>(i < 6 ? rows : depth / 2);
    for (int i = 4; i < 6; ++i) config.row_bytes[i] = static_cast<uint16_t>(depth * sizeof(bfloat16));
    asm volatile("" ::"r"(&config) : "memory");  // the intrinsic says that it reads 8 bytes
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// The intrinsics do not tell the compiler which memory they read.
CONVOPS_INLINE void finish_stores() {
  asm volatile("" ::: "memory");
}

// Two left tiles, or one, that meet the same weights.
struct TileStep {
  const bfloat16 *first, *second;
  int64_t panel;
};

// The part [begin, end) of a sum over channel blocks and, within each, `count` steps, in this order.
struct StepRange {
  const TileStep* steps;
  int64_t count, begin, end;
};

// Pixels that are fetched into the L2 cache meanwhile, in the order of memory: tiles walk across it, which is several
// times slower.
struct TilesAhead {
  const bfloat16* first;
  int64_t pixels, blocks;
};

// out[i][:32] = init[i][:32] + sum over (block b, step) of the range of left tile (step + b * left_block) times the
// panel at step.panel + b * panel_block; out and init are two tiles of rows, or one, and a null init is zeros. Strides
// are in values. Without kWide only the first 16 columns are computed.
template <bool kPair, bool kWide>
void multiply_tiles(
    const StepRange& range, int64_t left_block, int64_t left_stride, const bfloat16* panels, int64_t panel_block,
    const std::array<const float*, 2>& init, int64_t init_stride, const std::array<float*, 2>& out, int64_t out_stride,
    const TilesAhead& ahead) {
  finish_stores();
  if (init[0] == nullptr) {
    _tile_zero(0);
    if constexpr (kWide) _tile_zero(1);
    if constexpr (kPair) _tile_zero(2);
    if constexpr (kPair && kWide) _tile_zero(3);
  } else {
    init_stride *= sizeof(float);
    _tile_loadd(0, init[0], init_stride);
    if constexpr (kWide) _tile_loadd(1, init[0] + kTileRows, init_stride);
    if constexpr (kPair) _tile_loadd(2, init[1], init_stride);
    if constexpr (kPair && kWide) _tile_loadd(3, init[1] + kTileRows, init_stride);
  }
  const int64_t left_bytes = left_stride * static_cast<int64_t>(sizeof(bfloat16));
  int64_t b = range.begin == 0 ? 0 : range.begin / range.count;
  const TileStep *const end = range.steps + range.count, *step = range.steps + (range.begin - b * range.count);
  for (int64_t i = range.begin, fetched = 0; i < range.end; ++i) {
    for (; fetched < (i + 1 - range.begin) * ahead.pixels / (range.end - range.begin); ++fetched) {
      for (int64_t j = 0; j < ahead.blocks; ++j) {
        __builtin_prefetch(ahead.first + fetched * left_stride + j * kTileDepth, 0, 2);
      }
    }
    const bfloat16* panel = panels + b * panel_block + step->panel;
    _tile_loadd(6, panel, 64);
    _tile_loadd(4, step->first + b * left_block, left_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kWide) {
      _tile_loadd(7, panel + kTileValues, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kPair) {
      _tile_loadd(5, step->second + b * left_block, left_bytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kPair && kWide) _tile_dpbf16ps(3, 5, 7);
    if (++step == end) {
      step = range.steps;
      ++b;
    }
  }
  out_stride *= sizeof(float);
  _tile_stored(0, out[0], out_stride);
  if constexpr (kWide) _tile_stored(1, out[0] + kTileRows, out_stride);
  if constexpr (kPair) _tile_stored(2, out[1], out_stride);
  if constexpr (kPair && kWide) _tile_stored(3, out[1] + kTileRows, out_stride);
}

// The depth of accumulate_tiles: images of `steps` whole tiles and perhaps one more, whose left operands are copies
// that end in zeros.
struct TileDepth {
  int64_t images, steps;
  const bfloat16* last;  // [image][2 tiles], or null
};

// out[i][:32] += sum over the depth of left rows i times the panels; out is 32 x 32, dense.
inline void accumulate_tiles(
    const TileDepth& depth, const bfloat16* left, int64_t left_stride, int64_t left_image, const bfloat16* panels,
    int64_t panel_image, float* out) {
  constexpr int64_t kOutBytes = kTileBlock * sizeof(float);
  finish_stores();
  float* const lower = out + kTileRows * kTileBlock;
  _tile_loadd(0, out, kOutBytes);
  _tile_loadd(1, out + kTileRows, kOutBytes);
  _tile_loadd(2, lower, kOutBytes);
  _tile_loadd(3, lower + kTileRows, kOutBytes);
  const int64_t bytes = left_stride * static_cast<int64_t>(sizeof(bfloat16));
  const auto step = [](const bfloat16* first, const bfloat16* second, int64_t stride, const bfloat16* panel)
                        CONVOPS_INLINE_LAMBDA {
                          _tile_loadd(6, panel, 64);
                          _tile_loadd(4, first, stride);
                          _tile_loadd(7, panel + kTileValues, 64);
                          _tile_dpbf16ps(0, 4, 6);
                          _tile_dpbf16ps(1, 4, 7);
                          _tile_loadd(5, second, stride);
                          _tile_dpbf16ps(2, 5, 6);
                          _tile_dpbf16ps(3, 5, 7);
                        };
  for (int64_t n = 0; n < depth.images; ++n) {
    const bfloat16 *a = left + n * left_image, *b = panels + n * panel_image;
    for (int64_t i = 0; i < depth.steps; ++i, a += kTileDepth, b += kPanelValues) {
      step(a, a + kTileRows * left_stride, bytes, b);
    }
    if (depth.last != nullptr) {
      const bfloat16* last = depth.last + n * 2 * kTileValues;
      step(last, last + kTileValues, 64, b);
    }
  }
  _tile_stored(0, out, kOutBytes);
  _tile_stored(1, out + kTileRows, kOutBytes);
  _tile_stored(2, lower, kOutBytes);
  _tile_stored(3, lower + kTileRows, kOutBytes);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
