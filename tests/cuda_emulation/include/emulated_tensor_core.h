// What cuda/common/tensor_core.cuh says in PTX, in plain C++. Fragments lie over the lanes as the PTX ISA has them for
// ldmatrix .m8n8.x4 and mma .m16n8k16 (.m16n8k8 for TF32).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace emulation {

// An asynchronous copy happens when it is issued or, as often, when it is waited for at last.
void copy_async(void* shared, const void* global, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);

struct Fragments {
  uint32_t a[4], b[2];
};

}  // namespace emulation

namespace convops {

inline void copy_async(void* shared, const void* global, bool valid) {
  emulation::copy_async(shared, global, valid);
}
inline void copy_async_commit() {
  emulation::copy_async_commit();
}
template <int kPending>
void copy_async_wait() {
  emulation::copy_async_wait(kPending);
}

// Lane l has the address of row l % 8 of matrix l / 8 and gets bytes 4 (l % 4) .. +3 of row l / 4 of each.
inline void load_matrices(uint32_t (&registers)[4], const void* shared) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) emulation::report("ldmatrix from an address not of 16 bytes");
  const void* const* rows = emulation::exchange(shared);
  const int lane = emulation::lane();
  for (int i = 0; i < 4; ++i) {
    std::memcpy(&registers[i], static_cast<const char*>(rows[i * 8 + lane / 4]) + lane % 4 * 4, 4);
  }
  // No lane may write before all have read.
  emulation::wait_for_warp();
}

// Element (row, column) of the transposed matrix is element `row` of the row at address `column`.
inline void load_matrices_transposed(uint32_t (&registers)[4], const void* shared) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) emulation::report("ldmatrix from an address not of 16 bytes");
  const void* const* rows = emulation::exchange(shared);
  const int lane = emulation::lane();
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      std::memcpy(&pair[e], static_cast<const char*>(rows[i * 8 + lane % 4 * 2 + e]) + lane / 4 * 2, 2);
    }
    std::memcpy(&registers[i], pair, 4);
  }
  emulation::wait_for_warp();
}

// With g = lane / 4 and t = lane % 4 the lane brings words t and t + 4 of rows g and g + 8 of A and of column g of B,
// and gets rows g and g + 8, columns 2 t and 2 t + 1 of D.
template <typename scalar_t>
void multiply_accumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const emulation::Fragments* all = emulation::exchange(emulation::Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  constexpr int kElements = 4 / sizeof(scalar_t);
  const int lane = emulation::lane();
  float of_a[2][8 * kElements], of_b[2][8 * kElements];
  for (int i = 0; i < 2; ++i) {
    for (int word = 0; word < 8; ++word) {
      scalar_t row[kElements], column[kElements];
      std::memcpy(row, &all[lane / 4 * 4 + word % 4].a[i + word / 4 * 2], 4);
      std::memcpy(column, &all[(lane % 4 * 2 + i) * 4 + word % 4].b[word / 4], 4);
      for (int e = 0; e < kElements; ++e) {
        of_a[i][word * kElements + e] = static_cast<float>(row[e]);
        of_b[i][word * kElements + e] = static_cast<float>(column[e]);
      }
    }
  }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 8 * kElements; ++k) d[i] += of_a[i / 2][k] * of_b[i % 2][k];
  }
}

// To nearest, ties away from zero.
inline uint32_t round_to_tf32(uint32_t bits) {
  return (bits + 0x1000) & ~uint32_t{0x1fff};
}

}  // namespace convops
