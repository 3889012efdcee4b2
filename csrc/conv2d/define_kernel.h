// Defines a kernel that conv2d_cpu.cpp declares as the instances of a function template on the dtype.
#pragma once

#include "../common/algorithm.h"
#include "../common/simd.h"

#define CONVOPS_DEFINE_CONV2D_KERNEL(name, function)                          \
  void name(const Conv2dProblem& problem, const Conv2dArguments& arguments) { \
    switch (problem.dtype) {                                                  \
      case DType::float32: return function<float>(problem, arguments);        \
      case DType::float64: return function<double>(problem, arguments);       \
      case DType::bfloat16: return function<bfloat16>(problem, arguments);    \
      default: return function<float16>(problem, arguments);                  \
    }                                                                         \
  }
