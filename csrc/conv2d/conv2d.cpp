// conv2d and its gradients on every device: check, allocate, choose an algorithm, run it.
#include "../common/operators.h"

namespace convops {
namespace {

constexpr const char* kForward = "conv2d";
constexpr const char* kGradInput = "conv2d_grad_input";
constexpr const char* kGradWeight = "conv2d_grad_weight";
constexpr const char* kGradBias = "conv2d_grad_bias";

std::array<int64_t, 4> weight_size(const char* op, const Tensor& weight) {
  CONVOPS_CHECK(weight.dim() == 4, op, "weight must be 4-D, got ", weight.dim(), "-D");
  const auto sizes = weight.sizes();
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

void check_grad_output(const char* op, const std::array<int64_t, 4>& size, const Conv2dGeometry& geometry) {
  CONVOPS_CHECK(
      size == geometry.output_size(), op, "grad_output must be of size ", as_tuple(geometry.output_size()), ", got ",
      as_tuple(size));
}

void run(
    const char* op, const Tensor& on, const Conv2dProblem& problem, const Conv2dArguments& arguments,
    const std::string& algorithm) {
  // First, because what an algorithm supports depends on the device.
  Launch launch(on);
  const auto& chosen = choose_algorithm(op, CONVOPS_ALGORITHMS_ON(conv2d, on.is_cuda()), problem, algorithm);
  // An empty batch has nothing to write, except gradients that are then zero.
  const bool writes_image =
      problem.pass == Conv2dPass::forward || problem.pass == Conv2dPass::grad_input || problem.pass == Conv2dPass::fold;
  if (problem.geometry.N == 0 && writes_image) return;
  launch(chosen, problem, arguments);
}

// The data of a bias, made dense in its place, or null.
void* bias_data(
    const char* op, std::optional<Tensor>& bias, const Tensor& on, const char* on_name, int64_t channels,
    const char* channels_name) {
  if (!bias) return nullptr;
  check_same(op, "bias", *bias, on, on_name);
  CONVOPS_CHECK(
      bias->dim() == 1 && bias->size(0) == channels, op, "bias must be 1-D with one value per ", channels_name, " (",
      channels, "), got ", as_tuple(bias->sizes()));
  bias = dense(*bias, false);
  return bias->data_ptr();
}

}  // namespace

Tensor conv2d(
    Tensor input, Tensor weight, std::optional<Tensor> bias, IntList stride, IntList padding, IntList dilation,
    int64_t groups, std::string padding_mode, bool allow_tf32, std::string algorithm) {
  const DType dtype = check_dtype(kForward, "input", input);
  check_same(kForward, "weight", weight, input);
  const auto size = image_size(kForward, "input", input);
  const bool channels_last = is_channels_last(input);
  const auto geometry = make_conv2d_geometry(
      kForward, size, weight_size(kForward, weight), as_pair(kForward, "stride", stride), as_sides(kForward, padding),
      as_pair(kForward, "dilation", dilation), groups, as_border(kForward, padding_mode), channels_last,
      is_channels_last(weight));
  void* const bias_pointer = bias_data(kForward, bias, input, "input", geometry.K, "filter");
  Tensor output = allocate(input, geometry.output_size(), input.dim() == 3, channels_last);
  input = dense(input, channels_last);
  weight = dense(weight, geometry.weight_channels_last);
  const Conv2dArguments arguments{
      .input = input.data_ptr(), .weight = weight.data_ptr(), .output = output.data_ptr(), .bias = bias_pointer};
  run(kForward, input, {Conv2dPass::forward, dtype, geometry, allow_tf32}, arguments, algorithm);
  return output;
}

Tensor conv2d_grad_input(
    Tensor grad_output, Tensor weight, IntList input_size, IntList stride, IntList padding, IntList dilation,
    int64_t groups, std::optional<Tensor> bias, std::string padding_mode, std::optional<MemoryFormat> memory_format,
    bool allow_tf32, std::string algorithm) {
  const DType dtype = check_dtype(kGradInput, "grad_output", grad_output);
  check_same(kGradInput, "weight", weight, grad_output, "grad_output");
  const auto size = image_size(kGradInput, "grad_output", grad_output);
  const bool channels_last = wants_channels_last(grad_output, memory_format);
  const auto filters = weight_size(kGradInput, weight);
  const auto [H, W] = as_pair(kGradInput, "input_size", input_size);
  CONVOPS_CHECK(groups > 0, kGradInput, "groups must be positive, got ", groups);
  const int64_t C = checked_mul(kGradInput, "weight channels * groups", filters[1], groups);
  const auto geometry = make_conv2d_geometry(
      kGradInput, {size[0], C, H, W}, filters, as_pair(kGradInput, "stride", stride), as_sides(kGradInput, padding),
      as_pair(kGradInput, "dilation", dilation), groups, as_border(kGradInput, padding_mode), channels_last,
      is_channels_last(weight));
  check_grad_output(kGradInput, size, geometry);
  void* const bias_pointer = bias_data(kGradInput, bias, grad_output, "grad_output", C, "input channel");
  const bool unbatched = grad_output.dim() == 3;
  const auto empty = [&](int64_t height, int64_t width) {
    check_numel(kGradInput, "grad_input", {size[0], C, height, width});
    return allocate(grad_output, {size[0], C, height, width}, unbatched, channels_last);
  };
  Tensor grad_input = empty(H, W);
  grad_output = dense(grad_output, channels_last);
  weight = dense(weight, geometry.weight_channels_last);
  Conv2dArguments arguments{
      .input = grad_input.data_ptr(),
      .weight = weight.data_ptr(),
      .output = grad_output.data_ptr(),
      .bias = bias_pointer};
  if (geometry.border() == Border::zeros) {
    run(kGradInput, grad_output, {Conv2dPass::grad_input, dtype, geometry, allow_tf32}, arguments, algorithm);
    return grad_input;
  }
  const Tensor padded = empty(geometry.h.padded(), geometry.w.padded());
  const Conv2dArguments over_padded{.input = padded.data_ptr(), .weight = arguments.weight, .output = arguments.output};
  run(kGradInput, grad_output, {Conv2dPass::grad_input, dtype, geometry.over_padded(), allow_tf32}, over_padded,
      algorithm);
  arguments.output = over_padded.input;
  run(kGradInput, grad_output, {Conv2dPass::fold, dtype, geometry, false}, arguments, "auto");
  return grad_input;
}

Tensor conv2d_grad_weight(
    Tensor grad_output, Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    int64_t groups, std::string padding_mode, std::optional<MemoryFormat> memory_format, bool allow_tf32,
    std::string algorithm) {
  const DType dtype = check_dtype(kGradWeight, "input", input);
  check_same(kGradWeight, "grad_output", grad_output, input);
  const auto size = image_size(kGradWeight, "input", input);
  const auto grad_size = image_size(kGradWeight, "grad_output", grad_output);
  const bool channels_last = is_channels_last(input);
  const auto [R, S] = as_pair(kGradWeight, "kernel_size", kernel_size);
  CONVOPS_CHECK(groups > 0, kGradWeight, "groups must be positive, got ", groups);
  const std::array<int64_t, 4> filters{grad_size[1], size[1] / groups, R, S};
  const auto geometry = make_conv2d_geometry(
      kGradWeight, size, filters, as_pair(kGradWeight, "stride", stride), as_sides(kGradWeight, padding),
      as_pair(kGradWeight, "dilation", dilation), groups, as_border(kGradWeight, padding_mode), channels_last,
      memory_format == MemoryFormat::ChannelsLast);
  check_grad_output(kGradWeight, grad_size, geometry);
  check_numel(kGradWeight, "grad_weight", filters);
  Tensor grad_weight = allocate(input, filters, false, geometry.weight_channels_last);
  input = dense(input, channels_last);
  grad_output = dense(grad_output, channels_last && grad_output.dim() == 4);
  const Conv2dArguments arguments{
      .input = input.data_ptr(), .weight = grad_weight.data_ptr(), .output = grad_output.data_ptr()};
  run(kGradWeight, input, {Conv2dPass::grad_weight, dtype, geometry, allow_tf32}, arguments, algorithm);
  return grad_weight;
}

Tensor conv2d_grad_bias(Tensor grad_output) {
  const DType dtype = check_dtype(kGradBias, "grad_output", grad_output);
  const auto [N, K, P, Q] = image_size(kGradBias, "grad_output", grad_output);
  const bool channels_last = is_channels_last(grad_output);
  Conv2dGeometry geometry{};
  geometry.N = N;
  geometry.K = K;
  geometry.groups = 1;
  geometry.h.output = P;
  geometry.w.output = Q;
  geometry.channels_last = channels_last;
  Tensor grad_bias = torch::stable::empty(std::array{K}, grad_output.scalar_type(), std::nullopt, grad_output.device());
  grad_output = dense(grad_output, channels_last);
  const Conv2dArguments arguments{.output = grad_output.data_ptr(), .bias = grad_bias.data_ptr()};
  run(kGradBias, grad_output, {Conv2dPass::grad_bias, dtype, geometry, false}, arguments, "auto");
  return grad_bias;
}

}  // namespace convops
