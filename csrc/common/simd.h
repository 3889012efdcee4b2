// Vectors of the instruction set that a kernel file is compiled for, on GCC/Clang vector extensions: the same source
// becomes AVX-512, AVX2, SSE2 or NEON. Kernel files are compiled once per set with CONVOPS_ISA naming it, and all
// they define lives in the namespace convops::CONVOPS_ISA, so that no code of one set is linked into another.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define CONVOPS_INLINE inline __attribute__((always_inline))
// The same for a lambda, behind its parameters: a call in an inner loop would pass its vectors through memory.
#define CONVOPS_INLINE_LAMBDA __attribute__((always_inline))

namespace convops {
namespace CONVOPS_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 16;
#endif

template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

// The signed integer as wide as T: what comparing two Vector<T> gives lanes of.
template <typename T>
using LaneInt = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

// As many 16-bit values as a Vector<float> has lanes.
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

// Storage-only types; arithmetic on them is done in float.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// The type that values of storage type T are computed in.
template <typename T>
struct ComputeOf {
  using type = std::conditional_t<std::is_integral_v<T> && (sizeof(T) < 4), int32_t, T>;
};
template <>
struct ComputeOf<bfloat16> {
  using type = float;
};
template <>
struct ComputeOf<float16> {
  using type = float;
};
template <typename T>
using Compute = typename ComputeOf<T>::type;

template <typename T>
CONVOPS_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};  // x - 0 is x for every x, x + 0 is not for -0
}

// a where a > b, else b: also where either is NaN.
template <typename T>
CONVOPS_INLINE Vector<T> larger(Vector<T> a, Vector<T> b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) return (Vector<T>)_mm512_max_ps((__m512)a, (__m512)b);
  if constexpr (std::is_same_v<T, double>) return (Vector<T>)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) return (Vector<T>)_mm256_max_ps((__m256)a, (__m256)b);
  if constexpr (std::is_same_v<T, double>) return (Vector<T>)_mm256_max_pd((__m256d)a, (__m256d)b);
#endif
  return a > b ? a : b;
}

// Keeps a vector in a register across an unrolled loop, where GCC would else sink or reorder the arithmetic.
#ifdef __aarch64__
#define CONVOPS_PIN(vector) asm("" : "+w"(vector))
#else
#define CONVOPS_PIN(vector) asm("" : "+v"(vector))
#endif

template <typename To, typename From>
CONVOPS_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// The compiler's own half, for converting; on aarch64 GCC has _Float16 in C++ only from 13 on.
#ifdef __aarch64__
using native_half = __fp16;
#else
using native_half = _Float16;
#endif

// --- one value ---

template <typename T>
CONVOPS_INLINE Compute<T> widen(T value) {
  return value;
}
CONVOPS_INLINE float widen(bfloat16 value) {
  return bit_cast<float>(uint32_t(value.bits) << 16);
}
CONVOPS_INLINE float widen(float16 value) {
#ifdef __F16C__
  return _cvtsh_ss(value.bits);
#else
  return static_cast<float>(bit_cast<native_half>(value.bits));
#endif
}

template <typename T>
CONVOPS_INLINE T narrow(Compute<T> value) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    // Round to nearest, ties to even; a NaN stays a NaN.
    const uint32_t bits = bit_cast<uint32_t>(value);
    if (value != value) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
  } else if constexpr (std::is_same_v<T, float16>) {
#ifdef __F16C__
    return {_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)};
#else
    return {bit_cast<uint16_t>(static_cast<native_half>(value))};
#endif
  } else {
    return static_cast<T>(value);
  }
}

// --- a vector of storage values as a vector of what they are computed in, and back ---

template <typename T>
CONVOPS_INLINE Vector<Compute<T>> load(const T* from) {
  using C = Compute<T>;
  constexpr int lanes = kLanes<C>;
  Vector<C> vector;
  if constexpr (std::is_same_v<T, C>) {
    std::memcpy(&vector, from, sizeof(vector));
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    HalfBits bits;
    std::memcpy(&bits, from, sizeof(bits));
    vector = bit_cast<Vector<float>>(__builtin_convertvector(bits, Vector<uint32_t>) << 16);
#if defined(__AVX512F__)
  } else if constexpr (std::is_same_v<T, float16>) {
    vector = bit_cast<Vector<float>>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
  } else if constexpr (std::is_same_v<T, float16>) {
    vector = bit_cast<Vector<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
  } else {
    for (int i = 0; i < lanes; ++i) vector[i] = widen(from[i]);
  }
  return vector;
}

template <typename T>
CONVOPS_INLINE void store(T* to, Vector<Compute<T>> vector) {
  using C = Compute<T>;
  constexpr int lanes = kLanes<C>;
  if constexpr (std::is_same_v<T, C>) {
    std::memcpy(to, &vector, sizeof(vector));
#if defined(__AVX512BF16__)
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    // Rounds the same way, but takes denormal numbers for zero.
    const auto narrowed = _mm512_cvtneps_pbh(bit_cast<__m512>(vector));
    std::memcpy(to, &narrowed, sizeof(narrowed));
#endif
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    const auto bits = bit_cast<Vector<uint32_t>>(vector);
    const auto rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const auto chosen = vector != vector ? ((bits >> 16) | 0x40) : rounded;
    const HalfBits narrowed = __builtin_convertvector(chosen, HalfBits);
    std::memcpy(to, &narrowed, sizeof(narrowed));
#if defined(__AVX512F__)
  } else if constexpr (std::is_same_v<T, float16>) {
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(to),
        // With a mask of all lanes: GCC 12 warns of its own header in the other.
        _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(vector), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  } else if constexpr (std::is_same_v<T, float16>) {
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(bit_cast<__m256>(vector), _MM_FROUND_TO_NEAREST_INT));
#endif
  } else {
    for (int i = 0; i < lanes; ++i) to[i] = narrow<T>(vector[i]);
  }
}

#ifdef __AVX512BF16__
// Two vectors, rounded as store does, lane by lane in turn.
CONVOPS_INLINE __m512i round_and_zip(Vector<float> even, Vector<float> odd) {
  alignas(64) static constexpr uint16_t zipped[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto rounded = (__m512i)_mm512_cvtne2ps_pbh(bit_cast<__m512>(odd), bit_cast<__m512>(even));
  return _mm512_permutexvar_epi16(_mm512_load_si512(zipped), rounded);
}
#endif

#if defined(__AVX512F__)
CONVOPS_INLINE uint32_t lane_mask(int64_t begin, int64_t end) {
  return ((1u << end) - 1) & ~((1u << begin) - 1);
}
#endif

// to[i] = from[i] for the lanes [begin, end) of `lanes` storage values.
template <int lanes, typename T>
CONVOPS_INLINE void copy_lanes(T* to, const T* from, int64_t begin, int64_t end) {
#if defined(__AVX512F__)
  if constexpr (lanes == 16 && sizeof(T) == 2) {
    const auto mask = static_cast<__mmask16>(lane_mask(begin, end));
    return _mm256_mask_storeu_epi16(to, mask, _mm256_maskz_loadu_epi16(mask, from));
  }
  if constexpr (lanes == 16 && sizeof(T) == 1) {
    const auto mask = static_cast<__mmask16>(lane_mask(begin, end));
    return _mm_mask_storeu_epi8(to, mask, _mm_maskz_loadu_epi8(mask, from));
  }
#endif
  for (int64_t i = begin; i < end; ++i) to[i] = from[i];
}

// The first `count` lanes; the others load as zero and are not stored.
template <typename T>
CONVOPS_INLINE Vector<Compute<T>> load_partial(const T* from, int64_t count) {
  using C = Compute<T>;
  constexpr int lanes = kLanes<C>;
  if (count >= lanes) return load(from);
  if (count <= 0) return Vector<C>{};
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, C> && sizeof(T) == 4)
    return bit_cast<Vector<C>>(_mm512_maskz_loadu_epi32((1u << count) - 1, from));
  if constexpr (std::is_same_v<T, C> && sizeof(T) == 8)
    return bit_cast<Vector<C>>(_mm512_maskz_loadu_epi64((1u << count) - 1, from));
#endif
  T buffer[lanes] = {};
  copy_lanes<lanes>(buffer, from, 0, count);
  return load(buffer);
}

// The lanes i for which first + i is one of the `size` elements of a row.
template <typename T>
class LanesInside {
  using C = Compute<T>;
  static constexpr int lanes = kLanes<C>;

 public:
  CONVOPS_INLINE LanesInside(int64_t first, int64_t size)
      : begin_(first < 0 ? -first : 0), end_(size - first < lanes ? size - first : lanes) {
    if (begin_ >= end_) begin_ = end_ = 0;
  }

  // Those of from[i], which is row[first + i], and `outside` in the others.
  CONVOPS_INLINE Vector<C> load(const T* from, C outside) const {
#if defined(__AVX512F__)
    const auto others = bit_cast<__m512i>(broadcast(outside));
    if constexpr (std::is_same_v<T, C> && sizeof(T) == 4)
      return bit_cast<Vector<C>>(_mm512_mask_loadu_epi32(others, lane_mask(begin_, end_), from));
    if constexpr (std::is_same_v<T, C> && sizeof(T) == 8)
      return bit_cast<Vector<C>>(_mm512_mask_loadu_epi64(others, lane_mask(begin_, end_), from));
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, C>) {
      Vector<LaneInt<C>> lane;
      for (int i = 0; i < lanes; ++i) lane[i] = i;
      const Vector<LaneInt<C>> inside =
          (lane >= static_cast<LaneInt<C>>(begin_)) & (lane < static_cast<LaneInt<C>>(end_));
      Vector<C> loaded;
      if constexpr (sizeof(T) == 4)
        loaded =
            bit_cast<Vector<C>>(_mm256_maskload_epi32(reinterpret_cast<const int*>(from), bit_cast<__m256i>(inside)));
      else
        loaded = bit_cast<Vector<C>>(
            _mm256_maskload_epi64(reinterpret_cast<const long long*>(from), bit_cast<__m256i>(inside)));
      return inside ? loaded : broadcast(outside);
    }
#endif
    T buffer[lanes];
    store(buffer, broadcast(outside));
    copy_lanes<lanes>(buffer, from, begin_, end_);
    return CONVOPS_ISA::load(buffer);
  }

 private:
  int64_t begin_, end_;
};

template <typename T>
CONVOPS_INLINE void store_partial(T* to, Vector<Compute<T>> vector, int64_t count) {
  using C = Compute<T>;
  constexpr int lanes = kLanes<C>;
  if (count >= lanes) return store(to, vector);
  if (count <= 0) return;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, C> && sizeof(T) == 4)
    return _mm512_mask_storeu_epi32(to, (1u << count) - 1, bit_cast<__m512i>(vector));
  if constexpr (std::is_same_v<T, C> && sizeof(T) == 8)
    return _mm512_mask_storeu_epi64(to, (1u << count) - 1, bit_cast<__m512i>(vector));
#endif
  T buffer[lanes];
  store(buffer, vector);
  copy_lanes<lanes>(to, buffer, 0, count);
}

// Asks for what a walk through memory comes to soon. Hardware follows a few streams by itself, but not far enough ahead
// to fill the bus: 4 KB are worth 1.2 to 1.7 times the speed where a kernel does little else than read.
template <typename T>
CONVOPS_INLINE void prefetch_ahead(const T* at) {
  __builtin_prefetch(reinterpret_cast<const char*>(at) + 4096);
}

// The instance for n of a template on an int from 1 to kMost: select_instance<3>(n, []<int N>() { return &f<N>; }).
template <int kMost, typename Instance>
CONVOPS_INLINE auto select_instance(int64_t n, Instance) {
  return [n]<int... kMinusOne>(std::integer_sequence<int, kMinusOne...>) {
    static constexpr decltype(Instance{}.template operator()<1>()) table[] = {
      Instance{}.template operator()<kMinusOne + 1>()...
    };
    return table[n - 1];
  }(std::make_integer_sequence<int, kMost>());
}

// --- shuffles, and the transposition of a square tile of kLanes<T> x kLanes<T> held in registers ---

// The low half: a0 b0 a1 b1 ...; the high half takes up where it stops.
template <bool kHigh, typename T>
CONVOPS_INLINE Vector<T> zip(Vector<T> a, Vector<T> b) {
  constexpr int n = kLanes<T>;
  constexpr int h = kHigh ? n / 2 : 0;
  if constexpr (n == 2) {
    return __builtin_shufflevector(a, b, h, h + 2);
  } else if constexpr (n == 4) {
    return __builtin_shufflevector(a, b, h, h + 4, h + 1, h + 5);
  } else if constexpr (n == 8) {
    return __builtin_shufflevector(a, b, h, h + 8, h + 1, h + 9, h + 2, h + 10, h + 3, h + 11);
  } else {
    return __builtin_shufflevector(
        a, b, h, h + 16, h + 1, h + 17, h + 2, h + 18, h + 3, h + 19, h + 4, h + 20, h + 5, h + 21, h + 6, h + 22,
        h + 7, h + 23);
  }
}

// The lanes of a:b at even places, or at odd ones: what zip undoes.
template <bool kOdd, typename T>
CONVOPS_INLINE Vector<T> unzip(Vector<T> a, Vector<T> b) {
  constexpr int n = kLanes<T>;
  constexpr int o = kOdd ? 1 : 0;
  if constexpr (n == 2) {
    return __builtin_shufflevector(a, b, o, o + 2);
  } else if constexpr (n == 4) {
    return __builtin_shufflevector(a, b, o, o + 2, o + 4, o + 6);
  } else if constexpr (n == 8) {
    return __builtin_shufflevector(a, b, o, o + 2, o + 4, o + 6, o + 8, o + 10, o + 12, o + 14);
  } else {
    return __builtin_shufflevector(
        a, b, o, o + 2, o + 4, o + 6, o + 8, o + 10, o + 12, o + 14, o + 16, o + 18, o + 20, o + 22, o + 24, o + 26,
        o + 28, o + 30);
  }
}

// The lanes moved down by `by`, the first ones to the end.
template <int by, typename T>
CONVOPS_INLINE Vector<T> rotate(Vector<T> v) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(v, v, ((i + by) % kLanes<T>)...);
  }(std::make_integer_sequence<int, kLanes<T>>());
}

// Lane i becomes lane from[i], which is less than kLanes<T>.
template <typename T>
CONVOPS_INLINE Vector<T> permute(Vector<T> v, Vector<LaneInt<T>> from) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return bit_cast<Vector<T>>(_mm512_permutexvar_epi32((__m512i)from, (__m512i)v));
  if constexpr (sizeof(T) == 8) return bit_cast<Vector<T>>(_mm512_permutexvar_epi64((__m512i)from, (__m512i)v));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return bit_cast<Vector<T>>(_mm256_permutevar8x32_epi32((__m256i)v, (__m256i)from));
#endif
  Vector<T> result;
  for (int i = 0; i < kLanes<T>; ++i) result[i] = v[from[i]];
  return result;
}

// Calls fold(std::integral_constant<int, by>()) for by = n/2, n/4, ..., 1: taking in the lanes rotated by that each
// time leaves the fold of all n lanes in every one.
template <int n, typename Fold>
CONVOPS_INLINE void fold_lanes(const Fold& fold) {
  if constexpr (n > 1) {
    fold(std::integral_constant<int, n / 2>());
    fold_lanes<n / 2>(fold);
  }
}

// Zipping row i with row i + n/2 rotates the bits of (row, column) by one place; log2(n) rounds swap the two.
template <typename T>
CONVOPS_INLINE void transpose(Vector<T> (&rows)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
#pragma GCC unroll 4
  for (int round = n; round > 1; round /= 2) {
    Vector<T> zipped[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      zipped[2 * i] = zip<false, T>(rows[i], rows[i + n / 2]);
      zipped[2 * i + 1] = zip<true, T>(rows[i], rows[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = zipped[i];
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
