// The PTX of sm_90a that C++ has no words for: barriers in shared memory that count bytes, copies of whole tiles by the
// tensor memory accelerator (TMA), and the product of a warpgroup, four warps side by side (wgmma).
//
// Tiles lie in shared memory as lines of 128 bytes, 64 elements of a half type, whose 16-byte chunks are swizzled:
// chunk i of line l is at place i ^ (l % 8). TMA writes them so and wgmma reads them so; either axis of a matrix may be
// the one along a line.
#pragma once

// Compiled as C++, for the tests' emulation of a GPU, the same functions are there in plain words.
#ifndef __CUDACC__
#include <emulated_hopper.h>
#define CONVOPS_SM90A
#else

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

// Other architectures compile kernels of these words without a body.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CONVOPS_SM90A
#endif

namespace convops {

// What the functions below take for a place in shared memory.
__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// --- barriers. A phase ends with its last arrival and the last byte that arrivals have announced.

__device__ inline void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals));
}
// Before copies may report to barriers that are new.
__device__ inline void barrier_fence_init() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
__device__ inline void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}
__device__ inline void barrier_arrive_expecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Waits for the end of the phase of that parity: of the first phase it is 0. The phase before the first has ended.
__device__ inline void barrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "wait: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
      "@!done bra.uni wait;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Barriers of `threads` threads by number, 0 being that of __syncthreads: to wait at, and only to be counted at.
__device__ inline void named_barrier_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(number), "r"(threads) : "memory");
}

// --- copies of a tile, by one thread. What lies outside of the tensor is written as zeros and counts as copied.

// A box of a tensor of three axes, x along the lines.
__device__ inline void copy_box(
    void* shared, const CUtensorMap& map, uint64_t* barrier, int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// The same of four axes.
__device__ inline void copy_region(
    void* shared, const CUtensorMap& map, uint64_t* barrier, int32_t c, int32_t w, int32_t h, int32_t n) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n)
      : "memory");
}

// A line for each of the map's number of windows from the one at (n, h, w) on, in the order of windows: channels c and
// following of the pixel at (offset_h, offset_w) in the window.
__device__ inline void copy_pixels(
    void* shared, const CUtensorMap& map, uint64_t* barrier, int32_t c, int32_t w, int32_t h, int32_t n,
    uint16_t offset_w, uint16_t offset_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], [%2], {%7, %8};\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"(offset_w), "h"(offset_h)
      : "memory");
}

// --- products

// Around products: before the first, behind those that are waited for together, and until at most kPending such groups
// are under way. Until then nothing may touch their sums.
__device__ inline void products_begin() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int kPending>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// d = a b, or d += a b, of 64 rows and 16 of the reduction. With g = lane / 4 and t = lane % 4, lane of warp w holds in
// d[4 i ..] columns 8 i + 2 t and 8 i + 2 t + 1 of row 16 w + g, then those of row 16 w + g + 8. kAcross: lines run
// across the reduction.
template <typename scalar_t, int kColumns>
struct WarpgroupProduct;

#define CONVOPS_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CONVOPS_SUMS_16(i) CONVOPS_SUMS_4(i), CONVOPS_SUMS_4(i + 4), CONVOPS_SUMS_4(i + 8), CONVOPS_SUMS_4(i + 12)
#define CONVOPS_SUMS_64(i) CONVOPS_SUMS_16(i), CONVOPS_SUMS_16(i + 16), CONVOPS_SUMS_16(i + 32), CONVOPS_SUMS_16(i + 48)
#define CONVOPS_SUMS_96(i) CONVOPS_SUMS_64(i), CONVOPS_SUMS_16(i + 64), CONVOPS_SUMS_16(i + 80)
#define CONVOPS_SUMS_104(i) CONVOPS_SUMS_96(i), CONVOPS_SUMS_4(i + 96), CONVOPS_SUMS_4(i + 100)
#define CONVOPS_SUMS_120(i) CONVOPS_SUMS_104(i), CONVOPS_SUMS_16(i + 104)
#define CONVOPS_SUMS_128(i) CONVOPS_SUMS_120(i), CONVOPS_SUMS_4(i + 120), CONVOPS_SUMS_4(i + 124)
#define CONVOPS_NAMES_64                                                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"
#define CONVOPS_NAMES_96                                                                              \
  CONVOPS_NAMES_64                                                                                    \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, " \
  "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define CONVOPS_NAMES_104 CONVOPS_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define CONVOPS_NAMES_120 \
  CONVOPS_NAMES_104       \
  ", %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119"
#define CONVOPS_NAMES_128 CONVOPS_NAMES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"

// a, b and so on are the numbers of the operands behind the sums.
#define CONVOPS_WARPGROUP_PRODUCT(scalar, name, columns, sums, a, b, adds, across_a, across_b)                         \
  template <>                                                                                                          \
  struct WarpgroupProduct<scalar, columns> {                                                                           \
    template <bool kAcrossA, bool kAcrossB>                                                                            \
    __device__ static void add(float (&d)[sums], uint64_t matrix_a, uint64_t matrix_b, bool adds_up) {                 \
      asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %" #adds ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns \
                   "k16.f32." name "." name " {" CONVOPS_NAMES_##sums "}, %" #a ", %" #b ", adds, 1, 1, %" #across_a   \
                                                                      ", %" #across_b ";\n}\n"                         \
                   : CONVOPS_SUMS_##sums(0)                                                                            \
                   : "l"(matrix_a), "l"(matrix_b), "r"(static_cast<int>(adds_up)), "n"(int{kAcrossA}),                 \
                     "n"(int{kAcrossB}));                                                                              \
    }                                                                                                                  \
  };
CONVOPS_WARPGROUP_PRODUCT(__nv_bfloat16, "bf16", 128, 64, 64, 65, 66, 67, 68)
CONVOPS_WARPGROUP_PRODUCT(__nv_bfloat16, "bf16", 192, 96, 96, 97, 98, 99, 100)
CONVOPS_WARPGROUP_PRODUCT(__nv_bfloat16, "bf16", 208, 104, 104, 105, 106, 107, 108)
CONVOPS_WARPGROUP_PRODUCT(__nv_bfloat16, "bf16", 240, 120, 120, 121, 122, 123, 124)
CONVOPS_WARPGROUP_PRODUCT(__nv_bfloat16, "bf16", 256, 128, 128, 129, 130, 131, 132)
CONVOPS_WARPGROUP_PRODUCT(__half, "f16", 128, 64, 64, 65, 66, 67, 68)
CONVOPS_WARPGROUP_PRODUCT(__half, "f16", 192, 96, 96, 97, 98, 99, 100)
CONVOPS_WARPGROUP_PRODUCT(__half, "f16", 208, 104, 104, 105, 106, 107, 108)
CONVOPS_WARPGROUP_PRODUCT(__half, "f16", 240, 120, 120, 121, 122, 123, 124)
CONVOPS_WARPGROUP_PRODUCT(__half, "f16", 256, 128, 128, 129, 130, 131, 132)
#undef CONVOPS_WARPGROUP_PRODUCT
#undef CONVOPS_NAMES_64
#undef CONVOPS_NAMES_96
#undef CONVOPS_NAMES_104
#undef CONVOPS_NAMES_120
#undef CONVOPS_NAMES_128
#undef CONVOPS_SUMS_4
#undef CONVOPS_SUMS_16
#undef CONVOPS_SUMS_64
#undef CONVOPS_SUMS_96
#undef CONVOPS_SUMS_104
#undef CONVOPS_SUMS_120
#undef CONVOPS_SUMS_128

// --- the rest

// Four 8 x 8 matrices of two-byte elements from registers to shared memory, load_matrices backwards: lane l gives the
// address of row l % 8 of matrix l / 8 and holds of each matrix elements 2 (l % 4) and the next of row l / 4.
__device__ inline void store_matrices(void* shared, const uint32_t (&registers)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(shared_address(shared)),
               "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
               : "memory");
}
// The same with each matrix transposed.
__device__ inline void store_matrices_transposed(void* shared, const uint32_t (&registers)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(shared_address(shared)),
               "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
               : "memory");
}

// Registers of each thread of a warpgroup from here on: fewer, or more, that others have given up.
template <int kRegisters>
__device__ inline void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

}  // namespace convops

#endif

namespace convops {

// What wgmma takes for a matrix in swizzled lines. If lines run along the reduction, the next eight rows are `eighth`
// bytes on, and line_step is of no use (16, by convention). If they run across it, so are the next eight indices of the
// reduction, and the next 64 rows are `line_step` bytes on.
__device__ inline uint64_t matrix_descriptor(uint32_t address, uint32_t line_step, uint32_t eighth) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return (address & 0x3ffff) >> 4 | uint64_t{line_step >> 4} << 16 | uint64_t{eighth >> 4} << 32 | kSwizzle128;
}

}  // namespace convops
