// Packing of bfloat16 for tiles: like packing.h, but nothing is widened, and what lies along the sum comes in whole
// tiles that end in zeros on both sides, so that padding never meets a value of the image.
#pragma once

#include "amx_tiles.h"
#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

CONVOPS_INLINE __mmask32 first_lanes(int64_t count) {
  return count >= 32 ? ~__mmask32{0} : count <= 0 ? __mmask32{0} : (__mmask32{1} << count) - 1;
}

CONVOPS_INLINE void copy_values(bfloat16* to, const bfloat16* from, int64_t count, int64_t stored) {
  _mm512_mask_storeu_epi16(to, first_lanes(stored), _mm512_maskz_loadu_epi16(first_lanes(count), from));
}

// 16 pairs (first[i], second[i]), of which `count` are there; a null pointer gives zeros.
CONVOPS_INLINE Vector<float> load_pairs(const bfloat16* first, const bfloat16* second, int64_t count) {
  const auto mask = static_cast<__mmask16>(first_lanes(count < 16 ? count : 16));
  const auto half = [&](const bfloat16* from) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(from == nullptr ? __mmask16{0} : mask, from));
  };
  return bit_cast<Vector<float>>(_mm512_or_si512(half(first), _mm512_slli_epi32(half(second), 16)));
}

// Moves 32 channels of 16 pixels from planes to pixels: to(j) is where the channels of pixel j go, or null.
template <typename To>
CONVOPS_INLINE void gather_channels(
    const bfloat16* from, int64_t plane, int64_t channels, int64_t pixels, int64_t stored, const To& to) {
  Vector<float> tile[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    tile[i] = load_pairs(
        2 * i < channels ? from + 2 * i * plane : nullptr, 2 * i + 1 < channels ? from + (2 * i + 1) * plane : nullptr,
        pixels);
  }
  transpose<float>(tile);
  for (int64_t j = 0; j < std::min<int64_t>(pixels, 16); ++j) {
    if (bfloat16* pixel = to(j)) {
      _mm512_mask_storeu_epi16(pixel, first_lanes(stored), bit_cast<__m512i>(tile[j]));
    }
  }
}

// Copies pixels of `channels` values as pixels of `width`, at most 16, with zeros behind them, several at a time.
inline void spread_channels(const bfloat16* from, int64_t channels, int64_t width, int64_t pixels, bfloat16* to) {
  alignas(64) uint16_t places[32] = {};
  __mmask32 used = 0;
  const int64_t together = 32 / width;
  for (int64_t i = 0; i < together * width; ++i) {
    if (i % width >= channels) continue;
    places[i] = static_cast<uint16_t>(i / width * channels + i % width);
    used |= __mmask32{1} << i;
  }
  const __m512i index = _mm512_load_si512(places);
  const auto copy = [&](int64_t j, __mmask32 loaded, __mmask32 stored) CONVOPS_INLINE_LAMBDA {
    const __m512i values = _mm512_maskz_loadu_epi16(loaded, from + j * channels);
    _mm512_mask_storeu_epi16(to + j * width, stored, _mm512_maskz_permutexvar_epi16(used, index, values));
  };
  const __mmask32 loaded = first_lanes(together * channels), stored = first_lanes(together * width);
  int64_t j = 0;
  for (; j + together <= pixels; j += together) copy(j, loaded, stored);
  if (j < pixels) copy(j, first_lanes((pixels - j) * channels), first_lanes((pixels - j) * width));
}

// Packs the tile of one image and group as [channel block][row][slot][width], where width is a block's 32 channels or,
// of fewer channels, as many as there are. Each block has one row more, of zeros.
inline void pack_pixels(
    const bfloat16* image, const Correlation& c, const ChannelBlocks& blocks, const TileRows& rows,
    const TileColumns& columns, bfloat16* packed) {
  const int64_t H = c.h.source, W = c.w.source, pixel = c.groups * c.source_channels, width = blocks.width;
  const int64_t stretch = columns.source_end - columns.source_begin, row_size = columns.slots * width;
  const int64_t block_size = (static_cast<int64_t>(rows.source.size()) + 1) * row_size;
  const int32_t* slot_of = columns.slot_of_source.data();
  const auto channels_of = [&](int64_t b) { return std::min(width, blocks.channels - b * width); };
  for (size_t r = 0; r < rows.source.size(); ++r) {
    const int64_t h = rows.source[r];
    bfloat16* row = packed + static_cast<int64_t>(r) * row_size;
    for (const auto& [slot, column] : columns.outside) {
      for (int64_t b = 0; b < blocks.count; ++b) {
        bfloat16* to = row + b * block_size + slot * width;
        for (int64_t i = 0; i < width; ++i) {
          const int64_t channel = b * width + i;
          const bool shown = column >= 0 && channel < blocks.channels;
          to[i] = shown ? image[c.channels_last ? (h * W + column) * pixel + channel : (channel * H + h) * W + column]
                        : bfloat16{0};
        }
      }
    }
    if (c.channels_last && columns.in_order && width == pixel && blocks.channels == pixel && stretch > 0) {
      const bfloat16* from = image + (h * W + columns.source_begin) * pixel;
      bfloat16* to = row + slot_of[0] * width;
      for (int64_t i = 0; i < stretch * pixel; i += 32) {
        copy_values(to + i, from + i, stretch * pixel - i, stretch * pixel - i);
      }
    } else if (c.channels_last && columns.in_order && blocks.channels == pixel && width <= kTileRows && stretch > 0) {
      spread_channels(image + (h * W + columns.source_begin) * pixel, pixel, width, stretch, row + slot_of[0] * width);
    } else if (c.channels_last) {
      const bfloat16* from = image + (h * W + columns.source_begin) * pixel;
      for (int64_t w = 0; w < stretch; ++w, from += pixel) {
        if (slot_of[w] < 0) continue;
        for (int64_t b = 0; b < blocks.count; ++b) {
          copy_values(row + b * block_size + slot_of[w] * width, from + b * width, channels_of(b), width);
        }
      }
    } else {
      for (int64_t b = 0; b < blocks.count; ++b) {
        const bfloat16* from = image + (b * width * H + h) * W + columns.source_begin;
        for (int64_t w = 0; w < stretch; w += 16) {
          gather_channels(from + w, H * W, channels_of(b), stretch - w, width, [&](int64_t j) {
            return slot_of[w + j] < 0 ? nullptr : row + b * block_size + slot_of[w + j] * width;
          });
        }
      }
    }
  }
  for (int64_t b = 0; b < blocks.count; ++b)
    std::fill_n(packed + (b + 1) * block_size - row_size, row_size, bfloat16{0});
}

// The other way: channels of `pixels` pixels to planes.
inline void scatter_channels(
    const bfloat16* from, int64_t pixel, int64_t channels, int64_t pixels, bfloat16* planes, int64_t plane) {
  const __m512i low = _mm512_set1_epi32(0xffff);
  for (int64_t w = 0; w < pixels; w += 32) {
    for (int64_t i = 0; i < channels; i += 32) {
      // Packing two vectors takes four lanes of each by turns, which is why the tiles get pixels by fours.
      Vector<float> tiles[2][16];
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) {
          const int64_t at = w + j / 4 * 8 + half * 4 + j % 4;
          tiles[half][j] = bit_cast<Vector<float>>(
              _mm512_maskz_loadu_epi16(at < pixels ? first_lanes(channels - i) : __mmask32{0}, from + at * pixel + i));
        }
        transpose<float>(tiles[half]);
      }
      const __mmask32 stored = first_lanes(pixels - w);
      for (int64_t j = 0; j < 16 && i + 2 * j < channels; ++j) {
        const auto a = bit_cast<__m512i>(tiles[0][j]), b = bit_cast<__m512i>(tiles[1][j]);
        bfloat16* to = planes + (i + 2 * j) * plane + w;
        _mm512_mask_storeu_epi16(to, stored, _mm512_packus_epi32(_mm512_and_si512(a, low), _mm512_and_si512(b, low)));
        if (i + 2 * j + 1 < channels) {
          _mm512_mask_storeu_epi16(
              to + plane, stored, _mm512_packus_epi32(_mm512_srli_epi32(a, 16), _mm512_srli_epi32(b, 16)));
        }
      }
    }
  }
}

// Rows [i][32 targets] of a float panel, which hold bfloat16 values, as right tiles.
inline void pair_rows(const float* rows, int64_t count, bfloat16* panel) {
  for (int64_t i = 0; i < count; i += kTileDepth, rows += kPanelValues) {
    for (int64_t half = 0; half < kTileBlock; half += kTileRows) {
      for (int64_t j = 0; j < kTileDepth; j += 2, panel += kTileDepth) {
        const auto bits = [&](int64_t row) { return bit_cast<__m512i>(load(rows + row * kTileBlock + half)); };
        _mm512_storeu_si512(
            panel,
            _mm512_or_si512(_mm512_srli_epi32(bits(j), 16), _mm512_and_si512(bits(j + 1), _mm512_set1_epi32(-65536))));
      }
    }
  }
}

// Rounds and writes `pixels` neighbouring targets, [pixel][32 channels] in the buffer, of which `channels` count.
inline void write_targets(
    const float* buffer, int64_t pixels, int64_t channels, bool channels_last, int64_t pixel, int64_t plane,
    const bfloat16* ahead, int64_t ahead_step, bfloat16* to) {
  if (channels_last) {
    for (int64_t w = 0; w < pixels; ++w, buffer += kTileBlock, to += pixel) {
      __builtin_prefetch(ahead + w * ahead_step, 1);
      const auto rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(buffer + kTileRows), _mm512_loadu_ps(buffer));
      _mm512_mask_storeu_epi16(to, first_lanes(channels), (__m512i)rounded);
    }
    return;
  }
  for (int64_t w = 0; w < pixels; w += 32) {
    for (int64_t half = 0; half < std::min(channels, kTileBlock); half += kTileRows) {
      // Pairs of pixels, transposed: a vector has 32 pixels of a channel.
      Vector<float> tile[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const float* from = buffer + (w + 2 * i) * kTileBlock + half;
        tile[i] = w + 2 * i < pixels ? bit_cast<Vector<float>>(round_and_zip(load(from), load(from + kTileBlock)))
                                     : Vector<float>{};
      }
      transpose<float>(tile);
      for (int64_t i = 0; i < std::min(channels - half, kTileRows); ++i) {
        _mm512_mask_storeu_epi16(to + (half + i) * plane + w, first_lanes(pixels - w), bit_cast<__m512i>(tile[i]));
      }
    }
  }
}

// to[i][j] = from[i][first + j * step] for rows i and columns j, zero where that is not one of the `size` columns
// there.
inline void copy_columns(
    const bfloat16* from, int64_t from_row, int64_t rows, int64_t first, int64_t step, int64_t size, int64_t columns,
    bfloat16* to, int64_t to_row) {
  alignas(64) static constexpr uint16_t even[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                    32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  const __m512i index = _mm512_load_si512(even);
  for (int64_t j = 0; j < columns; j += 32) {
    const int64_t at = first + j * step;
    const bfloat16* source = from + at;
    bfloat16* target = to + j;
    const __mmask32 stored = first_lanes(columns - j);
    // The lanes from `at` on that are columns.
    const auto inside = [&](int64_t at) { return first_lanes(size - at) & ~first_lanes(-at); };
    if (step == 1) {
      const __mmask32 loaded = inside(at) & stored;
      for (int64_t i = 0; i < rows; ++i, source += from_row, target += to_row) {
        _mm512_mask_storeu_epi16(target, stored, _mm512_maskz_loadu_epi16(loaded, source));
      }
    } else if (step == 2) {
      const __mmask32 low = inside(at), high = inside(at + 32);
      for (int64_t i = 0; i < rows; ++i, source += from_row, target += to_row) {
        _mm512_mask_storeu_epi16(
            target, stored,
            _mm512_permutex2var_epi16(
                _mm512_maskz_loadu_epi16(low, source), index, _mm512_maskz_loadu_epi16(high, source + 32)));
      }
    } else {
      const int64_t end = std::min<int64_t>(32, columns - j);
      for (int64_t i = 0; i < rows; ++i, source += from_row, target += to_row) {
        for (int64_t t = 0; t < end; ++t) {
          const bool there = at + t * step >= 0 && at + t * step < size;
          target[t] = there ? source[t * step] : bfloat16{0};
        }
      }
    }
  }
}

// Pixels [0, count) of 32 channels, from `planes` of them or interleaved, as right tiles whose depth is pixels: the
// last one ends in zeros.
inline void pack_depth(
    const bfloat16* image, bool channels_last, int64_t pixel, int64_t plane, int64_t channels, int64_t count,
    bfloat16* panel) {
  for (int64_t p = 0; p < count; p += kTileDepth) {
    for (int64_t half = 0; half < kTileBlock; half += kTileRows, panel += kTileValues) {
      const int64_t targets = std::min(channels - half, kTileRows);
      if (channels_last) {
        for (int64_t i = 0; i < kTileRows; ++i) {
          const int64_t at = p + 2 * i;
          const bfloat16* from = image + at * pixel + half;
          store(
              reinterpret_cast<float*>(panel + i * kTileDepth),
              load_pairs(at < count ? from : nullptr, at + 1 < count ? from + pixel : nullptr, targets));
        }
      } else {
        Vector<float> tile[16];
        for (int i = 0; i < 16; ++i) {
          const bfloat16* from = image + (half + i) * plane + p;
          tile[i] = bit_cast<Vector<float>>(
              _mm512_maskz_loadu_epi16(i < targets ? first_lanes(count - p) : __mmask32{0}, from));
        }
        transpose<float>(tile);
        for (int i = 0; i < 16; ++i) store(reinterpret_cast<float*>(panel + i * kTileDepth), tile[i]);
      }
    }
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
