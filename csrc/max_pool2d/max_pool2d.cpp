// max_pool2d, its routing by window offset, and the transpose of that routing, on every device.
#include "../common/operators.h"
#include "../common/pool2d.h"

namespace convops {
namespace {

ScalarType offset_dtype(const Pool2dGeometry& geometry) {
  return geometry.taps() <= kMaxByteTaps ? ScalarType::Byte : ScalarType::Int;
}

void check_offsets(const PoolWindow& window, const Tensor& offsets, const Pool2dGeometry& geometry) {
  check_defined(window.op, "offsets", offsets);
  CONVOPS_CHECK(
      offsets.scalar_type() == offset_dtype(geometry), window.op, "offsets must be ",
      dtype_name(offset_dtype(geometry)), " for a window of ", geometry.taps(), " taps, got ",
      dtype_name(offsets.scalar_type()));
  window.check_output("offsets", offsets, geometry);
}

void run(
    const PoolWindow& window, const Tensor& on, const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments,
    const std::string& algorithm) {
  const auto& chosen = choose_algorithm(window.op, CONVOPS_ALGORITHMS_ON(max_pool2d, on.is_cuda()), problem, algorithm);
  if (problem.geometry.N == 0) return;
  Launch{on}(chosen, problem, arguments);
}

std::tuple<Tensor, std::optional<Tensor>> forward(
    const PoolWindow& window, Tensor input, bool with_offsets, const std::string& algorithm) {
  const DType dtype = check_dtype(window.op, "input", input, /*integers=*/true);
  const bool channels_last = is_channels_last(input);
  const bool unbatched = input.dim() == 3;
  const auto geometry = window.over(image_size(window.op, "input", input), channels_last);
  Tensor output = allocate(input, geometry.output_size(), unbatched, channels_last);
  std::optional<Tensor> offsets;
  if (with_offsets) offsets = allocate(input, geometry.output_size(), unbatched, channels_last, offset_dtype(geometry));
  input = dense(input, channels_last);
  const MaxPool2dArguments arguments{
      .input = input.data_ptr(), .output = output.data_ptr(), .offsets = offsets ? offsets->data_ptr() : nullptr};
  const auto pass = with_offsets ? MaxPool2dPass::forward_with_offsets : MaxPool2dPass::forward;
  run(window, input, {pass, dtype, geometry}, arguments, algorithm);
  return {output, offsets};
}

}  // namespace

Tensor max_pool2d(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation, bool ceil_mode,
    std::string algorithm) {
  const PoolWindow window{"max_pool2d", kernel_size, stride, padding, dilation, ceil_mode};
  return std::get<0>(forward(window, input, false, algorithm));
}

std::tuple<Tensor, Tensor> max_pool2d_with_offsets(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation, bool ceil_mode,
    std::string algorithm) {
  const PoolWindow window{"max_pool2d", kernel_size, stride, padding, dilation, ceil_mode};
  auto [output, offsets] = forward(window, input, true, algorithm);
  return {output, *offsets};
}

Tensor max_pool2d_grad_input(
    Tensor grad_output, Tensor offsets, IntList input_size, IntList kernel_size, IntList stride, IntList padding,
    IntList dilation, bool ceil_mode, std::optional<MemoryFormat> memory_format, std::string algorithm) {
  const PoolWindow window{"max_pool2d_grad_input", kernel_size, stride, padding, dilation, ceil_mode};
  const DType dtype = check_dtype(window.op, "grad_output", grad_output);
  const bool channels_last = wants_channels_last(grad_output, memory_format);
  const auto size = image_size(window.op, "grad_output", grad_output);
  const auto [H, W] = as_pair(window.op, "input_size", input_size);
  const std::array<int64_t, 4> grad_size{size[0], size[1], H, W};
  const auto geometry = window.over(grad_size, channels_last);
  window.check_output("grad_output", grad_output, geometry);
  check_offsets(window, offsets, geometry);
  check_numel(window.op, "grad_input", grad_size);
  Tensor grad_input = allocate(grad_output, grad_size, grad_output.dim() == 3, channels_last);
  grad_output = dense(grad_output, channels_last);
  offsets = dense(offsets, channels_last && offsets.dim() == 4);
  const MaxPool2dArguments arguments{
      .input = grad_input.data_ptr(), .output = grad_output.data_ptr(), .offsets = offsets.data_ptr()};
  run(window, grad_output, {MaxPool2dPass::grad_input, dtype, geometry}, arguments, algorithm);
  return grad_input;
}

Tensor max_pool2d_gather(
    Tensor input, Tensor offsets, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    bool ceil_mode, std::string algorithm) {
  const PoolWindow window{"max_pool2d_gather", kernel_size, stride, padding, dilation, ceil_mode};
  const DType dtype = check_dtype(window.op, "input", input);
  const bool channels_last = is_channels_last(input);
  const auto geometry = window.over(image_size(window.op, "input", input), channels_last);
  check_offsets(window, offsets, geometry);
  Tensor output = allocate(input, geometry.output_size(), input.dim() == 3, channels_last);
  input = dense(input, channels_last);
  offsets = dense(offsets, channels_last && offsets.dim() == 4);
  const MaxPool2dArguments arguments{
      .input = input.data_ptr(), .output = output.data_ptr(), .offsets = offsets.data_ptr()};
  run(window, input, {MaxPool2dPass::gather, dtype, geometry}, arguments, algorithm);
  return output;
}

Tensor max_pool2d_indices(
    Tensor offsets, IntList input_size, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    bool ceil_mode, std::string algorithm) {
  const PoolWindow window{"max_pool2d_indices", kernel_size, stride, padding, dilation, ceil_mode};
  check_defined(window.op, "offsets", offsets);
  const bool channels_last = is_channels_last(offsets);
  const auto size = image_size(window.op, "offsets", offsets);
  const auto [H, W] = as_pair(window.op, "input_size", input_size);
  const auto geometry = window.over({size[0], size[1], H, W}, channels_last);
  check_offsets(window, offsets, geometry);
  Tensor indices = allocate(offsets, geometry.output_size(), offsets.dim() == 3, channels_last, ScalarType::Long);
  offsets = dense(offsets, channels_last);
  const MaxPool2dArguments arguments{
      .offsets = offsets.data_ptr(), .indices = static_cast<int64_t*>(indices.data_ptr())};
  const DType dtype = geometry.taps() <= kMaxByteTaps ? DType::uint8 : DType::int32;
  run(window, offsets, {MaxPool2dPass::indices, dtype, geometry}, arguments, algorithm);
  return indices;
}

}  // namespace convops
