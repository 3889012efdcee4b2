// max_unpool2d, which puts pooled values back where a max-pool found them, and the gather that reads them from there,
// on every device.
#include "../common/operators.h"
#include "../common/pool2d.h"

namespace convops {
namespace {

// One index for each value of `pooled`, which is input or the gradient of it; returns their size.
std::array<int64_t, 4> check_indices(const char* op, const Tensor& indices, const Tensor& on, const char* on_name) {
  check_defined(op, "indices", indices);
  CONVOPS_CHECK(
      indices.scalar_type() == ScalarType::Long, op, "indices must be int64, got ", dtype_name(indices.scalar_type()));
  check_same_device(op, "indices", indices, on, on_name);
  const auto size = image_size(op, on_name, on), indices_size = image_size(op, "indices", indices);
  CONVOPS_CHECK(
      on.dim() == indices.dim() && size[0] == indices_size[0] && size[1] == indices_size[1], op,
      "indices must have the batch and channels of ", on_name, ", ", as_tuple(on.sizes()), ", got ",
      as_tuple(indices.sizes()));
  CONVOPS_CHECK(size[1] > 0, op, on_name, " must have at least one channel, got size ", as_tuple(on.sizes()));
  return indices_size;
}

// Of (N, C, pooled plane) and (N, C, image plane) the pass reads the one that input is and returns the other.
Tensor run(
    const char* op, MaxUnpool2dPass pass, DType dtype, Tensor input, Tensor indices,
    const std::array<int64_t, 4>& pooled, const std::array<int64_t, 4>& image, const std::string& algorithm) {
  const bool gathers = pass == MaxUnpool2dPass::gather, channels_last = is_channels_last(input);
  Tensor output = allocate(input, gathers ? pooled : image, input.dim() == 3, channels_last);
  input = dense(input, channels_last);
  indices = dense(indices, channels_last);
  const MaxUnpool2dArguments arguments{
      .pooled = (gathers ? output : input).data_ptr(),
      .image = (gathers ? input : output).data_ptr(),
      .indices = static_cast<const int64_t*>(indices.data_ptr())};
  const MaxUnpool2dGeometry geometry{pooled[0], pooled[1], pooled[2] * pooled[3], image[2] * image[3], channels_last};
  const MaxUnpool2dProblem problem{pass, dtype, geometry};
  const auto& chosen = choose_algorithm(op, CONVOPS_ALGORITHMS_ON(max_unpool2d, input.is_cuda()), problem, algorithm);
  if (geometry.N > 0) Launch{input}(chosen, problem, arguments);
  return output;
}

}  // namespace

Tensor max_unpool2d(Tensor input, Tensor indices, IntList output_size, bool accumulate, std::string algorithm) {
  constexpr auto op = "max_unpool2d";
  const DType dtype = check_dtype(op, "input", input, /*integers=*/true);
  const auto pooled = check_indices(op, indices, input, "input");
  CONVOPS_CHECK(
      pooled == image_size(op, "input", input), op, "indices must be of the size of input, ", as_tuple(input.sizes()),
      ", got ", as_tuple(indices.sizes()));
  const auto [H, W] = as_pair(op, "output_size", output_size);
  CONVOPS_CHECK(H > 0 && W > 0, op, "output_size must be positive, got ", as_tuple(std::array{H, W}));
  const std::array<int64_t, 4> size{pooled[0], pooled[1], H, W};
  check_numel(op, "output", size);
  const auto pass = accumulate ? MaxUnpool2dPass::scatter_add : MaxUnpool2dPass::scatter;
  return run(op, pass, dtype, input, indices, pooled, size, algorithm);
}

Tensor max_unpool2d_gather(Tensor input, Tensor indices, std::string algorithm) {
  constexpr auto op = "max_unpool2d_gather";
  const DType dtype = check_dtype(op, "input", input);
  const auto pooled = check_indices(op, indices, input, "input");
  return run(op, MaxUnpool2dPass::gather, dtype, input, indices, pooled, image_size(op, "input", input), algorithm);
}

}  // namespace convops
