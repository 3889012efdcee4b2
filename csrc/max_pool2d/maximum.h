// The routing rule, once for every kernel: which value a window picks, and what its offset is.
#pragma once

#include <limits>

#include "../common/separable.h"

namespace convops {
namespace CONVOPS_ISA {

// What the maximum of no value is.
template <typename scalar_t>
constexpr Compute<scalar_t> kLowest = [] {
  if constexpr (std::is_integral_v<scalar_t>) {
    return std::numeric_limits<scalar_t>::lowest();
  } else {
    return -std::numeric_limits<Compute<scalar_t>>::infinity();
  }
}();

// The first of equal maxima and the last NaN, with the offset of its tap as the tag.
template <typename scalar, bool kWithOffsets>
struct MaximumRule {
  using scalar_t = scalar;
  using acc_t = Compute<scalar_t>;
  static constexpr bool kTags = kWithOffsets;
  using Item = Tagged<acc_t, kTags>;

  static CONVOPS_INLINE Item identity() { return broadcast<acc_t>(kLowest<scalar_t>); }

  // `next` stands behind everything that `best` has seen.
  static CONVOPS_INLINE void take(Item& best, const Item& next) {
    if constexpr (!kTags) {
      const auto most = larger<acc_t>(next.value, best.value);
      best.value = is_nan(next.value) ? next.value : most;
    } else {
      const auto better = (next.value > best.value) | is_nan(next.value);
      best.value = better ? next.value : best.value;
      best.tag = better ? next.tag : best.tag;
    }
  }

  // The two stand in any order: the tags tell which is first.
  static CONVOPS_INLINE void take_unordered(Item& best, const Item& other) {
    if constexpr (!kTags) {
      take(best, other);
    } else {
      const auto before = other.tag < best.tag;
      auto better = (other.value > best.value) | ((other.value == best.value) & before);
      better |= is_nan(other.value) & (~is_nan(best.value) | ~before);
      best.value = better ? other.value : best.value;
      best.tag = better ? other.tag : best.tag;
    }
  }

 private:
  static CONVOPS_INLINE auto is_nan(Vector<acc_t> value) {
    if constexpr (std::is_integral_v<acc_t>)
      return Vector<LaneInt<acc_t>>{};
    else
      return value != value;
  }
};

// The offset of a window's first tap inside the image, which a window of lowest values picks; where dilation steps over
// the whole image, that of the first tap that is not above or left of it.
template <typename Offset>
class FirstTaps {
 public:
  explicit FirstTaps(const Pool2dGeometry& g)
      : rows_(g.h.output), columns_(round_up(g.w.output, kLanes<Offset>) + kLanes<Offset>) {
    for (int64_t p = 0; p < g.h.output; ++p) rows_[p] = static_cast<Offset>(g.h.first_tap(p) * g.w.kernel);
    for (int64_t q = 0; q < g.w.output; ++q) columns_[q] = static_cast<Offset>(g.w.first_tap(q));
  }

  // Of windows (p, q), (p, q + 1), ...
  CONVOPS_INLINE Vector<Offset> along(int64_t p, int64_t q) const {
    return load(columns_.data() + q) + broadcast(rows_[p]);
  }
  // Of several channels of window (p, q).
  CONVOPS_INLINE Vector<Offset> at(int64_t p, int64_t q) const { return broadcast<Offset>(rows_[p] + columns_[q]); }

 private:
  Scratch<Offset> rows_, columns_;
};

// Offsets are uint8_t or int32_t in memory.
template <typename offset_t, typename Lane>
CONVOPS_INLINE void store_offsets(offset_t* to, Vector<Lane> offsets, int64_t count) {
#if defined(__AVX512F__)
  const uint32_t mask = count >= kLanes<Lane> ? ~0u : (1u << count) - 1;
  const auto bits = bit_cast<__m512i>(offsets);
  if constexpr (sizeof(Lane) == 4 && sizeof(offset_t) == 1) {
    _mm512_mask_cvtepi32_storeu_epi8(to, mask, bits);
  } else if constexpr (sizeof(Lane) == 4) {
    _mm512_mask_storeu_epi32(to, mask, bits);
  } else if constexpr (sizeof(offset_t) == 1) {
    _mm512_mask_cvtepi64_storeu_epi8(to, mask, bits);
  } else {
    _mm512_mask_cvtepi64_storeu_epi32(to, mask, bits);
  }
#else
  typedef offset_t Narrow __attribute__((vector_size(kLanes<Lane> * sizeof(offset_t))));
  const Narrow narrow = __builtin_convertvector(offsets, Narrow);
  if (count >= kLanes<Lane>) {
    std::memcpy(to, &narrow, sizeof(narrow));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = narrow[i];
  }
#endif
}

// The offsets of all windows, of one byte each, or of four where windows have more taps than a byte names.
class Offsets {
 public:
  Offsets(const Pool2dGeometry& g, void* data) : data_(data), bytes_(g.taps() <= kMaxByteTaps) {}

  template <typename Lane>
  CONVOPS_INLINE void store(int64_t at, Vector<Lane> offsets, int64_t count) const {
    if (bytes_) return store_offsets<uint8_t, Lane>(static_cast<uint8_t*>(data_) + at, offsets, count);
    store_offsets<int32_t, Lane>(static_cast<int32_t*>(data_) + at, offsets, count);
  }

 private:
  void* data_;
  bool bytes_;
};

// The first `count` offsets of one byte; in the other lanes one that small windows do not have.
template <typename Lane>
CONVOPS_INLINE Vector<Lane> load_offsets(const uint8_t* from, int64_t count) {
  constexpr int lanes = kLanes<Lane>;
  uint8_t buffer[lanes];
  if (count < lanes) {
    std::memset(buffer, 255, lanes);
    copy_lanes<lanes>(buffer, from, 0, count);
    from = buffer;
  }
#if defined(__AVX512F__)
  if constexpr (sizeof(Lane) == 4) {
    return bit_cast<Vector<Lane>>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  } else {
    return bit_cast<Vector<Lane>>(_mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(Lane) == 4) {
    return bit_cast<Vector<Lane>>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  } else {
    return bit_cast<Vector<Lane>>(_mm256_cvtepu8_epi64(_mm_loadu_si32(from)));
  }
#else
  typedef uint8_t Bytes __attribute__((vector_size(lanes)));
  Bytes bytes;
  std::memcpy(&bytes, from, lanes);
  return __builtin_convertvector(bytes, Vector<Lane>);
#endif
}

}  // namespace CONVOPS_ISA
}  // namespace convops
