// The copies of gemm_pack.cuh. Their floor is memory: 16-byte accesses on both sides, lanes along pixels where they
// read and along channels where they write, 64 bytes or more in a row. In between is a tile of 8 KB in shared memory.
#include "gemm_pack.cuh"

#include "conv2d.cuh"
#include "plane_tile.cuh"

namespace convops {

namespace {

constexpr int kTileChannels = static_cast<int>(kPackChannels);
// Of shared memory, from one channel's pixels to the next one's. With an odd number of words 32 / n channels, n = 4 or
// 8 apart, and n pixels lie in different banks, as do 4 channels and 8 runs of pixels.
constexpr int kTilePitch = static_cast<int>(kPackPixelBytes) / 4 + 1;

struct PackTask {
  PackJob job;
  const void* from;
  void* to;
  int tiles, tile_pixels;
  Divisor<int32_t> channel_tiles, pixel_tiles, interleaved;  // of a transposing job
  Divisor<int32_t> runs;                                     // of a pixel, else

  PackTask(const PackJob& job, const void* from, void* to, int64_t element_bytes)
      : job(job),
        from(from),
        to(to),
        tiles(static_cast<int>(job.tiles(element_bytes))),
        tile_pixels(static_cast<int>(job.tile_pixels(element_bytes))) {
    if (tiles == 0) return;
    if (job.transposes) {
      channel_tiles = Divisor<int32_t>(ceil_div(job.packed_channels, kPackChannels));
      pixel_tiles = Divisor<int32_t>(ceil_div(job.pixels, tile_pixels));
      interleaved = Divisor<int32_t>(job.interleaved);
    } else {
      runs = Divisor<int32_t>(job.packed_channels * element_bytes / 16);
    }
  }
};

// One task of each operand.
struct PackTasks {
  PackTask a, b;
};

template <typename bits_t>
__device__ void transpose_tile(const PackTask& task, int tile, uint32_t* shared) {
  constexpr int kRun = kRunLength<bits_t>, kPixels = static_cast<int>(kPackPixelBytes / sizeof(bits_t));
  const PackJob& job = task.job;
  const int thread = static_cast<int>(threadIdx.x);
  const int channel = take_digit(tile, task.channel_tiles) * kTileChannels;
  const int64_t pixel = static_cast<int64_t>(take_digit(tile, task.pixel_tiles)) * kPixels;
  const bits_t* const begin = static_cast<const bits_t*>(task.from);
  const bits_t* const end = begin + job.matrices * job.channels * job.pixels;
  const bits_t* const from = begin + (tile * job.channels + channel) * job.pixels + pixel;
  const int64_t channels_left = job.channels - channel, packed_left = job.packed_channels - channel;
  const int pixels = static_cast<int>(job.pixels - pixel < kPixels ? job.pixels - pixel : kPixels);

  constexpr int kRuns = kPixels / kRun;
#pragma unroll
  for (int i = thread; i < kTileChannels * kRuns; i += kBlockThreads) {
    const int c = i / kRuns, run = i % kRuns;
    union {
      Run<bits_t> values;
      uint32_t words[4];
    } held{};
    if (c < channels_left) held.values = load_run(from + c * job.pixels, run * kRun, pixels, begin, end);
#pragma unroll
    for (int word = 0; word < 4; ++word) shared[c * kTilePitch + run * 4 + word] = held.words[word];
  }
  __syncthreads();

  const int turn = take_digit(tile, task.interleaved);
  bits_t* const to = static_cast<bits_t*>(task.to) +
                     ((tile * job.pixels + pixel) * job.interleaved + turn) * job.packed_channels + channel;
  const bits_t* const elements = reinterpret_cast<const bits_t*>(shared);
  constexpr int kPitch = kTilePitch * 4 / static_cast<int>(sizeof(bits_t));
  // A warp takes 32 / kRun runs of kRun pixels.
  constexpr int kAcross = 32 / kRun, kWarpsAcross = kTileChannels / 32;
#pragma unroll
  for (int i = thread; i < kTileChannels * kRuns; i += kBlockThreads) {
    const int warp = i / 32, lane = i % 32;
    const int c = (warp % kWarpsAcross * kAcross + lane % kAcross) * kRun;
    const int p = warp / kWarpsAcross * kRun + lane / kAcross;
    if (c >= packed_left || p >= pixels) continue;
    Run<bits_t> values;
#pragma unroll
    for (int e = 0; e < kRun; ++e) values[e] = elements[(c + e) * kPitch + p];
    values.store(to + p * job.interleaved * job.packed_channels + c);
  }
}

template <typename bits_t>
__device__ void lengthen_rows(const PackTask& task, int tile) {
  constexpr int kRun = kRunLength<bits_t>;
  const PackJob& job = task.job;
  const int64_t pixel = static_cast<int64_t>(tile) * task.tile_pixels, left = job.pixels - pixel;
  const bits_t* const begin = static_cast<const bits_t*>(task.from);
  const bits_t* const end = begin + job.pixels * job.channels;
  bits_t* const to = static_cast<bits_t*>(task.to) + pixel * job.packed_channels;
  const int count = task.runs.multiply(static_cast<int>(left < task.tile_pixels ? left : task.tile_pixels));
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kBlockThreads) {
    int p = i;
    const int column = take_digit(p, task.runs) * kRun;
    load_run(begin + (pixel + p) * job.channels, column, static_cast<int>(job.channels), begin, end)
        .store(to + i * kRun);
  }
}

// The bits of the elements are all that matters.
template <typename bits_t>
__global__ void __launch_bounds__(kBlockThreads)
    conv2d_implicit_gemm_pack_kernel(const __grid_constant__ PackTasks tasks) {
  __shared__ uint32_t shared[kTileChannels * kTilePitch];
  const int block = static_cast<int>(blockIdx.x);
  const bool first = block < tasks.a.tiles;
  const PackTask& task = first ? tasks.a : tasks.b;
  const int tile = first ? block : block - tasks.a.tiles;
  if (task.job.transposes) {
    transpose_tile<bits_t>(task, tile, shared);
  } else {
    lengthen_rows<bits_t>(task, tile);
  }
}

}  // namespace

PackedOperands pack_operands(
    const Conv2dPacking& packing, int64_t element_bytes, const void* a, const void* b, void* copy_of_a, void* copy_of_b,
    void* stream) {
  const PackTasks tasks{{packing.a, a, copy_of_a, element_bytes}, {packing.b, b, copy_of_b, element_bytes}};
  const auto kernel =
      element_bytes == 2 ? conv2d_implicit_gemm_pack_kernel<uint16_t> : conv2d_implicit_gemm_pack_kernel<uint32_t>;
  launch("conv2d", kernel, int64_t{tasks.a.tiles} + tasks.b.tiles, kBlockThreads, 0, stream, tasks);
  return {tasks.a.tiles > 0 ? tasks.a.to : a, tasks.b.tiles > 0 ? tasks.b.to : b};
}

}  // namespace convops
