// avg_pool2d and its gradient (its transpose) on every device.
#include "../common/operators.h"
#include "../common/pool2d.h"

namespace convops {
namespace {

const IntList kNoDilation{1};

AvgPool2dDivisor make_divisor(const char* op, bool count_include_pad, std::optional<int64_t> divisor_override) {
  CONVOPS_CHECK(!divisor_override || *divisor_override != 0, op, "divisor_override must not be zero");
  return {count_include_pad, divisor_override.value_or(0)};
}

void run(
    const char* op, const Tensor& on, const AvgPool2dProblem& problem, const AvgPool2dArguments& arguments,
    const std::string& algorithm) {
  const auto& chosen = choose_algorithm(op, CONVOPS_ALGORITHMS_ON(avg_pool2d, on.is_cuda()), problem, algorithm);
  if (problem.geometry.N == 0) return;
  Launch{on}(chosen, problem, arguments);
}

}  // namespace

Tensor avg_pool2d(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode, bool count_include_pad,
    std::optional<int64_t> divisor_override, std::string algorithm) {
  const PoolWindow window{"avg_pool2d", kernel_size, stride, padding, kNoDilation, ceil_mode};
  const DType dtype = check_dtype(window.op, "input", input);
  const bool channels_last = is_channels_last(input);
  const auto geometry = window.over(image_size(window.op, "input", input), channels_last);
  const auto divisor = make_divisor(window.op, count_include_pad, divisor_override);
  Tensor output = allocate(input, geometry.output_size(), input.dim() == 3, channels_last);
  input = dense(input, channels_last);
  const AvgPool2dArguments arguments{.input = input.data_ptr(), .output = output.data_ptr()};
  run(window.op, input, {AvgPool2dPass::forward, dtype, geometry, divisor}, arguments, algorithm);
  return output;
}

Tensor avg_pool2d_grad_input(
    Tensor grad_output, IntList input_size, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode,
    bool count_include_pad, std::optional<int64_t> divisor_override, std::optional<MemoryFormat> memory_format,
    std::string algorithm) {
  const PoolWindow window{"avg_pool2d_grad_input", kernel_size, stride, padding, kNoDilation, ceil_mode};
  const DType dtype = check_dtype(window.op, "grad_output", grad_output);
  const bool channels_last = wants_channels_last(grad_output, memory_format);
  const auto size = image_size(window.op, "grad_output", grad_output);
  const auto [H, W] = as_pair(window.op, "input_size", input_size);
  const std::array<int64_t, 4> grad_size{size[0], size[1], H, W};
  const auto geometry = window.over(grad_size, channels_last);
  const auto divisor = make_divisor(window.op, count_include_pad, divisor_override);
  window.check_output("grad_output", grad_output, geometry);
  check_numel(window.op, "grad_input", grad_size);
  Tensor grad_input = allocate(grad_output, grad_size, grad_output.dim() == 3, channels_last);
  grad_output = dense(grad_output, channels_last);
  const AvgPool2dArguments arguments{.input = grad_input.data_ptr(), .output = grad_output.data_ptr()};
  run(window.op, grad_output, {AvgPool2dPass::grad_input, dtype, geometry, divisor}, arguments, algorithm);
  return grad_input;
}

}  // namespace convops
