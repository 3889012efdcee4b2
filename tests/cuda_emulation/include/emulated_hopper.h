// What cuda/common/hopper.cuh says in PTX, in plain C++: barriers, copies and products as the PTX ISA describes
// mbarrier, cp.async.bulk.tensor and wgmma.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <functional>

namespace emulation {

// Shared memory as a kernel of sm_90a addresses it.
uint32_t shared_address(const void* shared);
unsigned char* shared_pointer(uint32_t address);

struct Barrier {
  int16_t arrivals, left;
  int32_t bytes : 31;
  uint32_t parity : 1;
};
static_assert(sizeof(Barrier) == sizeof(uint64_t));

void barrier_init(Barrier* barrier, int arrivals);
void barrier_arrive(Barrier* barrier, int bytes);
void barrier_wait(Barrier* barrier, int parity);
void named_barrier(int number, int threads, bool waits);

// A copy writes some time after its start, then reports to its barrier. Coordinates from the axis along a line on.
void copy_tile(void* shared, const CUtensorMap& map, Barrier* barrier, const int32_t* at, const uint16_t* offsets);

// A product happens when it is started or, as often, when it is waited for at last.
void start_product(std::function<void()> product);
void commit_products();
void wait_for_products(int pending);

}  // namespace emulation

namespace convops {

using emulation::shared_address;

inline void barrier_init(uint64_t* barrier, int arrivals) {
  emulation::barrier_init(reinterpret_cast<emulation::Barrier*>(barrier), arrivals);
}
inline void barrier_fence_init() {}
inline void barrier_arrive(uint64_t* barrier) {
  emulation::barrier_arrive(reinterpret_cast<emulation::Barrier*>(barrier), 0);
}
inline void barrier_arrive_expecting(uint64_t* barrier, int bytes) {
  emulation::barrier_arrive(reinterpret_cast<emulation::Barrier*>(barrier), bytes);
}
inline void barrier_wait(uint64_t* barrier, int parity) {
  emulation::barrier_wait(reinterpret_cast<emulation::Barrier*>(barrier), parity);
}
inline void named_barrier_sync(int number, int threads) {
  emulation::named_barrier(number, threads, true);
}
inline void named_barrier_arrive(int number, int threads) {
  emulation::named_barrier(number, threads, false);
}

inline void copy_box(void* shared, const CUtensorMap& map, uint64_t* barrier, int32_t x, int32_t y, int32_t z) {
  const int32_t at[] = {x, y, z};
  emulation::copy_tile(shared, map, reinterpret_cast<emulation::Barrier*>(barrier), at, nullptr);
}
inline void copy_region(
    void* shared, const CUtensorMap& map, uint64_t* barrier, int32_t c, int32_t w, int32_t h, int32_t n) {
  const int32_t at[] = {c, w, h, n};
  emulation::copy_tile(shared, map, reinterpret_cast<emulation::Barrier*>(barrier), at, nullptr);
}
inline void copy_pixels(
    void* shared, const CUtensorMap& map, uint64_t* barrier, int32_t c, int32_t w, int32_t h, int32_t n,
    uint16_t offset_w, uint16_t offset_h) {
  const int32_t at[] = {c, w, h, n};
  const uint16_t offsets[] = {offset_w, offset_h};
  emulation::copy_tile(shared, map, reinterpret_cast<emulation::Barrier*>(barrier), at, offsets);
}

inline void products_begin() {}
inline void products_commit() {
  emulation::commit_products();
}
template <int kPending>
void products_wait() {
  emulation::wait_for_products(kPending);
}

// Element `index` of the reduction in row `row` of a matrix in swizzled lines.
template <typename scalar_t, bool kAcross>
float matrix_element(uint64_t descriptor, int row, int index) {
  const uint32_t start = (descriptor & 0x3fff) << 4, line_step = (descriptor >> 16 & 0x3fff) << 4;
  const uint32_t eighth = (descriptor >> 32 & 0x3fff) << 4;
  const int line = kAcross ? index : row, place = kAcross ? row % 64 : index;
  const uint32_t address =
      start + line / 8 * eighth + line % 8 * 128 + (kAcross ? row / 64 * line_step : 0) + place * 2;
  // The swizzle is of addresses.
  scalar_t value;
  std::memcpy(&value, emulation::shared_pointer(address ^ (address >> 7 & 7) << 4), sizeof(value));
  return static_cast<float>(value);
}

template <typename scalar_t, int kColumns>
struct WarpgroupProduct {
  template <bool kAcrossA, bool kAcrossB>
  static void add(float (&d)[kColumns / 2], uint64_t a, uint64_t b, bool adds_up) {
    emulation::start_product([&d, a, b, adds_up, thread = static_cast<int>(threadIdx.x % 128)] {
      const int first_row = thread / 32 * 16 + thread % 32 / 4, first_column = thread % 4 * 2;
      float rows[2][16];
      for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < 16; ++k) rows[i][k] = matrix_element<scalar_t, kAcrossA>(a, first_row + i * 8, k);
      }
      for (int column = 0; column < kColumns / 4; ++column) {
        float sums[2] = {0, 0};
        for (int k = 0; k < 16; ++k) {
          const float of_b = matrix_element<scalar_t, kAcrossB>(b, first_column + column / 2 * 8 + column % 2, k);
          for (int i = 0; i < 2; ++i) sums[i] += rows[i][k] * of_b;
        }
        for (int i = 0; i < 2; ++i) {
          float& to = d[column / 2 * 4 + i * 2 + column % 2];
          to = (adds_up ? to : 0) + sums[i];
        }
      }
    });
  }
};

// Lane l has the address of row l % 8 of matrix l / 8 and brings elements 2 (l % 4) and the next of row l / 4 of each.
inline void store_matrices_as(void* shared, const uint32_t (&registers)[4], bool transposed) {
  struct Brought {
    void* row;
    uint32_t pairs[4];
  };
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) emulation::report("stmatrix to an address not of 16 bytes");
  const Brought* all = emulation::exchange(Brought{shared, {registers[0], registers[1], registers[2], registers[3]}});
  const int lane = emulation::lane(), matrix = lane / 8, row = lane % 8;
  for (int column = 0; column < 8; ++column) {
    const int from_row = transposed ? column : row, from_column = transposed ? row : column;
    const uint32_t pair = all[from_row * 4 + from_column / 2].pairs[matrix];
    const uint16_t element = static_cast<uint16_t>(pair >> from_column % 2 * 16);
    std::memcpy(static_cast<unsigned char*>(shared) + column * 2, &element, 2);
  }
  emulation::wait_for_warp();
}
inline void store_matrices(void* shared, const uint32_t (&registers)[4]) {
  store_matrices_as(shared, registers, false);
}
inline void store_matrices_transposed(void* shared, const uint32_t (&registers)[4]) {
  store_matrices_as(shared, registers, true);
}

template <int kRegisters>
void shrink_registers() {}
template <int kRegisters>
void grow_registers() {}

}  // namespace convops
