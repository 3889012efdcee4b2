// The list of average-pooling algorithms on CUDA, best first.
#include <array>

#include "avg_pool2d.cuh"

namespace convops {

std::span<const AvgPool2dAlgorithm> avg_pool2d_cuda_algorithms() {
  static constexpr std::array<AvgPool2dAlgorithm, 2> kAlgorithms{{
      {"global", avg_pool2d_global_supports, nullptr, avg_pool2d_global_run},
      {"direct", avg_pool2d_direct_supports, nullptr, avg_pool2d_direct_run},
  }};
  return kAlgorithms;
}

}  // namespace convops
