// What an operator asks of a kernel (a problem), what it hands over (arguments), and the lists of algorithms that
// can do it. Free of torch: host code of CPU and CUDA kernels includes this and nothing above it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "geometry.h"

namespace convops {

enum class DType : int32_t { float32, float64, bfloat16, float16, uint8, int8, int16, int32, int64 };

constexpr bool is_floating(DType dtype) {
  return dtype <= DType::float16;
}

// The convolution output(n,k,p,q) = sum over c,r,s of input(n,c,h,w) * weight(k,c,r,s) pairs three tensors; each pass
// computes one of them (or its gradient, which has its shape) from the other two.
// grad_bias sums the output's gradient over everything but channels. fold adds the padding of an image to the pixels
// that it shows: grad_input of a border other than zeros is grad_input over the padded image, folded, so only forward
// and grad_weight meet such a border.
enum class Conv2dPass : int32_t { forward, grad_input, grad_weight, grad_bias, fold };

constexpr bool is_contraction(Conv2dPass pass) {
  return pass <= Conv2dPass::grad_weight;
}

struct Conv2dProblem {
  Conv2dPass pass;
  DType dtype;
  Conv2dGeometry geometry;
  bool allow_tf32;  // float32 on CUDA tensor cores may round its operands to TF32
};

// forward writes output, grad_input writes input, grad_weight writes weight; the other two are read.
// grad_bias reads output and writes bias. fold reads output, the padded image, and writes input.
struct Conv2dArguments {
  void* input = nullptr;
  void* weight = nullptr;
  void* output = nullptr;
  void* bias = nullptr;       // in forward, grad_input and fold null or read: one value a channel of what is written
  void* workspace = nullptr;  // Algorithm::workspace bytes on the device, 256-byte aligned
  void* stream = nullptr;     // cudaStream_t on CUDA
};

// gather reads, for each window, the tap that an offset names; grad_input is its transpose.
enum class MaxPool2dPass : int32_t { forward, forward_with_offsets, grad_input, gather, indices };

struct MaxPool2dProblem {
  MaxPool2dPass pass;
  DType dtype;
  Pool2dGeometry geometry;
};

// forward: input -> output. forward_with_offsets: input -> output, offsets. grad_input: output, offsets -> input.
// gather: input, offsets -> output. indices: offsets -> indices.
struct MaxPool2dArguments {
  void* input = nullptr;
  void* output = nullptr;
  void* offsets = nullptr;  // uint8_t while the window has at most kMaxByteTaps taps, else int32_t
  int64_t* indices = nullptr;
  void* workspace = nullptr;
  void* stream = nullptr;
};

enum class AvgPool2dPass : int32_t { forward, grad_input };

struct AvgPool2dProblem {
  AvgPool2dPass pass;
  DType dtype;
  Pool2dGeometry geometry;
  AvgPool2dDivisor divisor;
};

// forward: input -> output. grad_input: output -> input.
struct AvgPool2dArguments {
  void* input = nullptr;
  void* output = nullptr;
  void* workspace = nullptr;
  void* stream = nullptr;
};

// scatter writes each pooled value to the pixel that its index names and zero to the others; of several values for one
// pixel the last in row-major order stays, or with scatter_add all add up. gather reads each pixel back.
enum class MaxUnpool2dPass : int32_t { scatter, scatter_add, gather };

struct MaxUnpool2dProblem {
  MaxUnpool2dPass pass;
  DType dtype;
  MaxUnpool2dGeometry geometry;
};

// scatter, scatter_add: pooled, indices -> image. gather: image, indices -> pooled. An index that names no pixel is
// an error, wherever the kernel can find that out.
struct MaxUnpool2dArguments {
  void* pooled = nullptr;
  void* image = nullptr;
  const int64_t* indices = nullptr;
  void* workspace = nullptr;
  void* stream = nullptr;
};

[[noreturn]] inline void fail_index(const MaxUnpool2dGeometry& geometry, int64_t index) {
  fail(
      "max_unpool2d", "indices must be at least 0 and less than the output's height * width, ", geometry.pixels,
      ", got ", index);
}

template <typename Problem, typename Arguments>
struct Algorithm {
  const char* name;
  bool (*supports)(const Problem&);
  int64_t (*workspace)(const Problem&);  // bytes; null: none
  void (*run)(const Problem&, const Arguments&);
  double (*cost)(const Problem&) = nullptr;  // about the time it takes, in a unit of its list's; null: none
};

using Conv2dAlgorithm = Algorithm<Conv2dProblem, Conv2dArguments>;
using MaxPool2dAlgorithm = Algorithm<MaxPool2dProblem, MaxPool2dArguments>;
using AvgPool2dAlgorithm = Algorithm<AvgPool2dProblem, AvgPool2dArguments>;
using MaxUnpool2dAlgorithm = Algorithm<MaxUnpool2dProblem, MaxUnpool2dArguments>;

// One list per operator and device: of those that support the problem "auto" takes the cheapest, the first of several.
std::span<const Conv2dAlgorithm> conv2d_cpu_algorithms();
std::span<const MaxPool2dAlgorithm> max_pool2d_cpu_algorithms();
std::span<const AvgPool2dAlgorithm> avg_pool2d_cpu_algorithms();
std::span<const MaxUnpool2dAlgorithm> max_unpool2d_cpu_algorithms();
// CONVOPS_ALGORITHMS_ON picks the list of a device; a build without CUDA never sees a tensor on one.
#ifdef CONVOPS_CUDA
#define CONVOPS_ALGORITHMS_ON(op, cuda) ((cuda) ? op##_cuda_algorithms() : op##_cpu_algorithms())
std::span<const Conv2dAlgorithm> conv2d_cuda_algorithms();
std::span<const MaxPool2dAlgorithm> max_pool2d_cuda_algorithms();
std::span<const AvgPool2dAlgorithm> avg_pool2d_cuda_algorithms();
std::span<const MaxUnpool2dAlgorithm> max_unpool2d_cuda_algorithms();
#else
#define CONVOPS_ALGORITHMS_ON(op, cuda) (static_cast<void>(cuda), op##_cpu_algorithms())
#endif

template <typename Problem, typename Arguments>
const Algorithm<Problem, Arguments>& choose_algorithm(
    const char* op, std::span<const Algorithm<Problem, Arguments>> algorithms, const Problem& problem,
    std::string_view wanted) {
  const Algorithm<Problem, Arguments>* best = nullptr;
  double least = 0;
  for (const auto& algorithm : algorithms) {
    if (wanted != "auto" && wanted != algorithm.name) continue;
    const bool supported = algorithm.supports(problem);
    CONVOPS_CHECK(supported || wanted == "auto", op, "algorithm '", wanted, "' does not support this problem");
    if (!supported) continue;
    const double cost = wanted == "auto" && algorithm.cost != nullptr ? algorithm.cost(problem) : 0;
    if (best == nullptr || cost < least) {
      best = &algorithm;
      least = cost;
    }
  }
  if (best != nullptr) return *best;
  CONVOPS_CHECK(wanted != "auto", op, "no algorithm of this device can do a problem of such sizes and steps");
  std::string known;
  for (const auto& algorithm : algorithms) known.append(", '").append(algorithm.name).append("'");
  fail(op, "algorithm must be one of 'auto'", known, "; got '", wanted, "'");
}

}  // namespace convops
