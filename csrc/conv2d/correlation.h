// Forward and grad_input as one thing: a correlation that reads a source image and writes a target image.
//
// Along one axis, the targets i * target_step + phase of a phase read the sources i * source_step + offset of that
// phase's taps. forward has one phase (target_step 1) whose taps lie dilation apart and moves by the stride.
// grad_input is its transpose: the pixel h of the input was read by output p through tap r where
// p * stride + r * dilation - pad = h, so the phase h mod stride fixes which taps r take part, and within a phase one
// step in h / stride is one step in p. No zero is ever stuffed between pixels or multiplied. Its image has
// no border but zeros: what other borders read is added up by fold.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/algorithm.h"

namespace convops {

struct AxisTap {
  int64_t tap;     // index into the kernel
  int64_t offset;  // source index minus i * source_step
  int64_t order;   // position among all taps of all phases: how packed weights are laid out
};

struct CorrelationAxis {
  int64_t kernel, source, target, source_step, target_step;
  std::vector<std::vector<AxisTap>> phases;
  Border border = Border::zeros;  // what a position outside the source reads
  bool by_remainder = true;       // how columns are packed (packing.h)

  // The pixel of the source that a position reads, or -1.
  int64_t pixel(int64_t position) const { return border_pixel(border, position, source); }

  // Number of base positions i that phase 0, the longest, has.
  int64_t positions() const { return ceil_div(target, target_step); }

  // Whether no target at base positions [begin, end) reads outside the source.
  bool inside(int64_t begin, int64_t end) const {
    for (const auto& phase : phases) {
      for (const AxisTap& tap : phase) {
        if (begin * source_step + tap.offset < 0 || (end - 1) * source_step + tap.offset >= source) return false;
      }
    }
    return true;
  }
  bool inside() const { return inside(0, positions()); }

  // About how many sources `count` neighbouring base positions read.
  int64_t sources(int64_t count) const {
    int64_t first = INT64_MAX, last = INT64_MIN, taps = 0;
    for (const auto& phase : phases) {
      for (const AxisTap& tap : phase) {
        first = std::min(first, tap.offset);
        last = std::max(last, tap.offset);
        ++taps;
      }
    }
    return taps == 0 ? 0 : std::min({(count - 1) * source_step + last - first + 1, taps * count, source + taps});
  }
};

inline CorrelationAxis forward_axis(const Axis& axis) {
  CorrelationAxis result{axis.kernel, axis.input, axis.output, axis.stride, 1, {{}}, axis.border};
  for (int64_t k = 0; k < axis.kernel; ++k) {
    result.phases[0].push_back({k, k * axis.dilation - axis.pad_lower, 0});
  }
  return result;
}

inline CorrelationAxis grad_input_axis(const Axis& axis) {
  const int64_t phases = axis.stride < axis.input ? axis.stride : axis.input;
  CorrelationAxis result{axis.kernel, axis.output, axis.input,
                         1,           axis.stride, std::vector<std::vector<AxisTap>>(phases)};
  for (int64_t k = 0; k < axis.kernel; ++k) {
    // h + pad = p * stride + k * dilation
    const int64_t phase = floor_mod(k * axis.dilation - axis.pad_lower, axis.stride);
    if (phase < phases)
      result.phases[phase].push_back({k, (phase + axis.pad_lower - k * axis.dilation) / axis.stride, 0});
  }
  return result;
}

// Neighbouring targets of one phase, at base positions [begin, end), that read through the same taps of it.
struct TargetStretch {
  int64_t begin, end;
  std::vector<size_t> taps;
};

// Cuts base positions where a tap begins or ends to read outside an image that has zeros there: they are left out. Not
// cut, all taps are read everywhere.
inline std::vector<TargetStretch> cut_targets(
    const CorrelationAxis& axis, size_t phase, int64_t begin, int64_t end, bool cut) {
  const auto& taps = axis.phases[phase];
  std::vector<int64_t> cuts{begin, end};
  cut = cut && axis.border == Border::zeros;
  if (cut) {
    for (const AxisTap& tap : taps) {
      cuts.push_back(std::clamp(ceil_div(-tap.offset, axis.source_step), begin, end));
      cuts.push_back(std::clamp(ceil_div(axis.source - tap.offset, axis.source_step), begin, end));
    }
  }
  std::sort(cuts.begin(), cuts.end());
  std::vector<TargetStretch> result;
  for (size_t i = 1; i < cuts.size(); ++i) {
    if (cuts[i - 1] == cuts[i]) continue;
    TargetStretch stretch{cuts[i - 1], cuts[i], {}};
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      if (!cut || axis.pixel(stretch.begin * axis.source_step + taps[tap].offset) >= 0) stretch.taps.push_back(tap);
    }
    result.push_back(std::move(stretch));
  }
  return result;
}

// Multiplications of a pass, the measure of its work; saturates.
inline int64_t multiplications(const Conv2dGeometry& g) {
  const double count = static_cast<double>(g.output_numel()) * static_cast<double>(g.channels_per_group()) *
                       static_cast<double>(g.h.kernel * g.w.kernel);
  return count < 1e18 ? static_cast<int64_t>(count) : int64_t(1e18);
}

// Winograd's algorithm (winograd.h) evaluates a tile at so many points along each axis. A stride makes a convolution
// one over phases of the image, every stride-th pixel each, through so many taps, of one axis at least.
constexpr int kWinogradPoints = 6;
inline int64_t winograd_taps(const Conv2dGeometry& g) {
  return std::max(ceil_div(g.h.kernel, g.h.stride), ceil_div(g.w.kernel, g.w.stride));
}

// Where a pass that writes the input meets its phases: phase f of position i is pixel i * stride + f - pad, and the
// pixels of an image are those of positions [begin, end).
struct PhasePositions {
  explicit PhasePositions(const Axis& axis)
      : begin(floor_div(axis.pad_lower, axis.stride)),
        end(floor_div(axis.input - 1 + axis.pad_lower, axis.stride) + 1) {}
  int64_t begin, end;
};

struct Correlation {
  CorrelationAxis h, w;
  int64_t N, groups;
  int64_t source_channels, target_channels;  // per group
  bool channels_last;
  // Strides of the weight, in elements, along source channel, target channel, row and column of the kernel.
  int64_t weight_source = 0, weight_target = 0, weight_row = 0, weight_column = 0, weight_group = 0;
};

// A 1x1 convolution without padding and strides reads an image as one long row.
inline Conv2dGeometry flattened(Conv2dGeometry geometry) {
  const auto plain = [](const Axis& axis) {
    return axis.kernel == 1 && axis.stride == 1 && axis.pad_lower == 0 && axis.pad_upper == 0;
  };
  if (!plain(geometry.h) || !plain(geometry.w)) return geometry;
  const int64_t pixels = geometry.h.input * geometry.w.input;
  geometry.h = Axis{1, 1, 1, 1, 1, 0, 0};
  geometry.w = Axis{pixels, 1, pixels, 1, 1, 0, 0};
  return geometry;
}

inline Correlation make_correlation(const Conv2dGeometry& problem, bool transposed) {
  const Conv2dGeometry geometry = flattened(problem);
  const int64_t C = geometry.channels_per_group(), K = geometry.filters_per_group();
  const int64_t R = geometry.h.kernel, S = geometry.w.kernel;
  const bool last = geometry.weight_channels_last;
  const int64_t stride_k = C * R * S, stride_c = last ? 1 : R * S;
  Correlation result{
      transposed ? grad_input_axis(geometry.h) : forward_axis(geometry.h),
      transposed ? grad_input_axis(geometry.w) : forward_axis(geometry.w),
      geometry.N,
      geometry.groups,
      transposed ? K : C,
      transposed ? C : K,
      geometry.channels_last,
      transposed ? stride_k : stride_c,
      transposed ? stride_c : stride_k,
      last ? S * C : S,
      last ? C : 1,
      K * stride_k};
  return result;
}

// Runs a pass by the two functions that an algorithm has: correlate(source, weight, bias, target) does forward and,
// with the images swapped, grad_input; grad_weight(input, grad_output, weight) the other.
template <typename scalar_t, typename Correlate, typename GradWeight>
auto run_pass(
    const Conv2dProblem& problem, const Conv2dArguments& arguments, const Correlate& correlate,
    const GradWeight& grad_weight) {
  const auto input = static_cast<scalar_t*>(arguments.input);
  const auto weight = static_cast<scalar_t*>(arguments.weight);
  const auto output = static_cast<scalar_t*>(arguments.output);
  const auto bias = static_cast<const scalar_t*>(arguments.bias);
  switch (problem.pass) {
    case Conv2dPass::forward: return correlate(input, weight, bias, output);
    case Conv2dPass::grad_input: return correlate(output, weight, bias, input);
    default: return grad_weight(input, output, weight);
  }
}

}  // namespace convops
