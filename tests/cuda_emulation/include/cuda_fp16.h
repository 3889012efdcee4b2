// float16 with the one rounding, to nearest even, that the kernels ask for.
#pragma once

#include "cuda_runtime.h"

struct __half {
  __half() = default;
  __half(float value) : value(static_cast<_Float16>(value)) {}
  operator float() const { return static_cast<float>(value); }

 private:
  _Float16 value;
};
