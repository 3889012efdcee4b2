// The functions behind the schemas of library.cpp, for every device.
#pragma once

#include "stable.h"

namespace convops {

Tensor conv2d(
    Tensor input, Tensor weight, std::optional<Tensor> bias, IntList stride, IntList padding, IntList dilation,
    int64_t groups, std::string padding_mode, bool allow_tf32, std::string algorithm);
Tensor conv2d_grad_input(
    Tensor grad_output, Tensor weight, IntList input_size, IntList stride, IntList padding, IntList dilation,
    int64_t groups, std::optional<Tensor> bias, std::string padding_mode, std::optional<MemoryFormat> memory_format,
    bool allow_tf32, std::string algorithm);
Tensor conv2d_grad_weight(
    Tensor grad_output, Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    int64_t groups, std::string padding_mode, std::optional<MemoryFormat> memory_format, bool allow_tf32,
    std::string algorithm);
Tensor conv2d_grad_bias(Tensor grad_output);

Tensor max_pool2d(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation, bool ceil_mode,
    std::string algorithm);
std::tuple<Tensor, Tensor> max_pool2d_with_offsets(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, IntList dilation, bool ceil_mode,
    std::string algorithm);
Tensor max_pool2d_grad_input(
    Tensor grad_output, Tensor offsets, IntList input_size, IntList kernel_size, IntList stride, IntList padding,
    IntList dilation, bool ceil_mode, std::optional<MemoryFormat> memory_format, std::string algorithm);
Tensor max_pool2d_gather(
    Tensor input, Tensor offsets, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    bool ceil_mode, std::string algorithm);
Tensor max_pool2d_indices(
    Tensor offsets, IntList input_size, IntList kernel_size, IntList stride, IntList padding, IntList dilation,
    bool ceil_mode, std::string algorithm);

Tensor adaptive_max_pool2d(Tensor input, IntList output_size, std::string algorithm);
std::tuple<Tensor, Tensor> adaptive_max_pool2d_with_offsets(Tensor input, IntList output_size, std::string algorithm);
Tensor adaptive_max_pool2d_grad_input(
    Tensor grad_output, Tensor offsets, IntList input_size, std::optional<MemoryFormat> memory_format,
    std::string algorithm);
Tensor adaptive_max_pool2d_gather(Tensor input, Tensor offsets, std::string algorithm);
Tensor adaptive_max_pool2d_indices(Tensor offsets, IntList input_size, std::string algorithm);

Tensor max_unpool2d(Tensor input, Tensor indices, IntList output_size, bool accumulate, std::string algorithm);
Tensor max_unpool2d_gather(Tensor input, Tensor indices, std::string algorithm);

Tensor avg_pool2d(
    Tensor input, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode, bool count_include_pad,
    std::optional<int64_t> divisor_override, IntList dilation, std::string algorithm);
Tensor avg_pool2d_grad_input(
    Tensor grad_output, IntList input_size, IntList kernel_size, IntList stride, IntList padding, bool ceil_mode,
    bool count_include_pad, std::optional<int64_t> divisor_override, IntList dilation,
    std::optional<MemoryFormat> memory_format, std::string algorithm);
Tensor adaptive_avg_pool2d(Tensor input, IntList output_size, std::string algorithm);
Tensor adaptive_avg_pool2d_grad_input(
    Tensor grad_output, IntList input_size, std::optional<MemoryFormat> memory_format, std::string algorithm);

}  // namespace convops
