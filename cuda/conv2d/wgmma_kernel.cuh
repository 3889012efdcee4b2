// The kernel of the implicit matrix product on Hopper GPUs.
//
// One block an SM walks over tiles. Of its three warpgroups one only starts copies, which run several steps ahead
// through rings of stages in shared memory; the other two take turns with whole tiles, so that one writes its results
// while the other's products keep the tensor cores busy. An order between them makes each issue the products of a tile
// in one go: the second does not wait for stages that the first has not read.
//
// Windows are copied tap by tap, or once for all taps as a region: blocks of whole rows of the image, with what their
// windows reach beyond them, in which a tap is a number of lines to step over (wgmma reads tiles from any line on).
// Columns that lie between the rows of windows then come to nothing. A step of 128 x 192 windows copies 40 KB for
// 3.1 Mflop, 9 TB/s at 690 Tflop/s, which L2 just gives; one of 64 x 208 of a region of 3x3 windows 12 KB for 1.7
// Mflop.
#pragma once

#include "wgmma_output.cuh"

namespace convops {

// --- rings: stages are filled and emptied in order, each by one side while the other is busy with others.

template <int kStages>
struct Ring {
  uint64_t full[kStages], empty[kStages];

  // Each stage is filled by one copying thread, with as many bytes as it announces, and read by four warps.
  __device__ void init() {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], kWarpgroup / 32);
    }
  }
};

// A place in a ring of `stages`, which may be fewer than it has room for, and the parity of its phase.
struct RingPosition {
  int stages, stage = 0, parity = 0;

  __device__ explicit RingPosition(int stages) : stages(stages) {}
  __device__ void advance() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  __device__ void advance(int steps) {
    const int next = stage + steps;
    parity ^= next / stages & 1;
    stage = next % stages;
  }
};

template <typename Kernel>
struct WgmmaShared {
  Ring<Kernel::kAStages> a;
  Ring<Kernel::kBStages> b;
};

// --- copies: one thread starts those of A, of another warp one those of B, for all tiles of the block.

// Calls visit(c, r, s) for the steps of a tile, in order. Channels outside let taps find their lines in cache.
template <typename Visit>
__device__ void for_each_tap(const WgmmaParameters& parameters, const WgmmaPartParameters& part, const Visit& visit) {
  const int chunks = static_cast<int>(parameters.chunks.divisor);
  const int outside = parameters.channels_outside ? chunks : 1, inside = chunks / outside;
  for (int outer = 0; outer < outside; ++outer) {
    for (int r = 0; r < part.h.taps; ++r) {
      for (int s = 0; s < part.w.taps; ++s) {
        for (int inner = 0; inner < inside; ++inner) visit((outer + inner) * kLineElements, r, s);
      }
    }
  }
}

template <typename Kernel, typename Visit>
__device__ void for_each_tile(const WgmmaParameters& parameters, const Visit& visit) {
  for (int tile = static_cast<int>(blockIdx.x); tile < parameters.tiles; tile += static_cast<int>(gridDim.x)) {
    const WgmmaTileAt at = wgmma_tile_at<Kernel>(parameters, tile);
    if (at.steps > 0) visit(at, parameters.parts[at.part]);
  }
}

// Waits for the next stage to be empty, announces its bytes and calls copy(stage's number).
template <int kStages, typename Copy>
__device__ void fill_stage(Ring<kStages>& ring, RingPosition& position, int bytes, const Copy& copy) {
  barrier_wait(&ring.empty[position.stage], position.parity ^ 1);
  barrier_arrive_expecting(&ring.full[position.stage], bytes);
  copy(position.stage, &ring.full[position.stage]);
  position.advance();
}

template <typename Kernel>
__device__ void wgmma_copy_a(const WgmmaParameters& parameters, unsigned char* stages, Ring<Kernel::kAStages>& ring) {
  RingPosition position(Kernel::kAStages);
  for_each_tile<Kernel>(parameters, [&](const WgmmaTileAt& at, const WgmmaPartParameters& part) {
    const int group = at.group * parameters.a_group_step;
    if constexpr (Kernel::kSliced) {
      for (int step = at.first_step; step < at.first_step + at.steps; ++step) {
        fill_stage(ring, position, Kernel::kABytes, [&](int stage, uint64_t* full) {
          for (int i = 0; i < Kernel::kRowBlocks; ++i) {
            unsigned char* const to = stages + stage * Kernel::kABytes + i * kBoxBytes;
            copy_box(to, parameters.a, full, group + at.row + i * 64, step * kLineElements, 0);
          }
        });
      }
    } else {
      for_each_tap(parameters, part, [&](int c, int r, int s) {
        const int tap = (part.h.weight_first + r * part.h.weight_step) * parameters.S + part.w.weight_first +
                        s * part.w.weight_step;
        fill_stage(ring, position, Kernel::kABytes, [&](int stage, uint64_t* full) {
          unsigned char* const to = stages + stage * Kernel::kABytes;
          if constexpr (Kernel::kAcrossA) {
            for (int i = 0; i < Kernel::kRowBlocks; ++i) {
              copy_box(to + i * kBoxBytes, parameters.a, full, at.row + i * 64, tap, group + c);
            }
          } else {
            copy_box(to, parameters.a, full, c, tap, group + at.row);
          }
        });
      });
    }
  });
}

template <typename Kernel>
__device__ void wgmma_copy_b(const WgmmaParameters& parameters, unsigned char* stages, Ring<Kernel::kBStages>& ring) {
  RingPosition position(parameters.b_stages);
  for_each_tile<Kernel>(parameters, [&](const WgmmaTileAt& at, const WgmmaPartParameters& part) {
    const int group = at.group * parameters.b_group_step;
    const auto copy_window = [&](unsigned char* to, uint64_t* full, const WindowAt& window, int c, int r, int s) {
      copy_pixels(
          to, part.windows, full, group + c, part.w.start(window.q), part.h.start(window.p), window.n,
          static_cast<uint16_t>(s * part.w.offset_step), static_cast<uint16_t>(r * part.h.offset_step));
    };
    if constexpr (Kernel::kSliced) {
      const int left = static_cast<int>(parameters.chunks.divisor) * part.h.taps * part.w.taps - at.column;
      constexpr int kLines = Kernel::kColumns / kLineElements;
      const int lines = left < kLines ? left : kLines;
      for (int step = at.first_step; step < at.first_step + at.steps; ++step) {
        const WindowAt window(part, step * kLineElements);
        fill_stage(ring, position, lines * kBoxBytes, [&](int stage, uint64_t* full) {
          for (int i = 0; i < lines; ++i) {
            int tap = at.column + i;
            const int c = take_digit(tap, parameters.chunks) * kLineElements;
            const int r = tap / part.w.taps, s = tap - r * part.w.taps;
            copy_window(stages + stage * parameters.b_stage_bytes + i * kBoxBytes, full, window, c, r, s);
          }
        });
      }
    } else if constexpr (Kernel::kRegions) {
      const WindowAt first(part, parameters.region, at.column);
      for (int chunk = 0; chunk < static_cast<int>(parameters.chunks.divisor); ++chunk) {
        fill_stage(ring, position, parameters.region.copied_bytes, [&](int stage, uint64_t* full) {
          copy_region(
              stages + stage * parameters.b_stage_bytes, part.windows, full, group + chunk * kLineElements,
              part.w.start(first.q), part.h.start(first.p), first.n);
        });
      }
    } else {
      const WindowAt first(part, at.column);
      for_each_tap(parameters, part, [&](int c, int r, int s) {
        fill_stage(ring, position, Kernel::kColumns * kLineBytes, [&](int stage, uint64_t* full) {
          copy_window(stages + stage * parameters.b_stage_bytes, full, first, c, r, s);
        });
      });
    }
  });
}

// --- products

// What a warpgroup that multiplies does, number `turn` of two.
template <typename Kernel>
__device__ void wgmma_multiply(
    const WgmmaParameters& parameters, const unsigned char* a_stages, const unsigned char* b_stages,
    unsigned char* staged, WgmmaShared<Kernel>& rings, int turn) {
  const bool arrives = threadIdx.x % 32 == 0;
  const int blocks = static_cast<int>(gridDim.x);
  const int staging_barrier = 1 + turn, own_turn = 3 + turn, other_turn = 4 - turn;
  RingPosition a(Kernel::kAStages), b(parameters.b_stages);
  WgmmaSums<Kernel> result;
  int tile = static_cast<int>(blockIdx.x);
  // The other's tile before and after each of one's own.
  const auto skip = [&] {
    if (tile < parameters.tiles) {
      const WgmmaTileAt at = wgmma_tile_at<Kernel>(parameters, tile);
      a.advance(at.steps);
      b.advance(at.copies_of_b<Kernel>(parameters));
    }
    tile += blocks;
  };
  if (turn == 1) {
    skip();
    named_barrier_arrive(other_turn, 2 * kWarpgroup);
  }
  while (tile < parameters.tiles) {
    const WgmmaTileAt at = wgmma_tile_at<Kernel>(parameters, tile);
    const WgmmaPartParameters& part = parameters.parts[at.part];
    named_barrier_sync(own_turn, 2 * kWarpgroup);
    int read_a = -1, read_b = -1;  // stages to be given back
    const auto give_back = [&] {
      if (arrives && read_a >= 0) barrier_arrive(&rings.a.empty[read_a]);
      if (arrives && read_b >= 0) barrier_arrive(&rings.b.empty[read_b]);
    };
    int r = 0, s = 0;  // the tap in a region
    for (int step = 0; step < at.steps; ++step) {
      barrier_wait(&rings.a.full[a.stage], a.parity);
      int line = 0;
      bool last = true;
      if constexpr (Kernel::kRegions) {
        if (r + s == 0) barrier_wait(&rings.b.full[b.stage], b.parity);
        line = r * part.h.offset_step * parameters.region.pitch + s * part.w.offset_step;
        if (++s == part.w.taps) s = 0, ++r;
        last = r == part.h.taps;
        if (last) r = 0;
      } else {
        barrier_wait(&rings.b.full[b.stage], b.parity);
      }
      products_begin();
      result.multiply(
          a_stages + a.stage * Kernel::kABytes, b_stages + b.stage * parameters.b_stage_bytes + line * kLineBytes,
          step > 0);
      products_commit();
      // The step before has been read.
      products_wait<1>();
      give_back();
      read_a = a.stage, read_b = last ? b.stage : -1;
      a.advance();
      if (last) b.advance();
    }
    named_barrier_arrive(other_turn, 2 * kWarpgroup);
    products_wait<0>();
    give_back();
    if (at.steps == 0) result.set_zero();
    WgmmaOutput<Kernel>(parameters, at).write(result, staged, staging_barrier);
    tile += blocks;
    skip();
  }
}

template <typename Kernel>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    conv2d_implicit_gemm_wgmma_kernel(const __grid_constant__ WgmmaParameters parameters) {
#ifdef CONVOPS_SM90A
  __shared__ WgmmaShared<Kernel> rings;
  // Regions first: products read a few lines beyond the last one, of columns that are not written.
  unsigned char* b_stages = dynamic_shared();
  b_stages += (kSwizzlePeriod - shared_address(b_stages) % kSwizzlePeriod) % kSwizzlePeriod;
  unsigned char* const a_stages = b_stages + parameters.b_stages * parameters.b_stage_bytes;
  unsigned char* const staged = a_stages + Kernel::kAStages * Kernel::kABytes;
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (threadIdx.x == 0) {
    rings.a.init();
    rings.b.init();
    barrier_fence_init();
  }
  __syncthreads();
  if (warpgroup == 0) {
    shrink_registers<Kernel::kCopyRegisters>();
    if (threadIdx.x == 0) wgmma_copy_a<Kernel>(parameters, a_stages, rings.a);
    if (threadIdx.x == 32) wgmma_copy_b<Kernel>(parameters, b_stages, rings.b);
  } else {
    grow_registers<Kernel::kMultiplyRegisters>();
    wgmma_multiply<Kernel>(parameters, a_stages, b_stages, staged + (warpgroup - 1) * kBoxBytes, rings, warpgroup - 1);
  }
#endif
}

}  // namespace convops
