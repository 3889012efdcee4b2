// Kernels with one fault each, to show that the emulation finds it: faults NAME ends as the tests of the kernels would.
#include <cstdio>
#include <numeric>
#include <string_view>
#include <vector>

#include "../../cuda/common/launch.cuh"
#include "../../cuda/common/tensor_core.cuh"
#include "../../cuda/common/vector.cuh"
#include "memory.h"

namespace convops {

constexpr int kThreads = 64;

// Each copies 64 numbers through shared memory, back to front; `none` without a fault.
enum class Fault {
  none,
  no_barrier,
  half_a_barrier,
  misaligned,
  read_past_end,
  write_past_end,
  unset_shared,
  no_wait,
  shared_past_end,
  too_much_shared
};
constexpr const char* kFaults[] = {
    "none",           "no_barrier",   "half_a_barrier", "misaligned",      "read_past_end",
    "write_past_end", "unset_shared", "no_wait",        "shared_past_end", "too_much_shared"};

template <Fault kFault>
__global__ void reverse_kernel(const float* from, float* to) {
  float* const shared = reinterpret_cast<float*>(dynamic_shared());
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (kFault == Fault::no_wait) {
    if (thread < kThreads / 4) copy_async(shared + thread * 4, from + thread * 4, true);
    copy_async_commit();
  } else if constexpr (kFault == Fault::misaligned) {
    if (thread < kThreads / 4 - 1) Vector<float, 4>::load(from + thread * 4 + 1).store(shared + thread * 4);
  } else if (kFault != Fault::unset_shared || thread != 5) {
    shared[thread] = from[kFault == Fault::read_past_end ? thread + 1 : thread];
  }
  if (kFault == Fault::shared_past_end) shared[kThreads + thread] = 0;
  if (kFault == Fault::half_a_barrier && thread % 2 == 0) {
    __syncwarp();
  } else if (kFault != Fault::no_barrier) {
    __syncthreads();
  }
  to[kFault == Fault::write_past_end ? thread + 1 : thread] = shared[kThreads - 1 - thread];
}

template <Fault kFault>
int run() {
  // Both ends of a buffer are looked at only in turn.
  for (int repeat = 0; repeat < 20; ++repeat) {
    const emulation::Memory from(kThreads * sizeof(float), 16), to(kThreads * sizeof(float), 16);
    float *const source = static_cast<float*>(from.data()), *const result = static_cast<float*>(to.data());
    std::iota(source, source + kThreads, 1.0f);
    const int64_t bytes = kFault == Fault::too_much_shared ? 1 << 20 : kThreads * sizeof(float);
    try {
      launch("faults", reverse_kernel<kFault>, 3, kThreads, bytes, nullptr, source, result);
    } catch (const std::runtime_error& error) {
      return std::fprintf(stderr, "%s\n", error.what()), 1;
    }
    for (int i = 0; i < kThreads; ++i) {
      if (result[i] != source[kThreads - 1 - i]) return std::fprintf(stderr, "a wrong result\n"), 1;
    }
  }
  return 0;
}

template <int... kIndices>
int run_named(std::string_view name, std::integer_sequence<int, kIndices...>) {
  int result = 2;
  ((name == kFaults[kIndices] ? void(result = run<static_cast<Fault>(kIndices)>()) : void()), ...);
  return result;
}

}  // namespace convops

int main(int argc, char** argv) {
  emulation::under_test = argc > 1 ? argv[1] : "";
  return convops::run_named(emulation::under_test, std::make_integer_sequence<int, std::size(convops::kFaults)>());
}
