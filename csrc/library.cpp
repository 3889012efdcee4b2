// Every operator of torch_convops, on one page.
//
// Conventions: stride, dilation and kernel_size take one or two values (height, width); padding takes one, two or
// four (top, bottom, left, right). Tensors are 4-D, or 3-D without the batch. `algorithm` is "auto" or a name from
// torch_convops.algorithms(); it never changes what is computed. Results keep the memory format of their first tensor,
// gradients that of grad_output unless memory_format names one (conv2d_grad_weight's is contiguous unless it does).
#include "common/operators.h"

STABLE_TORCH_LIBRARY(torch_convops, m) {
  // Convolution: cross-correlation as in torch.nn.functional.conv2d, and its three gradients. padding_mode is zeros,
  // reflect, replicate, circular or symmetric. conv2d_grad_input is the transposed convolution, hence its bias: one
  // value a channel of its result.
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0, "
      "SymInt[2] dilation=1, SymInt groups=1, *, str padding_mode='zeros', bool allow_tf32=False, "
      "str algorithm='auto') -> Tensor");
  m.def(
      "conv2d_grad_input(Tensor grad_output, Tensor weight, SymInt[2] input_size, SymInt[2] stride=1, "
      "SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1, Tensor? bias=None, *, str padding_mode='zeros', "
      "MemoryFormat? memory_format=None, bool allow_tf32=False, str algorithm='auto') -> Tensor");
  m.def(
      "conv2d_grad_weight(Tensor grad_output, Tensor input, SymInt[2] kernel_size, SymInt[2] stride=1, "
      "SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1, *, str padding_mode='zeros', "
      "MemoryFormat? memory_format=None, bool allow_tf32=False, str algorithm='auto') -> Tensor");
  m.def("conv2d_grad_bias(Tensor grad_output) -> Tensor");
  // Defined in Python through those: padding by name (valid, same, same_lower, full), and the transposed convolution
  // with the arguments of torch.nn.functional.conv_transpose2d.
  m.def(
      "conv2d.padding(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, str padding='valid', "
      "SymInt[2] dilation=1, SymInt groups=1, *, str padding_mode='zeros', bool allow_tf32=False, "
      "str algorithm='auto') -> Tensor");
  m.def(
      "conv_transpose2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0, "
      "SymInt[2] output_padding=0, SymInt groups=1, SymInt[2] dilation=1, *, SymInt[]? output_size=None, "
      "bool allow_tf32=False, str algorithm='auto') -> Tensor");
  m.def(
      "conv_transpose2d.padding(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, "
      "str padding='valid', SymInt[2] output_padding=0, SymInt groups=1, SymInt[2] dilation=1, *, "
      "SymInt[]? output_size=None, bool allow_tf32=False, str algorithm='auto') -> Tensor");

  // Max-pooling. The offset of a window's maximum is r * S + s: uint8, or int32 for windows over 256 taps.
  m.def(
      "max_pool2d(Tensor input, SymInt[2] kernel_size, SymInt[2] stride=[], SymInt[2] padding=0, "
      "SymInt[2] dilation=1, bool ceil_mode=False, *, str algorithm='auto') -> Tensor");
  m.def(
      "max_pool2d_with_offsets(Tensor input, SymInt[2] kernel_size, SymInt[2] stride=[], SymInt[2] padding=0, "
      "SymInt[2] dilation=1, bool ceil_mode=False, *, str algorithm='auto') -> (Tensor, Tensor)");
  // The transposed pair: grad_input routes each window's value to its tap, gather reads it from there.
  m.def(
      "max_pool2d_grad_input(Tensor grad_output, Tensor offsets, SymInt[2] input_size, SymInt[2] kernel_size, "
      "SymInt[2] stride=[], SymInt[2] padding=0, SymInt[2] dilation=1, bool ceil_mode=False, *, "
      "MemoryFormat? memory_format=None, str algorithm='auto') -> Tensor");
  m.def(
      "max_pool2d_gather(Tensor input, Tensor offsets, SymInt[2] kernel_size, SymInt[2] stride=[], "
      "SymInt[2] padding=0, SymInt[2] dilation=1, bool ceil_mode=False, *, str algorithm='auto') -> Tensor");
  // int64 indices h * W + w into each plane, as torch returns them.
  m.def(
      "max_pool2d_indices(Tensor offsets, SymInt[2] input_size, SymInt[2] kernel_size, SymInt[2] stride=[], "
      "SymInt[2] padding=0, SymInt[2] dilation=1, bool ceil_mode=False, *, str algorithm='auto') -> Tensor");

  // The same over output_size windows that cut the plane as evenly as whole pixels allow.
  m.def("adaptive_max_pool2d(Tensor input, SymInt[2] output_size, *, str algorithm='auto') -> Tensor");
  m.def(
      "adaptive_max_pool2d_with_offsets(Tensor input, SymInt[2] output_size, *, str algorithm='auto') -> (Tensor, "
      "Tensor)");
  m.def(
      "adaptive_max_pool2d_grad_input(Tensor grad_output, Tensor offsets, SymInt[2] input_size, *, "
      "MemoryFormat? memory_format=None, str algorithm='auto') -> Tensor");
  m.def("adaptive_max_pool2d_gather(Tensor input, Tensor offsets, *, str algorithm='auto') -> Tensor");
  m.def("adaptive_max_pool2d_indices(Tensor offsets, SymInt[2] input_size, *, str algorithm='auto') -> Tensor");

  // Values back to the pixels that their int64 indices name, zeros elsewhere; of several values for one pixel the last
  // stays, or with accumulate all add up. gather reads the pixels.
  m.def(
      "max_unpool2d(Tensor input, Tensor indices, SymInt[2] output_size, *, bool accumulate=False, "
      "str algorithm='auto') -> Tensor");
  m.def("max_unpool2d_gather(Tensor input, Tensor indices, *, str algorithm='auto') -> Tensor");

  // Average-pooling and its transpose.
  m.def(
      "avg_pool2d(Tensor input, SymInt[2] kernel_size, SymInt[2] stride=[], SymInt[2] padding=0, "
      "bool ceil_mode=False, bool count_include_pad=True, SymInt? divisor_override=None, *, SymInt[2] dilation=1, "
      "str algorithm='auto') -> Tensor");
  m.def(
      "avg_pool2d_grad_input(Tensor grad_output, SymInt[2] input_size, SymInt[2] kernel_size, SymInt[2] stride=[], "
      "SymInt[2] padding=0, bool ceil_mode=False, bool count_include_pad=True, SymInt? divisor_override=None, *, "
      "SymInt[2] dilation=1, MemoryFormat? memory_format=None, str algorithm='auto') -> Tensor");
  m.def("adaptive_avg_pool2d(Tensor input, SymInt[2] output_size, *, str algorithm='auto') -> Tensor");
  m.def(
      "adaptive_avg_pool2d_grad_input(Tensor grad_output, SymInt[2] input_size, *, MemoryFormat? memory_format=None, "
      "str algorithm='auto') -> Tensor");

  // Defined in Python through those above: a window as large as the plane; the p-norm of each window; a low-pass
  // filter (R, S), or (C, R, S) of one a channel, ahead of a stride.
  m.def("global_max_pool2d(Tensor input) -> Tensor");
  m.def("global_avg_pool2d(Tensor input) -> Tensor");
  m.def(
      "lp_pool2d(Tensor input, float norm_type, SymInt[2] kernel_size, SymInt[2] stride=[], bool ceil_mode=False, *, "
      "SymInt[2] padding=0, SymInt[2] dilation=1, str algorithm='auto') -> Tensor");
  m.def(
      "blur_pool2d(Tensor input, Tensor filter, SymInt[2] stride=2, *, str padding_mode='reflect', "
      "str algorithm='auto') -> Tensor");
}

// One implementation serves every device: it checks, allocates and picks from the device's list of algorithms.
static void register_kernels(torch::stable::detail::StableLibrary& m) {
  using namespace convops;
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_grad_input", TORCH_BOX(&conv2d_grad_input));
  m.impl("conv2d_grad_weight", TORCH_BOX(&conv2d_grad_weight));
  m.impl("conv2d_grad_bias", TORCH_BOX(&conv2d_grad_bias));
  m.impl("max_pool2d", TORCH_BOX(&max_pool2d));
  m.impl("max_pool2d_with_offsets", TORCH_BOX(&max_pool2d_with_offsets));
  m.impl("max_pool2d_grad_input", TORCH_BOX(&max_pool2d_grad_input));
  m.impl("max_pool2d_gather", TORCH_BOX(&max_pool2d_gather));
  m.impl("max_pool2d_indices", TORCH_BOX(&max_pool2d_indices));
  m.impl("adaptive_max_pool2d", TORCH_BOX(&adaptive_max_pool2d));
  m.impl("adaptive_max_pool2d_with_offsets", TORCH_BOX(&adaptive_max_pool2d_with_offsets));
  m.impl("adaptive_max_pool2d_grad_input", TORCH_BOX(&adaptive_max_pool2d_grad_input));
  m.impl("adaptive_max_pool2d_gather", TORCH_BOX(&adaptive_max_pool2d_gather));
  m.impl("adaptive_max_pool2d_indices", TORCH_BOX(&adaptive_max_pool2d_indices));
  m.impl("max_unpool2d", TORCH_BOX(&max_unpool2d));
  m.impl("max_unpool2d_gather", TORCH_BOX(&max_unpool2d_gather));
  m.impl("avg_pool2d", TORCH_BOX(&avg_pool2d));
  m.impl("avg_pool2d_grad_input", TORCH_BOX(&avg_pool2d_grad_input));
  m.impl("adaptive_avg_pool2d", TORCH_BOX(&adaptive_avg_pool2d));
  m.impl("adaptive_avg_pool2d_grad_input", TORCH_BOX(&adaptive_avg_pool2d_grad_input));
}

STABLE_TORCH_LIBRARY_IMPL(torch_convops, CPU, m) {
  register_kernels(m);
}

#ifdef CONVOPS_CUDA
STABLE_TORCH_LIBRARY_IMPL(torch_convops, CUDA, m) {
  register_kernels(m);
}
#endif
