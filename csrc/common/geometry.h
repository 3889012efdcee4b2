// Sizes and index rules of every operator, written once for CPU and CUDA and free of torch.
//
// Names: N C H W input, K out-channels, R S kernel, P Q output; h/w suffixes for rows/columns.
// All arithmetic on user values is overflow-checked int64: a bad argument is an error, never a wrapped number.
#pragma once

#include <array>
#include <cstdint>
#include <iterator>
#include <string_view>

#include "checks.h"

#ifdef __CUDACC__
#define CONVOPS_HOST_DEVICE __host__ __device__
#else
#define CONVOPS_HOST_DEVICE
#endif

namespace convops {

inline int64_t checked_add(const char* op, const char* what, int64_t a, int64_t b) {
  int64_t sum = 0;
  CONVOPS_CHECK(!__builtin_add_overflow(a, b, &sum), op, what, " overflows a 64-bit integer");
  return sum;
}

inline int64_t checked_mul(const char* op, const char* what, int64_t a, int64_t b) {
  int64_t product = 0;
  CONVOPS_CHECK(!__builtin_mul_overflow(a, b, &product), op, what, " overflows a 64-bit integer");
  return product;
}

// floor(a / b) and the matching remainder in [0, b), for b > 0 and any a.
CONVOPS_HOST_DEVICE inline int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0 ? 1 : 0);
}
CONVOPS_HOST_DEVICE inline int64_t floor_mod(int64_t a, int64_t b) {
  return a - floor_div(a, b) * b;
}
CONVOPS_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) {
  return -floor_div(-a, b);
}

// What a position outside the image reads. For an axis a b c d, two positions on each side:
//   zeros 0 0|a b c d|0 0    replicate a a|a b c d|d d    circular c d|a b c d|a b
//   reflect c b|a b c d|c b  symmetric b a|a b c d|d c
enum class Border : int32_t { zeros, reflect, replicate, circular, symmetric };
constexpr const char* kBorderNames[] = {"zeros", "reflect", "replicate", "circular", "symmetric"};

// The pixel of an axis of that many that position i reads, -1 for none. No position is further outside than
// check_border lets the padding reach, so that one turn or mirror brings it back.
template <typename index_t>
CONVOPS_HOST_DEVICE inline index_t border_pixel(Border border, index_t i, index_t input) {
  if (i >= 0 && i < input) return i;
  switch (border) {
    case Border::reflect: return i < 0 ? -i : 2 * (input - 1) - i;
    case Border::replicate: return i < 0 ? 0 : input - 1;
    case Border::circular: return i < 0 ? i + input : i - input;
    case Border::symmetric: return i < 0 ? -1 - i : 2 * input - 1 - i;
    default: return -1;
  }
}

inline Border as_border(const char* op, std::string_view name) {
  std::string known;
  for (size_t i = 0; i < std::size(kBorderNames); ++i) {
    if (name == kBorderNames[i]) return static_cast<Border>(i);
    known.append(i == 0 ? "'" : ", '").append(kBorderNames[i]).append("'");
  }
  fail(op, "padding_mode must be one of ", known, "; got '", name, "'");
}

// An adaptive pooling cuts n pixels into m windows, [first, last) for window o: as even as whole pixels allow, and
// overlapping where m does not divide n. The windows that pixel i is in are [first, last) with n and m swapped.
template <typename index_t>
CONVOPS_HOST_DEVICE inline index_t adaptive_first(index_t o, index_t n, index_t m) {
  return o * n / m;
}
template <typename index_t>
CONVOPS_HOST_DEVICE inline index_t adaptive_last(index_t o, index_t n, index_t m) {
  return ((o + 1) * n + m - 1) / m;
}

// One axis of a sliding window: output o, tap k reads input o * stride + k * dilation - pad_lower. The windows of an
// adaptive axis start where the rule above says and have up to `kernel` taps.
struct Axis {
  int64_t input, kernel, output;
  int64_t stride, dilation, pad_lower, pad_upper;
  Border border = Border::zeros;
  bool adaptive = false;

  CONVOPS_HOST_DEVICE int64_t extent() const { return dilation * (kernel - 1) + 1; }
  CONVOPS_HOST_DEVICE bool covers_input() const {
    return kernel == input && output == 1 && pad_lower == 0 && pad_upper == 0 && (dilation == 1 || kernel == 1);
  }
  CONVOPS_HOST_DEVICE int64_t start(int64_t o) const {
    return adaptive ? adaptive_first(o, input, output) : o * stride - pad_lower;
  }
  // The taps of output o that fall inside the input: [first_tap, last_tap).
  CONVOPS_HOST_DEVICE int64_t first_tap(int64_t o) const {
    const int64_t s = start(o);
    return s >= 0 ? 0 : ceil_div(-s, dilation);
  }
  CONVOPS_HOST_DEVICE int64_t last_tap(int64_t o) const {
    if (adaptive) return adaptive_last(o, input, output) - start(o);
    const int64_t n = ceil_div(input - start(o), dilation);
    return n < kernel ? (n < 0 ? 0 : n) : kernel;
  }
  // The same windows without taps that no output reads inside the input (but perhaps one on either side), and the
  // number of the first that is left: what a window far larger than the image shrinks to.
  int64_t first_used_tap() const {
    const int64_t last_start = start(output - 1);
    return last_start >= 0 ? 0 : -last_start / dilation;
  }
  Axis used() const {
    if (adaptive) return *this;
    const int64_t first = first_used_tap(), end = (input - 1 + pad_lower) / dilation + 1;
    const int64_t taps = (end < kernel ? end : kernel) - first;
    return {input, taps > 1 ? taps : 1, output, stride, dilation, pad_lower - first * dilation, pad_upper, border};
  }
  CONVOPS_HOST_DEVICE int64_t padded() const { return pad_lower + input + pad_upper; }
  CONVOPS_HOST_DEVICE int64_t pixel(int64_t position) const { return border_pixel(border, position, input); }
  // Calls visit(position), in order, for the positions in and around the image that read pixel i: border_pixel
  // backwards. The call stands in one place only, because kernels nest two of these.
  template <typename Visit>
  CONVOPS_HOST_DEVICE void for_each_position(int64_t i, const Visit& visit) const {
    const int64_t end = input + pad_upper;
    int64_t before = i, behind = end;  // the first on each side, if the padding reaches it
    switch (border) {
      case Border::reflect: before = -i, behind = 2 * (input - 1) - i; break;
      case Border::replicate: before = i == 0 ? -pad_lower : i, behind = i == input - 1 ? input : end; break;
      case Border::circular: before = i - input, behind = i + input; break;
      case Border::symmetric: before = -1 - i, behind = 2 * input - 1 - i; break;
      default: break;
    }
    if (before >= 0 || before < -pad_lower) before = i;
    if (behind < input) behind = end;
    const bool repeats = border == Border::replicate;
    for (int64_t position = before; position < end;) {
      visit(position);
      if (position == i) {
        position = behind;
      } else {
        position = repeats ? position + 1 : position < i ? i : end;
      }
    }
  }
  // With a stride of 1 the outputs that hold a pixel are a window over the outputs, tap k backwards.
  bool has_transposed() const { return !adaptive && stride == 1; }
  Axis transposed() const {
    const int64_t lower = extent() - 1 - pad_lower;
    return {output, kernel, input, 1, dilation, lower, input - 1 + extent() - lower - output};
  }
  // The same windows over an image that the padding is part of.
  Axis over_padded() const { return {padded(), kernel, output, stride, dilation, 0, 0}; }
};

// A mirror that leaves out the edge has one pixel less to show than the image, the others as many.
inline void check_border(const char* op, const char* name, const Axis& axis) {
  if (axis.border == Border::zeros || axis.border == Border::replicate) return;
  const int64_t most = axis.border == Border::reflect ? axis.input - 1 : axis.input;
  CONVOPS_CHECK(
      axis.pad_lower <= most && axis.pad_upper <= most, op, "padding must be at most ", most, " for padding_mode '",
      kBorderNames[static_cast<int>(axis.border)], "' and an input ", name, " of ", axis.input, ", got ",
      as_tuple(std::array{axis.pad_lower, axis.pad_upper}));
}

// output = floor((input + pads - extent) / stride) + 1, or with ceil_mode the ceiling, without a last window that
// would start beyond the input and its lower pad (torch's rule).
inline Axis make_axis(
    const char* op, const char* name, int64_t input, int64_t kernel, int64_t stride, int64_t dilation,
    int64_t pad_lower, int64_t pad_upper, bool ceil_mode = false) {
  CONVOPS_CHECK(input > 0, op, "input ", name, " must be positive, got ", input);
  CONVOPS_CHECK(kernel > 0, op, "kernel ", name, " must be positive, got ", kernel);
  CONVOPS_CHECK(stride > 0, op, "stride must be positive, got ", stride, " for the ", name);
  CONVOPS_CHECK(dilation > 0, op, "dilation must be positive, got ", dilation, " for the ", name);
  CONVOPS_CHECK(
      pad_lower >= 0 && pad_upper >= 0, op, "padding must not be negative, got ",
      as_tuple(std::array{pad_lower, pad_upper}), " for the ", name);
  const int64_t extent = checked_add(
      op, "dilation * (kernel - 1) + 1", checked_mul(op, "dilation * (kernel - 1)", dilation, kernel - 1), 1);
  const int64_t padded =
      checked_add(op, "input + padding", checked_add(op, "input + padding", input, pad_lower), pad_upper);
  CONVOPS_CHECK(
      extent <= padded, op, "kernel ", name, " ", kernel, " with dilation ", dilation, " spans ", extent,
      " pixels, which is larger than the padded input's ", padded);
  const int64_t room = padded - extent;
  int64_t output = room / stride + 1;
  if (ceil_mode && room % stride != 0) {
    int64_t last_start = 0;
    // On overflow the extra window starts far beyond the input, so it is dropped like any other that does.
    if (!__builtin_mul_overflow(output, stride, &last_start) && last_start < input + pad_lower) ++output;
  }
  return {input, kernel, output, stride, dilation, pad_lower, pad_upper};
}

// Where m divides n the windows are those of a pooling with kernel and stride n / m.
inline Axis make_adaptive_axis(const char* op, const char* name, int64_t input, int64_t output) {
  CONVOPS_CHECK(input > 0, op, "input ", name, " must be positive, got ", input);
  CONVOPS_CHECK(output >= 0, op, "output_size must not be negative, got ", output, " for the ", name);
  checked_mul(op, "input * output", input, output);
  if (output == 0) return {input, input, 0, input, 1, 0, 0};
  if (const int64_t size = input / output; input % output == 0) return {input, size, output, size, 1, 0, 0};
  return {input, input / output + 2 < input ? input / output + 2 : input, output, 1, 1, 0, 0, Border::zeros, true};
}

inline void check_numel(const char* op, const char* what, const std::array<int64_t, 4>& sizes) {
  // 16 bytes is the widest element of any dtype.
  int64_t bytes = 16;
  for (const int64_t size : sizes) {
    CONVOPS_CHECK(
        !__builtin_mul_overflow(bytes, size, &bytes), op, what, " of size ", as_tuple(sizes),
        " is too large to allocate");
  }
}

struct Conv2dGeometry {
  int64_t N, C, K, groups;
  Axis h, w;
  bool channels_last;         // memory format of input, output and their gradients
  bool weight_channels_last;  // memory format of weight and its gradient

  std::array<int64_t, 4> output_size() const { return {N, K, h.output, w.output}; }
  CONVOPS_HOST_DEVICE int64_t channels_per_group() const { return C / groups; }
  CONVOPS_HOST_DEVICE int64_t filters_per_group() const { return K / groups; }
  CONVOPS_HOST_DEVICE int64_t weight_numel() const { return K * (C / groups) * h.kernel * w.kernel; }
  CONVOPS_HOST_DEVICE int64_t input_numel() const { return N * C * h.input * w.input; }
  CONVOPS_HOST_DEVICE int64_t output_numel() const { return N * K * h.output * w.output; }

  CONVOPS_HOST_DEVICE Border border() const { return h.border; }
  // The same convolution, without padding, of an image that its padding is part of.
  Conv2dGeometry over_padded() const {
    return {N, C, K, groups, h.over_padded(), w.over_padded(), channels_last, weight_channels_last};
  }
};

// input_size is (N, C, H, W), weight_size (K, C / groups, R, S), padding (top, bottom, left, right).
inline Conv2dGeometry make_conv2d_geometry(
    const char* op, const std::array<int64_t, 4>& input_size, const std::array<int64_t, 4>& weight_size,
    const std::array<int64_t, 2>& stride, const std::array<int64_t, 4>& padding, const std::array<int64_t, 2>& dilation,
    int64_t groups, Border border, bool channels_last, bool weight_channels_last) {
  const auto [N, C, H, W] = input_size;
  const auto [K, C_per_group, R, S] = weight_size;
  CONVOPS_CHECK(groups > 0, op, "groups must be positive, got ", groups);
  CONVOPS_CHECK(K > 0, op, "weight must have at least one filter, got weight of size ", as_tuple(weight_size));
  CONVOPS_CHECK(
      C % groups == 0 && C / groups == C_per_group, op,
      "input channels must equal weight channels * groups, got input of size ", as_tuple(input_size),
      ", weight of size ", as_tuple(weight_size), " and groups ", groups);
  CONVOPS_CHECK(
      K % groups == 0, op, "groups must divide the number of filters, got ", K, " filters and groups ", groups);
  Conv2dGeometry geometry{
      N,
      C,
      K,
      groups,
      make_axis(op, "height", H, R, stride[0], dilation[0], padding[0], padding[1]),
      make_axis(op, "width", W, S, stride[1], dilation[1], padding[2], padding[3]),
      channels_last,
      weight_channels_last};
  geometry.h.border = geometry.w.border = border;
  check_border(op, "height", geometry.h);
  check_border(op, "width", geometry.w);
  check_numel(op, "output", geometry.output_size());
  return geometry;
}

struct Pool2dGeometry {
  int64_t N, C;
  Axis h, w;
  bool channels_last;

  CONVOPS_HOST_DEVICE int64_t taps() const { return h.kernel * w.kernel; }
  // One window that covers every pixel of the plane and nothing else.
  CONVOPS_HOST_DEVICE bool is_global() const { return h.covers_input() && w.covers_input(); }
  std::array<int64_t, 4> output_size() const { return {N, C, h.output, w.output}; }
  CONVOPS_HOST_DEVICE int64_t input_numel() const { return N * C * h.input * w.input; }
  CONVOPS_HOST_DEVICE int64_t output_numel() const { return N * C * h.output * w.output; }
  // Where a value is in a dense input, or output, of the memory format.
  int64_t input_at(int64_t n, int64_t c, int64_t row, int64_t column) const {
    return channels_last ? ((n * h.input + row) * w.input + column) * C + c
                         : ((n * C + c) * h.input + row) * w.input + column;
  }
  int64_t output_at(int64_t n, int64_t c, int64_t p, int64_t q) const {
    return channels_last ? ((n * h.output + p) * w.output + q) * C + c : ((n * C + c) * h.output + p) * w.output + q;
  }
  bool has_transposed() const { return h.has_transposed() && w.has_transposed(); }
  Pool2dGeometry transposed() const { return {N, C, h.transposed(), w.transposed(), channels_last}; }
};

// The saved window offset r * S + s of a max-pool takes one byte while the window has at most this many taps.
constexpr int64_t kMaxByteTaps = 256;

// Offsets are 32-bit where they are no bytes.
inline void check_taps(const char* op, const std::array<int64_t, 2>& kernel_size) {
  int64_t taps = 0;
  CONVOPS_CHECK(
      !__builtin_mul_overflow(kernel_size[0], kernel_size[1], &taps) && taps <= INT32_MAX, op,
      "kernel_size must have at most 2**31 - 1 taps, got ", as_tuple(kernel_size));
}

inline Pool2dGeometry make_pool2d_geometry(
    const char* op, const std::array<int64_t, 4>& input_size, const std::array<int64_t, 2>& kernel_size,
    const std::array<int64_t, 2>& stride, const std::array<int64_t, 4>& padding, const std::array<int64_t, 2>& dilation,
    bool ceil_mode, bool channels_last) {
  const auto [N, C, H, W] = input_size;
  CONVOPS_CHECK(C > 0, op, "input must have at least one channel, got input of size ", as_tuple(input_size));
  Pool2dGeometry geometry{
      N, C, make_axis(op, "height", H, kernel_size[0], stride[0], dilation[0], padding[0], padding[1], ceil_mode),
      make_axis(op, "width", W, kernel_size[1], stride[1], dilation[1], padding[2], padding[3], ceil_mode),
      channels_last};
  for (const Axis* axis : {&geometry.h, &geometry.w}) {
    // Without dilation it also keeps every window on at least one pixel of the input.
    CONVOPS_CHECK(
        axis->pad_lower <= axis->extent() / 2 && axis->pad_upper <= axis->extent() / 2, op,
        "padding must be at most half of the window's extent, got padding ",
        as_tuple(std::array{axis->pad_lower, axis->pad_upper}), " for an extent of ", axis->extent());
  }
  check_taps(op, kernel_size);
  check_numel(op, "output", geometry.output_size());
  return geometry;
}

inline Pool2dGeometry make_adaptive_pool2d_geometry(
    const char* op, const std::array<int64_t, 4>& input_size, const std::array<int64_t, 2>& output_size,
    bool channels_last) {
  const auto [N, C, H, W] = input_size;
  CONVOPS_CHECK(C > 0, op, "input must have at least one channel, got input of size ", as_tuple(input_size));
  const Pool2dGeometry geometry{
      N, C, make_adaptive_axis(op, "height", H, output_size[0]), make_adaptive_axis(op, "width", W, output_size[1]),
      channels_last};
  check_taps(op, {geometry.h.kernel, geometry.w.kernel});
  check_numel(op, "output", geometry.output_size());
  return geometry;
}

// Planes of `pooled` values, each of which has the index of a pixel in a plane of `pixels`.
struct MaxUnpool2dGeometry {
  int64_t N, C, pooled, pixels;
  bool channels_last;

  CONVOPS_HOST_DEVICE int64_t pooled_numel() const { return N * C * pooled; }
  CONVOPS_HOST_DEVICE int64_t numel() const { return N * C * pixels; }
};

// What an average-pool divides a window's sum by.
struct AvgPool2dDivisor {
  bool count_include_pad;
  int64_t override_;  // 0: none

  // Pixels counted along one axis by the window at output o; the ceil_mode overhang never counts.
  CONVOPS_HOST_DEVICE int64_t counted(const Axis& axis, int64_t o) const {
    if (!count_include_pad) return axis.last_tap(o) - axis.first_tap(o);
    const int64_t room = ceil_div(axis.input + axis.pad_upper - axis.start(o), axis.dilation);
    return room < axis.kernel ? room : axis.kernel;
  }
  CONVOPS_HOST_DEVICE int64_t at(const Pool2dGeometry& geometry, int64_t p, int64_t q) const {
    return override_ != 0 ? override_ : counted(geometry.h, p) * counted(geometry.w, q);
  }
};

}  // namespace convops
