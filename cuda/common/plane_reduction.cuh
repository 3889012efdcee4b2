// One value of each plane (n, c) of an image tensor: how global pools share planes out to threads.
//
//   contiguous    a plane's pixels are neighbours: kLanes = 32 or 256 threads walk one plane, 8 planes or 1 a block
//   channels_last pixel by pixel, channels are neighbours: 32 planes a block, 8 threads walk one plane
//
// Either way 32 lanes read neighbours. Each thread folds every kLanes-th pixel, then a tree folds threads: the same
// order in every run. The floor is reading the input once.
#pragma once

#include <cstdint>

#include "launch.cuh"

namespace convops {

struct PlaneGeometry {
  int64_t planes, channels, pixels;
};

// fold(value, pixel offset, pixel) takes a pixel in; combine(a, b) returns the fold of both; store(plane, value).
template <int kLanes, bool kChannelsLast, typename Value, typename Fold, typename Combine, typename Store>
__device__ void reduce_planes(
    const PlaneGeometry& geometry, Value value, const Fold& fold, const Combine& combine, const Store& store) {
  constexpr int kPlanes = kBlockThreads / kLanes;
  __shared__ Value shared[kLanes * kPlanes];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = kChannelsLast ? thread / kPlanes : thread % kLanes;
  const int together = kChannelsLast ? thread % kPlanes : thread / kLanes;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * kPlanes + together;
  if (plane < geometry.planes) {
    const int64_t n = kChannelsLast ? plane / geometry.channels : plane;
    const int64_t first = kChannelsLast ? n * geometry.pixels * geometry.channels + (plane - n * geometry.channels)
                                        : plane * geometry.pixels;
    const int64_t step = kChannelsLast ? geometry.channels : 1;
    for (int64_t pixel = lane; pixel < geometry.pixels; pixel += kLanes) fold(value, first + pixel * step, pixel);
  }
  shared[lane * kPlanes + together] = value;
  for (int half = kLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) {
      shared[lane * kPlanes + together] =
          combine(shared[lane * kPlanes + together], shared[(lane + half) * kPlanes + together]);
    }
  }
  if (lane == 0 && plane < geometry.planes) store(plane, shared[together]);
}

// Calls function(lanes, channels_last, blocks) with the first two as integral constants.
template <typename Function>
void dispatch_planes(const PlaneGeometry& geometry, bool channels_last, const Function& function) {
  const auto call = [&](auto lanes, auto last) {
    constexpr int kPlanes = kBlockThreads / lanes.value;
    function(lanes, last, (geometry.planes + kPlanes - 1) / kPlanes);
  };
  if (channels_last) {
    call(std::integral_constant<int, 8>(), std::true_type());
  } else if (geometry.pixels <= 1024) {
    call(std::integral_constant<int, 32>(), std::false_type());
  } else {
    call(std::integral_constant<int, 256>(), std::false_type());
  }
}

}  // namespace convops
