// Kernels with one fault each, to show that the emulation finds it: faults NAME ends as the tests of the kernels would.
#include <cstdio>
#include <numeric>
#include <string_view>
#include <vector>

#include "../../cuda/common/launch.cuh"
#include "../../cuda/common/tensor_core.cuh"
#include "../../cuda/common/tensor_map.cuh"
#include "../../cuda/common/vector.cuh"
#include "memory.h"

namespace convops {

constexpr int kThreads = 64;

// Kernels up to too_much_shared copy 64 numbers through shared memory, back to front; the others multiply two matrices.
// `none` and `no_fault` have no fault.
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
  too_much_shared,
  no_fault,
  no_phase,
  no_product_wait,
  byte_too_many,
  misplaced_tile
};
constexpr const char* kFaults[] = {
    "none",           "no_barrier",   "half_a_barrier",  "misaligned",      "read_past_end",
    "write_past_end", "unset_shared", "no_wait",         "shared_past_end", "too_much_shared",
    "no_fault",       "no_phase",     "no_product_wait", "byte_too_many",   "misplaced_tile"};

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

constexpr int kProductColumns = 128;

// d = a b of 64 x 64 and 64 x 128 elements, of which b lies across the reduction.
template <Fault kFault>
__global__ void product_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, float* d) {
  __shared__ uint64_t barrier;
  unsigned char* shared = dynamic_shared();
  shared += (1024 - shared_address(shared) % 1024) % 1024 + (kFault == Fault::misplaced_tile ? 512 : 0);
  const int thread = static_cast<int>(threadIdx.x), tile = 64 * kLineBytes;
  if (thread == 0) {
    barrier_init(&barrier, 1);
    barrier_fence_init();
    barrier_arrive_expecting(&barrier, 3 * tile + (kFault == Fault::byte_too_many ? 1 : 0));
    copy_box(shared, a, &barrier, 0, 0, 0);
    for (int i = 0; i < 2; ++i) copy_box(shared + tile + i * tile, b, &barrier, i * 64, 0, 0);
  }
  __syncthreads();
  if (kFault != Fault::no_phase) barrier_wait(&barrier, 0);
  float sums[kProductColumns / 2] = {};
  products_begin();
  for (int i = 0; i < 4; ++i) {
    WarpgroupProduct<__half, kProductColumns>::add<false, true>(
        sums, matrix_descriptor(shared_address(shared) + i * 32, 0, 1024),
        matrix_descriptor(shared_address(shared) + tile + i * 2048, tile, 1024), i > 0);
  }
  products_commit();
  if (kFault != Fault::no_product_wait) products_wait<0>();
  for (int i = 0; i < kProductColumns / 2; ++i) {
    const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, column = thread % 4 * 2 + i / 4 * 8 + i % 2;
    d[row * kProductColumns + column] = sums[i];
  }
  barrier_wait(&barrier, 0);
  products_wait<0>();
}

template <Fault kFault>
int run_product() {
  const emulation::Memory a(64 * 64 * 2, 16), b(64 * kProductColumns * 2, 16), d(64 * kProductColumns * 4, 16);
  __half *const of_a = static_cast<__half*>(a.data()), *const of_b = static_cast<__half*>(b.data());
  for (int i = 0; i < 64 * 64; ++i) of_a[i] = static_cast<float>(i % 7 - 3);
  for (int i = 0; i < 64 * kProductColumns; ++i) of_b[i] = static_cast<float>(i % 5 - 2);
  const CUtensorMap map_a = map_boxes<__half, 3>(of_a, {64, 64, 1}, {64, 64 * 64}, {64, 1});
  const CUtensorMap map_b =
      map_boxes<__half, 3>(of_b, {kProductColumns, 64, 1}, {kProductColumns, 64 * kProductColumns}, {64, 1});
  float* const result = static_cast<float*>(d.data());
  launch("faults", product_kernel<kFault>, 3, 128, 3 * 64 * kLineBytes + 2048, nullptr, map_a, map_b, result);
  for (int row = 0; row < 64; ++row) {
    for (int column = 0; column < kProductColumns; ++column) {
      float sum = 0;
      for (int k = 0; k < 64; ++k) sum += float{of_a[row * 64 + k]} * float{of_b[k * kProductColumns + column]};
      if (result[row * kProductColumns + column] != sum) return std::fprintf(stderr, "a wrong result\n"), 1;
    }
  }
  return 0;
}

template <Fault kFault>
int run() {
  if constexpr (kFault >= Fault::no_fault) return run_product<kFault>();
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
