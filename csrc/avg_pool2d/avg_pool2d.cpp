// avg_pool2d over sliding and adaptive windows and its gradient (its transpose), on every device.
#include "../common/operators.h"
#include "../common/pool2d.h"

namespace convops {
namespace {

AvgPool2dDivisor make_divisor(const char* op, bool count_include_pad, std::optional<int64_t> divisor_override) {
  CONVOPS_CHECK(!divisor_override || *divisor_override != 0, op, "divisor_override must not be zero");
  return {count_include_pad, divisor_override.value_or(0)};
}

// An adaptive window has no padding.
constexpr AvgPool2dDivisor kPixels{false, 0};

void run(
    const char* op, const Tensor& on, const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments,
    const std::string& algorithm) {
  const auto& chosen = choose_algorithm(op, CONVOPS_ALGORITHMS_ON(avg_pool2d, on.is_cuda()), problem, algorithm);
  if (problem.geometry.output_numel() > 0) Launch{on}(chosen, problem, arguments);
}

template <typename Window>
Tensor forward(const Window& window, Tensor input, const AvgPool2dDivisor& divisor, const std::string& algorithm) {
  const DType dtype = check_dtype(window.op, "input", input);
  const bool channels_last = is_channels_last(input);
  const auto geometry = window.over(image_size(window.op, "input", input), channels_last);
  Tensor output = allocate(input, geometry.output_size(), input.dim() == 3, channels_last);
  input = dense(input, channels_last);
  const AvgPool2dArguments arguments{.input = input.data_ptr(), .output = output.data_ptr()};
  run(window.op, input, {AvgPool2dPass::forward, dtype, geometry, divisor}, arguments, algorithm);
  return output;
}

template <typename Window>
Tensor grad_input(
    const Window& window, Tensor grad_output, const IntList& input_size, const AvgPool2dDivisor& divisor,
    std::optional<MemoryFormat> memory_format, const std::string& algorithm) {
  const DType dtype = check_dtype(window.op, "grad_output", grad_output);
  const bool channels_last = wants_channels_last(grad_output, memory_format);
  const auto size = pooled_input_size(window.op, image_size(window.op, "grad_output", grad_output), input_size);
  const auto geometry = window.over(size, channels_last);
  check_output(window.op, "grad_output", grad_output, geometry);
  check_numel(window.op, "grad_input", size);
  Tensor grad_input = allocate(grad_output, size, grad_output.dim() == 3, channels_last);
  if (geometry.output_numel() == 0) return torch::stable::zero_(grad_input);
  grad_output = dense(grad_output, channels_last);
  const AvgPool2dArguments arguments{.input = grad_input.data_ptr(), .output = grad_output.data_ptr()};
  run(window.op, grad_output, {AvgPool2dPass::grad_input, dtype, geometry, divisor}, arguments, algorithm);
  return grad_input;
}

}  // namespace

Tensor avg_pool2d(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode, bool count_include_pad,
    std::optional<int64_t> divisor_override, IntList dilation, std::string algorithm) {
  const SlidingWindow window{"avg_pool2d", kernel_size, stride, padding, dilation, ceil_mode};
  return forward(window, input, make_divisor(window.op, count_include_pad, divisor_override), algorithm);
}

Tensor avg_pool2d_grad_input(
    Tensor grad_output, IntList input_size, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode,
    bool count_include_pad, std::optional<int64_t> divisor_override, IntList dilation,
    std::optional<MemoryFormat> memory_format, std::string algorithm) {
  const SlidingWindow window{"avg_pool2d_grad_input", kernel_size, stride, padding, dilation, ceil_mode};
  const auto divisor = make_divisor(window.op, count_include_pad, divisor_override);
  return grad_input(window, grad_output, input_size, divisor, memory_format, algorithm);
}

Tensor adaptive_avg_pool2d(Tensor input, IntList output_size, std::string algorithm) {
  return forward(AdaptiveWindow{"adaptive_avg_pool2d", output_size}, input, kPixels, algorithm);
}

Tensor adaptive_avg_pool2d_grad_input(
    Tensor grad_output, IntList input_size, std::optional<MemoryFormat> memory_format, std::string algorithm) {
  const PooledWindow window{"adaptive_avg_pool2d_grad_input", "grad_output", grad_output};
  return grad_input(window, grad_output, input_size, kPixels, memory_format, algorithm);
}

}  // namespace convops
