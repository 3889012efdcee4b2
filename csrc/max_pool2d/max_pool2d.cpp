// max_pool2d over sliding and adaptive windows, its routing by window offset, and the transpose of that routing, on
// every device.
#include "../common/operators.h"
#include "../common/pool2d.h"

namespace convops {
namespace {

ScalarType offset_dtype(const Pool2dGeometry& geometry) {
  return geometry.taps() <= kMaxByteTaps ? ScalarType::Byte : ScalarType::Int;
}

void check_offsets(const char* op, const Tensor& offsets, const Pool2dGeometry& geometry) {
  check_defined(op, "offsets", offsets);
  CONVOPS_CHECK(
      offsets.scalar_type() == offset_dtype(geometry), op, "offsets must be ", dtype_name(offset_dtype(geometry)),
      " for a window of ", geometry.taps(), " taps, got ", dtype_name(offsets.scalar_type()));
  check_output(op, "offsets", offsets, geometry);
}

void run(
    const char* op, const Tensor& on, const MaxPool2dProblem& problem, const MaxPool2dArguments& arguments,
    const std::string& algorithm) {
  const auto& chosen = choose_algorithm(op, CONVOPS_ALGORITHMS_ON(max_pool2d, on.is_cuda()), problem, algorithm);
  if (problem.geometry.output_numel() > 0) Launch{on}(chosen, problem, arguments);
}

template <typename Window>
std::tuple<Tensor, std::optional<Tensor>> forward(
    const Window& window, Tensor input, bool with_offsets, const std::string& algorithm) {
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
  run(window.op, input, {pass, dtype, geometry}, arguments, algorithm);
  return {output, offsets};
}

template <typename Window>
std::tuple<Tensor, Tensor> forward_with_offsets(const Window& window, Tensor input, const std::string& algorithm) {
  auto [output, offsets] = forward(window, input, true, algorithm);
  return {output, *offsets};
}

template <typename Window>
Tensor grad_input(
    const Window& window, Tensor grad_output, Tensor offsets, const IntList& input_size,
    std::optional<MemoryFormat> memory_format, const std::string& algorithm) {
  const DType dtype = check_dtype(window.op, "grad_output", grad_output);
  const bool channels_last = wants_channels_last(grad_output, memory_format);
  const auto size = pooled_input_size(window.op, image_size(window.op, "grad_output", grad_output), input_size);
  const auto geometry = window.over(size, channels_last);
  check_output(window.op, "grad_output", grad_output, geometry);
  check_offsets(window.op, offsets, geometry);
  check_numel(window.op, "grad_input", size);
  Tensor grad_input = allocate(grad_output, size, grad_output.dim() == 3, channels_last);
  if (geometry.output_numel() == 0) return torch::stable::zero_(grad_input);
  grad_output = dense(grad_output, channels_last);
  offsets = dense(offsets, channels_last && offsets.dim() == 4);
  const MaxPool2dArguments arguments{
      .input = grad_input.data_ptr(), .output = grad_output.data_ptr(), .offsets = offsets.data_ptr()};
  run(window.op, grad_output, {MaxPool2dPass::grad_input, dtype, geometry}, arguments, algorithm);
  return grad_input;
}

template <typename Window>
Tensor gather(const Window& window, Tensor input, Tensor offsets, const std::string& algorithm) {
  const DType dtype = check_dtype(window.op, "input", input);
  const bool channels_last = is_channels_last(input);
  const auto geometry = window.over(image_size(window.op, "input", input), channels_last);
  check_offsets(window.op, offsets, geometry);
  Tensor output = allocate(input, geometry.output_size(), input.dim() == 3, channels_last);
  input = dense(input, channels_last);
  offsets = dense(offsets, channels_last && offsets.dim() == 4);
  const MaxPool2dArguments arguments{
      .input = input.data_ptr(), .output = output.data_ptr(), .offsets = offsets.data_ptr()};
  run(window.op, input, {MaxPool2dPass::gather, dtype, geometry}, arguments, algorithm);
  return output;
}

template <typename Window>
Tensor indices(const Window& window, Tensor offsets, const IntList& input_size, const std::string& algorithm) {
  check_defined(window.op, "offsets", offsets);
  const bool channels_last = is_channels_last(offsets);
  const auto size = pooled_input_size(window.op, image_size(window.op, "offsets", offsets), input_size);
  const auto geometry = window.over(size, channels_last);
  check_offsets(window.op, offsets, geometry);
  Tensor indices = allocate(offsets, geometry.output_size(), offsets.dim() == 3, channels_last, ScalarType::Long);
  offsets = dense(offsets, channels_last);
  const MaxPool2dArguments arguments{
      .offsets = offsets.data_ptr(), .indices = static_cast<int64_t*>(indices.data_ptr())};
  const DType dtype = geometry.taps() <= kMaxByteTaps ? DType::uint8 : DType::int32;
  run(window.op, offsets, {MaxPool2dPass::indices, dtype, geometry}, arguments, algorithm);
  return indices;
}

}  // namespace

Tensor max_pool2d(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation, bool ceil_mode,
    std::string algorithm) {
  const SlidingWindow window{"max_pool2d", kernel_size, stride, padding, dilation, ceil_mode};
  return std::get<0>(forward(window, input, false, algorithm));
}

std::tuple<Tensor, Tensor> max_pool2d_with_offsets(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation, bool ceil_mode,
    std::string algorithm) {
  const SlidingWindow window{"max_pool2d", kernel_size, stride, padding, dilation, ceil_mode};
  return forward_with_offsets(window, input, algorithm);
}

Tensor max_pool2d_grad_input(
    Tensor grad_output, Tensor offsets, IntList input_size, IntList kernel_size, IntList stride, IntList padding,
    IntList dilation, bool ceil_mode, std::optional<MemoryFormat> memory_format, std::string algorithm) {
  const SlidingWindow window{"max_pool2d_grad_input", kernel_size, stride, padding, dilation, ceil_mode};
  return grad_input(window, grad_output, offsets, input_size, memory_format, algorithm);
}

Tensor max_pool2d_gather(
    Tensor input, Tensor offsets, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    bool ceil_mode, std::string algorithm) {
  const SlidingWindow window{"max_pool2d_gather", kernel_size, stride, padding, dilation, ceil_mode};
  return gather(window, input, offsets, algorithm);
}

Tensor max_pool2d_indices(
    Tensor offsets, IntList input_size, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    bool ceil_mode, std::string algorithm) {
  const SlidingWindow window{"max_pool2d_indices", kernel_size, stride, padding, dilation, ceil_mode};
  return indices(window, offsets, input_size, algorithm);
}

Tensor adaptive_max_pool2d(Tensor input, IntList output_size, std::string algorithm) {
  return std::get<0>(forward(AdaptiveWindow{"adaptive_max_pool2d", output_size}, input, false, algorithm));
}

std::tuple<Tensor, Tensor> adaptive_max_pool2d_with_offsets(Tensor input, IntList output_size, std::string algorithm) {
  return forward_with_offsets(AdaptiveWindow{"adaptive_max_pool2d", output_size}, input, algorithm);
}

Tensor adaptive_max_pool2d_grad_input(
    Tensor grad_output, Tensor offsets, IntList input_size, std::optional<MemoryFormat> memory_format,
    std::string algorithm) {
  const PooledWindow window{"adaptive_max_pool2d_grad_input", "grad_output", grad_output};
  return grad_input(window, grad_output, offsets, input_size, memory_format, algorithm);
}

Tensor adaptive_max_pool2d_gather(Tensor input, Tensor offsets, std::string algorithm) {
  return gather(PooledWindow{"adaptive_max_pool2d_gather", "offsets", offsets}, input, offsets, algorithm);
}

Tensor adaptive_max_pool2d_indices(Tensor offsets, IntList input_size, std::string algorithm) {
  const PooledWindow window{"adaptive_max_pool2d_indices", "offsets", offsets};
  return indices(window, offsets, input_size, algorithm);
}

}  // namespace convops
