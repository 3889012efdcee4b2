// About how many cycles of one core the CPU's algorithms for conv2d take: what "auto" compares. The constants are
// measured; only their proportions matter, and those hold from one instruction set to the next.
#pragma once

#include <atomic>
#include <cmath>
#include <limits>

#include "../common/algorithm.h"
#include "../common/cpu.h"

namespace convops {

// Whether "auto" may take Winograd's algorithm (torch_convops.allow_winograd).
inline std::atomic<bool>& winograd_allowed() {
  static std::atomic<bool> allowed = true;
  return allowed;
}

// Floats that the processor computes at a time.
inline double float_lanes() {
  switch (cpu_isa()) {
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
        lanes(problem.dtype == DType::float64 ? float_lanes() / 2 : float_lanes()) {}

  double vectors(double channels, double count = 1) const { return std::ceil(channels / (count * lanes)) * count; }

  const Conv2dGeometry& g;
  double sources, targets;  // channels per group
  double images, outputs;   // of all groups
  double taps, lanes;
};

// Two FMAs a cycle at 85 % of the peak, over blocks of two vectors of targets; the images are packed and written once.
inline double implicit_gemm_cost(const Conv2dProblem& problem) {
  const Conv2dWork work(problem);
  const double multiplied = work.outputs * work.taps * work.sources * work.vectors(work.targets, 2) / 2 / 0.85;
  const double moved = static_cast<double>(work.g.input_numel() + work.g.output_numel()) / work.lanes;
  return multiplied + 6 * moved;
}

// A quarter of the FMAs, at 75 % of the peak, and the transforms: about 250 cycles a tile and vector of channels, 150
// a vector of the weight.
inline double winograd_cost(const Conv2dProblem& problem) {
  if (!winograd_allowed()) return std::numeric_limits<double>::infinity();
  const Conv2dWork work(problem);
  const Axis &h = work.g.h, &w = work.g.w;
  const bool transposed = problem.pass == Conv2dPass::grad_input;
  const double tiles =
      work.images *
      static_cast<double>(ceil_div(transposed ? h.input : h.output, 4) * ceil_div(transposed ? w.input : w.output, 4));
  const double multiplied =
      tiles * 36 * work.vectors(work.sources) * work.lanes * work.vectors(work.targets, 2) / 2 / 0.75;
  const double transformed = 250 * tiles * (work.vectors(work.sources) + work.vectors(work.targets, 2));
  const double weights = 150 * static_cast<double>(work.g.groups) * work.sources * work.vectors(work.targets, 2);
  return multiplied + transformed + weights;
}

}  // namespace convops
