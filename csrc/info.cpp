// What the library can say about itself without a tensor: how it was built and which algorithms it has.
// Plain C functions, read through ctypes.
#include <algorithm>
#include <exception>
#include <string>

#include "common/algorithm.h"
#include "common/cpu.h"
#include "conv2d/conv2d_cost.h"

#define CONVOPS_ISA baseline
#include "conv2d/winograd_transforms.h"

#define CONVOPS_EXPORT extern "C" __attribute__((visibility("default")))

namespace convops {
namespace {

template <typename Algorithms>
std::string names(const Algorithms& algorithms) {
  std::string text;
  for (const auto& algorithm : algorithms) text.append(text.empty() ? "" : ",").append(algorithm.name);
  return text;
}

std::string algorithm_names(const std::string& op, bool cuda) {
#ifndef CONVOPS_CUDA
  if (cuda) return "";
#endif
  if (op == "conv2d") return names(CONVOPS_ALGORITHMS_ON(conv2d, cuda));
  if (op == "max_pool2d") return names(CONVOPS_ALGORITHMS_ON(max_pool2d, cuda));
  if (op == "avg_pool2d") return names(CONVOPS_ALGORITHMS_ON(avg_pool2d, cuda));
  if (op == "max_unpool2d") return names(CONVOPS_ALGORITHMS_ON(max_unpool2d, cuda));
  return "";
}

// What choose() returns, or "error: " and what it throws; valid until the thread's next call.
template <typename Choose>
const char* choice_text(const Choose& choose) {
  thread_local std::string text;
  try {
    text = choose();
  } catch (const std::exception& error) {
    text.assign("error: ").append(error.what());
  }
  return text.c_str();
}

template <typename Transform>
int winograd_transform(const double* from, double* to) {
  double line[Transform::inputs], result[Transform::outputs];
  std::copy_n(from, Transform::inputs, line);
  Transform::template apply<double>(line, result);
  std::copy_n(result, Transform::outputs, to);
  return Transform::outputs;
}

template <int kTaps>
int winograd_transform_of(std::string_view name, const double* from, double* to) {
  if (name == "input") return winograd_transform<baseline::WinogradInput>(from, to);
  if (name == "weight") return winograd_transform<baseline::WinogradWeight<kTaps>>(from, to);
  if (name == "output") return winograd_transform<baseline::WinogradOutput<kTaps>>(from, to);
  if (name == "grad_output") return winograd_transform<baseline::WinogradGradOutput<kTaps>>(from, to);
  if (name == "grad_weight") return winograd_transform<baseline::WinogradGradWeight<kTaps>>(from, to);
  return 0;
}

}  // namespace
}  // namespace convops

// The instruction set in use, the torch built against, the CUDA architectures (empty without CUDA), why there is no
// CUDA.
CONVOPS_EXPORT const char* torch_convops_isa() {
  return convops::isa_name(convops::cpu_isa());
}
CONVOPS_EXPORT const char* torch_convops_built_with_torch() {
  return CONVOPS_BUILD_TORCH;
}
CONVOPS_EXPORT const char* torch_convops_cuda_archs() {
  return CONVOPS_BUILD_CUDA;
}
CONVOPS_EXPORT const char* torch_convops_no_cuda_reason() {
  return CONVOPS_BUILD_NO_CUDA_REASON;
}

// Comma-separated algorithm names of "conv2d", "max_pool2d", "max_unpool2d" or "avg_pool2d", best first.
CONVOPS_EXPORT const char* torch_convops_algorithms(const char* op, int cuda) {
  thread_local std::string text;
  text = convops::algorithm_names(op, cuda != 0);
  return text.c_str();
}

// The algorithm that "auto" takes, or a text that starts with "error: ". pass and dtype number the enumerations of
// algorithm.h. sizes for conv2d: N C H W, K R S, stride (2), padding (4), dilation (2), groups, border.
CONVOPS_EXPORT const char* torch_convops_conv2d_choice(
    int cuda, int pass, int dtype, const int64_t* sizes, int channels_last, int weight_channels_last, int allow_tf32) {
  using namespace convops;
  return choice_text([&] {
    const int64_t groups = sizes[15];
    Conv2dGeometry geometry = make_conv2d_geometry(
        "conv2d", {sizes[0], sizes[1], sizes[2], sizes[3]},
        {sizes[4], groups > 0 ? sizes[1] / groups : 0, sizes[5], sizes[6]}, {sizes[7], sizes[8]},
        {sizes[9], sizes[10], sizes[11], sizes[12]}, {sizes[13], sizes[14]}, groups, static_cast<Border>(sizes[16]),
        channels_last != 0, weight_channels_last != 0);
    const bool padded = geometry.border() != Border::zeros && static_cast<Conv2dPass>(pass) == Conv2dPass::grad_input;
    if (padded) geometry = geometry.over_padded();
    const Conv2dProblem problem{static_cast<Conv2dPass>(pass), static_cast<DType>(dtype), geometry, allow_tf32 != 0};
    return choose_algorithm("conv2d", CONVOPS_ALGORITHMS_ON(conv2d, cuda), problem, "auto").name;
  });
}

// sizes for a pooling: N C H W, kernel (2), stride (2), padding (4), dilation (2), ceil_mode.
CONVOPS_EXPORT const char* torch_convops_pool2d_choice(
    const char* op, int cuda, int pass, int dtype, const int64_t* sizes, int channels_last) {
  using namespace convops;
  return choice_text([&] {
    const Pool2dGeometry geometry = make_pool2d_geometry(
        op, {sizes[0], sizes[1], sizes[2], sizes[3]}, {sizes[4], sizes[5]}, {sizes[6], sizes[7]},
        {sizes[8], sizes[9], sizes[10], sizes[11]}, {sizes[12], sizes[13]}, sizes[14] != 0, channels_last != 0);
    if (std::string_view(op) == "avg_pool2d") {
      const AvgPool2dProblem problem{static_cast<AvgPool2dPass>(pass), static_cast<DType>(dtype), geometry, {true, 0}};
      return choose_algorithm(op, CONVOPS_ALGORITHMS_ON(avg_pool2d, cuda), problem, "auto").name;
    }
    const MaxPool2dProblem problem{static_cast<MaxPool2dPass>(pass), static_cast<DType>(dtype), geometry};
    return choose_algorithm(op, CONVOPS_ALGORITHMS_ON(max_pool2d, cuda), problem, "auto").name;
  });
}

// Sets whether "auto" may take Winograd's algorithm; returns whether it might before.
CONVOPS_EXPORT int torch_convops_allow_winograd(int allowed) {
  return convops::winograd_allowed().exchange(allowed != 0);
}

// Applies a matrix of conv2d/winograd_transforms.h, for 2 to 5 taps, to a line of up to 6 values; returns how many it
// makes.
CONVOPS_EXPORT int torch_convops_winograd_transform(const char* name, int taps, const double* from, double* to) {
  return convops::baseline::select_instance<4>(
      taps - 1, []<int N>() { return &convops::winograd_transform_of<N + 1>; })(name, from, to);
}
