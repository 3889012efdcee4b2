// bfloat16 with the one rounding, to nearest even, that the kernels ask for.
#pragma once

#include "cuda_runtime.h"

struct __nv_bfloat16 {
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {
    uint32_t word = 0;
    std::memcpy(&word, &value, sizeof(word));
    // A NaN keeps a fraction bit of those that stay.
    bits = static_cast<uint16_t>(value != value ? word >> 16 | 0x40 : (word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value = 0;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }

 private:
  uint16_t bits;
};
