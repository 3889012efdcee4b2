// From the run-time DType to a kernel's scalar_t (storage) and acc_t (arithmetic).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <limits>

#include "common/algorithm.h"

namespace convops {

// Sums of half types and float32 are taken in float32, those of float64 in float64, and rounded once at the end.
template <typename scalar_t>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename scalar_t>
using accumulator_t = typename Accumulator<scalar_t>::type;

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls function(TypeTag<scalar_t>()) for a floating dtype.
template <typename Function>
void dispatch_floating(const char* op, DType dtype, const Function& function) {
  switch (dtype) {
    case DType::float32: return function(TypeTag<float>());
    case DType::float64: return function(TypeTag<double>());
    case DType::bfloat16: return function(TypeTag<__nv_bfloat16>());
    case DType::float16: return function(TypeTag<__half>());
    default: fail(op, "no CUDA kernel takes integers here");
  }
}

// The same for every dtype.
template <typename Function>
void dispatch_all(const char* op, DType dtype, const Function& function) {
  switch (dtype) {
    case DType::uint8: return function(TypeTag<uint8_t>());
    case DType::int8: return function(TypeTag<int8_t>());
    case DType::int16: return function(TypeTag<int16_t>());
    case DType::int32: return function(TypeTag<int32_t>());
    case DType::int64: return function(TypeTag<int64_t>());
    default: return dispatch_floating(op, dtype, function);
  }
}

inline int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64: return 8;
    case DType::float32:
    case DType::int32: return 4;
    case DType::uint8:
    case DType::int8: return 1;
    default: return 2;
  }
}

// What no number is below: -inf for floating types.
template <typename scalar_t>
CONVOPS_HOST_DEVICE scalar_t lowest() {
  if constexpr (std::numeric_limits<scalar_t>::is_integer) {
    return std::numeric_limits<scalar_t>::min();
  } else {
    return static_cast<scalar_t>(-std::numeric_limits<float>::infinity());
  }
}

// Half types compare as float32; everything else as itself.
template <typename scalar_t>
CONVOPS_HOST_DEVICE auto comparable(scalar_t value) {
  if constexpr (std::numeric_limits<scalar_t>::is_integer || sizeof(scalar_t) >= 4) {
    return value;
  } else {
    return static_cast<float>(value);
  }
}

}  // namespace convops
