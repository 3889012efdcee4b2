// One axis of a window read backwards: which outputs and taps meet a given input pixel.
#pragma once

#include <cstdint>
#include <numeric>

#include "common/geometry.h"

namespace convops {

// Pixel i meets output o through tap k where i = o * stride + k * dilation - pad. All pixels of one residue modulo
// the stride see the same taps: with g = gcd(stride, dilation) a solution exists where g divides i + pad; then taps
// are first, first + stride / g, ... and each step in taps is dilation / g outputs back.
struct TransposedAxis {
  // One residue: its pixels are residue, residue + stride, ...; pixel j and tap t meet output
  // first_output + j - t * output_step.
  struct Residue {
    int64_t pixels, first_tap, taps, first_output;
  };

  TransposedAxis() = default;
  explicit TransposedAxis(const Axis& axis)
      : input(axis.input), kernel(axis.kernel), stride(axis.stride), dilation(axis.dilation), pad(axis.pad_lower) {
    const int64_t divisor = std::gcd(stride, dilation);
    tap_step = stride / divisor;
    output_step = dilation / divisor;
    // Euclid's algorithm: inverse * output_step = 1 modulo tap_step.
    int64_t a = output_step % tap_step, b = tap_step, next = 0;
    inverse = 1;
    while (a > 1) {
      const int64_t quotient = b / a, remainder = b % a;
      const int64_t following = next - quotient * inverse;
      next = inverse, inverse = following;
      b = a, a = remainder;
    }
    inverse = floor_mod(inverse, tap_step);
  }

  CONVOPS_HOST_DEVICE int64_t residues() const { return stride < input ? stride : input; }

  CONVOPS_HOST_DEVICE Residue residue(int64_t i) const {
    const int64_t pixels = (input - 1 - i) / stride + 1;
    const int64_t divisor = stride / tap_step;
    if ((i + pad) % divisor != 0) return {pixels, 0, 0, 0};
    const int64_t first = (i + pad) / divisor % tap_step * inverse % tap_step;
    if (first >= kernel) return {pixels, 0, 0, 0};
    return {pixels, first, (kernel - 1 - first) / tap_step + 1, (i + pad - first * dilation) / stride};
  }

  int64_t input = 1, kernel = 1, stride = 1, dilation = 1, pad = 0;
  int64_t tap_step = 1, output_step = 1, inverse = 1;
};

}  // namespace convops
