// About how many cycles of one core the CPU's algorithms for conv2d take: what "auto" compares. The constants are
// measured; only their proportions matter, and those hold from one instruction set to the next.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "../common/algorithm.h"
#include "../common/cpu.h"
#include "correlation.h"

namespace convops {

// Whether "auto" may take Winograd's algorithm (torch_convops.allow_winograd).
inline std::atomic<bool>& winograd_allowed() {
  static std::atomic<bool> allowed = true;
  return allowed;
}

// Floats that the processor computes at a time.
inline double float_lanes() {
  switch (cpu_isa()) {
    case Isa::amx:
    case Isa::avx512: return 16;
    case Isa::avx2: return 8;
    default: return 4;
  }
}

// What a pass sums over and what it makes: grad_input swaps the two, grad_weight makes the weight's channels.
struct Conv2dWork {
  explicit Conv2dWork(const Conv2dProblem& problem)
      : g(problem.geometry),
        sources(
            static_cast<double>(
                problem.pass == Conv2dPass::grad_input ? g.filters_per_group() : g.channels_per_group())),
        targets(
            static_cast<double>(
                problem.pass == Conv2dPass::grad_input ? g.channels_per_group() : g.filters_per_group())),
        images(static_cast<double>(g.N * g.groups)),
        outputs(images * static_cast<double>(g.h.output * g.w.output)),
        taps(static_cast<double>(g.h.kernel * g.w.kernel)),
        taps_inside(taps_inside_image(g.h) * taps_inside_image(g.w)),
        lanes(problem.dtype == DType::float64 ? float_lanes() / 2 : float_lanes()) {}

  // Taps that read pixels of the image, of the average output; other borders than zeros are read, too.
  static double taps_inside_image(const Axis& axis) {
    if (axis.border != Border::zeros || axis.output == 0) return static_cast<double>(axis.kernel);
    int64_t reads = 0;
    for (int64_t tap = 0; tap < axis.kernel; ++tap) {
      const int64_t offset = tap * axis.dilation - axis.pad_lower;  // first and last output whose read lies inside
      const int64_t first = std::max<int64_t>(0, ceil_div(-offset, axis.stride));
      const int64_t last = std::min(axis.output, ceil_div(axis.input - offset, axis.stride));
      reads += std::max<int64_t>(0, last - first);
    }
    return static_cast<double>(reads) / static_cast<double>(axis.output);
  }

  double vectors(double channels, double count = 1) const { return std::ceil(channels / (count * lanes)) * count; }
  double weights() const { return static_cast<double>(g.groups) * sources * vectors(targets, 2); }

  double moved() const { return static_cast<double>(g.input_numel() + g.output_numel()) / lanes; }

  const Conv2dGeometry& g;
  double sources, targets;  // channels per group
  double images, outputs;   // of all groups
  double taps, taps_inside, lanes;
};

inline double by_pass(const Conv2dProblem& problem, double forward, double grad_input, double grad_weight) {
  switch (problem.pass) {
    case Conv2dPass::forward: return forward;
    case Conv2dPass::grad_input: return grad_input;
    default: return grad_weight;
  }
}

// Two FMAs a cycle at 85 % of the peak (72 % in grad_weight, which adds up many short sums), over blocks of vectors of
// targets; images are packed and written once where they are contiguous, weights always.
inline double implicit_gemm_cost(const Conv2dProblem& problem) {
  const Conv2dWork work(problem);
  const double share = problem.pass == Conv2dPass::grad_weight ? 0.72 : 0.85;
  const double multiplied = work.outputs * work.taps_inside * work.sources * work.vectors(work.targets) / 2 / share;
  const double packed = by_pass(problem, 25, 40, 35) * work.taps * work.weights();
  return multiplied + packed + (work.g.channels_last ? 3 : 14) * work.moved();
}

// Vectors of the pixels of a row, of a whole plane where a tap reads it as one. A single vector is used once for each
// load of a scalar, and with few targets the unaligned loads bind; the targets of a stride are scattered. Transposed
// where they are channels_last, sorted by remainder where columns are strided.
inline double planar_gemm_cost(const Conv2dProblem& problem) {
  const Conv2dWork work(problem);
  const Axis &h = work.g.h, &w = work.g.w;
  const bool flat = work.taps == 1 && h.stride == 1 && w.stride == 1 && h.input == h.output && w.input == w.output;
  const double pixels = static_cast<double>(flat ? h.output * w.output : w.output), vectors = work.vectors(pixels);
  const double share = problem.pass == Conv2dPass::grad_weight                  ? 0.42
                       : vectors == 1                                           ? 0.65
                       : work.targets < 2                                       ? 0.5
                       : problem.pass == Conv2dPass::grad_input && w.stride > 1 ? 0.6
                                                                                : 0.85;
  const double multiplied = work.outputs * vectors / pixels * work.taps * work.sources * work.targets / 2 / share;
  const double packed = 15 * work.taps * work.weights();
  return multiplied + packed + (work.g.channels_last ? 10 : w.stride > 1 ? 12 : 6) * work.moved();
}

// Vectors of as many groups as fit, whose pixels are permuted once for neighbouring taps, on a port that FMAs need,
// too. Read in place where whole groups fill whole vectors, else gathered.
inline double grouped_cost(const Conv2dProblem& problem) {
  const Conv2dWork work(problem);
  const double together = std::max(1.0, std::floor(work.lanes / std::max(work.sources, work.targets)));
  const double groups = std::min(together, static_cast<double>(work.g.groups));
  const double vectors = groups > 1 ? 1 / groups : work.vectors(work.targets);
  const double reads = groups > 1 ? static_cast<double>(work.g.w.stride) / static_cast<double>(work.g.w.kernel) : 0;
  const double share = problem.pass == Conv2dPass::grad_weight ? 0.7 : 0.8;
  const double multiplied = work.outputs * work.taps * work.sources * vectors * (1 + reads) / 2 / share;
  const bool in_place = work.g.channels_last && problem.dtype <= DType::float64 &&
                        (groups > 1 ? groups * work.sources == work.lanes && work.sources == work.targets
                                    : work.targets == work.lanes * vectors);
  return multiplied + (in_place ? 3 : work.g.channels_last ? 10 : 7) * work.moved();
}

// Two FMAs a cycle at 90 % of the peak, 80 % in grad_weight, whose vectors are the channels that fill them better; of
// few targets vectors of sources instead, whose lanes are added up. Contiguous images are transposed.
inline double pointwise_cost(const Conv2dProblem& problem) {
  const Conv2dWork work(problem);
  const bool weight = problem.pass == Conv2dPass::grad_weight;
  double cycles = work.sources * work.vectors(work.targets) / 2 / 0.9;
  if (weight) {
    cycles = std::min(work.sources * work.vectors(work.targets), work.targets * work.vectors(work.sources)) / 2 / 0.8;
  } else {
    cycles = std::min(cycles, work.targets * (work.vectors(work.sources) + 5));
  }
  return work.outputs * cycles + (work.g.channels_last ? 2 : 6) * work.moved();
}

// 36 FMAs for a tile of all outputs that read the same 6x6 pixels, at 54 to 65 % of the peak, since what they read
// comes from beyond the first cache; and the transforms: about 320 cycles a tile and vector of channels, more where
// those are phases of pixels far apart, and several hundred a vector of the weight, most in grad_weight, whose sums are
// kept in memory.
inline double winograd_cost(const Conv2dProblem& problem) {
  const Conv2dWork work(problem);
  // What takes a tenth of a millisecond is not worth a coarser rounding.
  constexpr double kLeastMultiplications = 1 << 24;
  const bool worthwhile = work.outputs * work.taps * work.sources * work.targets >= kLeastMultiplications;
  if (!winograd_allowed() || !worthwhile) return std::numeric_limits<double>::infinity();
  const Conv2dGeometry& g = work.g;
  const bool transposed = problem.pass == Conv2dPass::grad_input;
  const int64_t outputs = kWinogradPoints + 1 - winograd_taps(g);
  const auto tiles_of = [&](const Axis& axis) {
    const PhasePositions positions(axis);
    return ceil_div(transposed ? positions.end - positions.begin : axis.output, outputs);
  };
  const double tiles = work.images * static_cast<double>(tiles_of(g.h) * tiles_of(g.w));
  // Phases of the input are channels; a vector holds as many as fit.
  const double phases = static_cast<double>(g.h.stride * g.w.stride);
  const auto vectors = [&](double channels, double phases) {
    return channels > work.lanes ? work.vectors(channels) * phases
                                 : std::ceil(phases / std::floor(work.lanes / channels));
  };
  const double source_vectors = vectors(work.sources, transposed ? 1 : phases);
  const double target_vectors = vectors(work.targets, transposed ? phases : 1);
  const double weights = (transposed ? 1 : phases) * work.sources * target_vectors;
  const double multiplied = tiles * 36 * weights / 2 / by_pass(problem, 0.58, 0.65, 0.54);
  const double strided =
      phases > 1 ? by_pass(problem, 300, 150, 250) * (transposed ? target_vectors : source_vectors) : 0;
  const double pixels = static_cast<double>(outputs * outputs);
  const double transformed = tiles * (320 * source_vectors + (200 + 10 * pixels) * target_vectors + strided);
  const double groups = static_cast<double>(g.groups);
  return multiplied + transformed + by_pass(problem, 400, 650, 1600) * groups * weights;
}

}  // namespace convops
