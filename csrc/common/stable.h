// The operators' view of torch: tensors, memory formats and allocation on the LibTorch Stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "algorithm.h"
#include "cpu.h"

namespace convops {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using IntList = std::vector<int64_t>;

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return "an unsupported dtype";
  }
}

// An undefined tensor is what None becomes.
inline void check_defined(const char* op, const char* argument, const Tensor& tensor) {
  CONVOPS_CHECK(tensor.defined(), op, argument, " must be a Tensor, got None");
}

inline DType check_dtype(const char* op, const char* argument, const Tensor& tensor, bool integers = false) {
  check_defined(op, argument, tensor);
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::float32;
    case ScalarType::Double: return DType::float64;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Half: return DType::float16;
    default: break;
  }
  if (integers) {
    switch (tensor.scalar_type()) {
      case ScalarType::Byte: return DType::uint8;
      case ScalarType::Char: return DType::int8;
      case ScalarType::Short: return DType::int16;
      case ScalarType::Int: return DType::int32;
      case ScalarType::Long: return DType::int64;
      default: break;
    }
  }
  fail(
      op, argument, " must be float32, float64, bfloat16",
      integers ? ", float16 or an integer of 8 to 64 bits" : " or float16", ", got ", dtype_name(tensor.scalar_type()));
}

inline void check_same_device(
    const char* op, const char* argument, const Tensor& tensor, const Tensor& input, const char* input_name) {
  CONVOPS_CHECK(
      tensor.is_cuda() == input.is_cuda() && tensor.get_device_index() == input.get_device_index(), op, argument,
      " must be on the device of ", input_name);
}

inline void check_same(
    const char* op, const char* argument, const Tensor& tensor, const Tensor& input, const char* input_name = "input") {
  check_defined(op, argument, tensor);
  CONVOPS_CHECK(
      tensor.scalar_type() == input.scalar_type(), op, argument, " must have the dtype of ", input_name, " (",
      dtype_name(input.scalar_type()), "), got ", dtype_name(tensor.scalar_type()));
  check_same_device(op, argument, tensor, input, input_name);
}

// An int list of one or two values as a pair.
inline std::array<int64_t, 2> as_pair(const char* op, const char* argument, const IntList& values) {
  CONVOPS_CHECK(
      values.size() == 1 || values.size() == 2, op, argument, " must have 1 or 2 values, got ", as_tuple(values));
  return {values.front(), values.back()};
}

// Padding of one, two (height, width) or four (top, bottom, left, right) values as four sides.
inline std::array<int64_t, 4> as_sides(const char* op, const IntList& padding) {
  if (padding.size() == 4) return {padding[0], padding[1], padding[2], padding[3]};
  CONVOPS_CHECK(
      padding.size() == 1 || padding.size() == 2, op, "padding must have 1, 2 or 4 values, got ", as_tuple(padding));
  return {padding.front(), padding.front(), padding.back(), padding.back()};
}

// (N, C, H, W) of a batched tensor, (1, C, H, W) of an unbatched one.
inline std::array<int64_t, 4> image_size(const char* op, const char* argument, const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  CONVOPS_CHECK(
      sizes.size() == 3 || sizes.size() == 4, op, argument, " must be 4-D (batched) or 3-D (unbatched), got ",
      sizes.size(), "-D");
  if (sizes.size() == 3) return {1, sizes[0], sizes[1], sizes[2]};
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

// Whether strides order a 4-D tensor as N, H, W, C (the rule of torch's suggest_memory_format).
inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (const int dim : {1, 3, 2, 0}) {
    if (sizes[dim] == 0 || strides[dim] < least) return false;
    // With N of 1 and C of 1, or H and W of 1, both orders fit: such a tensor counts as contiguous.
    if (dim == 0 && least == strides[1]) return false;
    least = sizes[dim] > 1 ? strides[dim] * sizes[dim] : strides[dim];
  }
  return true;
}

// The format asked for, else the tensor's own. Unbatched tensors have but one.
inline bool wants_channels_last(const Tensor& tensor, const std::optional<MemoryFormat>& wanted) {
  if (!wanted || *wanted == MemoryFormat::Preserve) return is_channels_last(tensor);
  return tensor.dim() == 4 && *wanted == MemoryFormat::ChannelsLast;
}

// Strides of a dense tensor of that many sizes, all but channels_last in order.
inline std::array<int64_t, 4> dense_strides(const int64_t* sizes, size_t rank, bool channels_last) {
  std::array<int64_t, 4> strides{};
  int64_t step = 1;
  for (size_t i = 0; i < rank; ++i) {
    const size_t dim = channels_last ? std::array{1, 3, 2, 0}[i] : rank - 1 - i;
    strides[dim] = step;
    // A size of 0 counts as 1 in contiguous strides only: torch's rules.
    step *= channels_last || sizes[dim] > 0 ? sizes[dim] : 1;
  }
  return strides;
}

// The tensor itself where it is dense in that format, else a dense copy. Asking torch costs a small call more than
// looking.
inline Tensor dense(const Tensor& tensor, bool channels_last) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  if (sizes.size() <= 4) {
    const auto wanted = dense_strides(sizes.data(), sizes.size(), channels_last);
    bool is_dense = true;
    for (size_t dim = 0; dim < sizes.size(); ++dim) is_dense &= sizes[dim] == 1 || strides[dim] == wanted[dim];
    if (is_dense) return tensor;
  }
  return torch::stable::contiguous(tensor, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// Uninitialised; 3-D if unbatched.
inline Tensor allocate(
    const Tensor& like, const std::array<int64_t, 4>& size, bool unbatched, bool channels_last,
    std::optional<ScalarType> dtype = std::nullopt) {
  const int64_t* first = size.data() + (unbatched ? 1 : 0);
  const size_t rank = unbatched ? 3 : 4;
  const auto strides = dense_strides(first, rank, channels_last);
  const auto device = like.device();
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(rank), first, strides.data(), static_cast<int32_t>(dtype.value_or(like.scalar_type())),
      static_cast<int32_t>(device.type()), device.index(), &handle));
  Tensor tensor(handle);
  if (tensor.is_cpu())
    advise_huge_pages(tensor.data_ptr(), tensor.numel() * static_cast<int64_t>(tensor.element_size()));
  return tensor;
}

// Runs the chosen algorithm on the tensor's device and current stream, with the workspace it asks for.
// launch.cpp holds the one place that knows how.
struct Launch {
  explicit Launch(const Tensor& on);
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  template <typename Problem, typename Arguments>
  void operator()(const Algorithm<Problem, Arguments>& algorithm, const Problem& problem, Arguments arguments) {
    const int64_t bytes = algorithm.workspace != nullptr ? algorithm.workspace(problem) : 0;
    std::optional<Tensor> workspace;
    if (bytes > 0) {
      workspace = torch::stable::empty(std::array{bytes}, ScalarType::Byte, std::nullopt, on.device());
      arguments.workspace = workspace->mutable_data_ptr();
    }
    arguments.stream = stream;
    algorithm.run(problem, arguments);
  }

  const Tensor& on;
  void* stream = nullptr;
  void* device_guard = nullptr;
};

}  // namespace convops
