// Depthwise convolution of channels_last images: lanes are 16 bytes of channels, threads runs of outputs of a row.
//
// A run of 7 outputs under 3 x 3 reads 27 vectors instead of 63, and each weight serves 7 multiply-adds of each of the
// vector's channels. Neighbouring runs and rows read the same pixels at about the same time, from L1 and L2. Per output
// and channel of half types that is 9 multiply-adds and 4 + 9 / 7 conversions, where memory allows about 38
// instructions (see depthwise_planes.cu): 3 x 3 and 5 x 5 are bound by memory, 7 x 7 by multiply-adds.
#include "depthwise_window.cuh"

namespace convops {

namespace {

// Outputs of a run: as many as keep their sums and pixels in registers.
template <int kStride>
constexpr int kRunOutputs = kStride == 1 ? 7 : 4;
// Taps of a row that are read together in a window of any size.
constexpr int kTapRun = 4;

// Threads of a block, and blocks that share the registers of an SM: 168 each, or 255.
constexpr int kChannelThreads = 128;
constexpr int blocks_on_sm(int side) {
  return side >= 5 ? 2 : 3;
}

struct ChannelWork {
  DepthwiseWindow window;
  Divisor<int32_t> vectors, runs, rows;
  int count;
};

// output(n, c, p, q) = bias(c) + sum over r, s of input(n, c, p stride + r - pad, q stride + s - pad) weight(r, s, c)
template <typename scalar_t, int kKernel, int kStride>
__global__ void __launch_bounds__(kChannelThreads, blocks_on_sm(kKernel)) conv2d_depthwise_channels_kernel(
    const ChannelWork work, const scalar_t* __restrict__ source, const scalar_t* __restrict__ weight,
    const scalar_t* __restrict__ bias, scalar_t* __restrict__ destination) {
  using acc_t = accumulator_t<scalar_t>;
  constexpr int kVector = kVectorBytes / sizeof(scalar_t), kOutputs = kRunOutputs<kStride>;
  constexpr int kTaps = kKernel > 0 ? kKernel : kTapRun, kPixels = (kOutputs - 1) * kStride + kTaps;
  using Channels = Vector<scalar_t, kVector>;
  const DepthwiseWindow& window = work.window;
  grid_stride_loop(work.count, [&](int at) {
    const int channel = take_digit(at, work.vectors) * kVector, q = take_digit(at, work.runs) * kOutputs;
    const int p = take_digit(at, work.rows), n = at;
    const int row = p * kStride - window.pad_h, column = q * kStride - window.pad_w;
    const scalar_t* const image = source + n * window.height * window.width * window.channels + channel;
    const int kernel_w = kKernel > 0 ? kKernel : window.kernel_w;
    acc_t sums[kOutputs][kVector] = {};
    // Row by row: the pixels of several would not fit in registers together.
#pragma unroll 1
    for (int r = 0; r < (kKernel > 0 ? kKernel : window.kernel_h); ++r) {
      const int h = row + r;
      if (h < 0 || h >= window.height) continue;
#pragma unroll 1
      for (int first = 0; first < kernel_w; first += kTaps) {
        Channels x[kPixels];
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          const int w = column + first + j;
          x[j] = Channels{};
          if (w >= 0 && w < window.width) x[j] = Channels::load(image + (h * window.width + w) * window.channels);
        }
#pragma unroll
        for (int s = 0; s < kTaps; ++s) {
          if (kKernel == 0 && first + s >= kernel_w) break;
          const Channels weights = Channels::load(weight + (r * kernel_w + first + s) * window.channels + channel);
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            const acc_t w = static_cast<acc_t>(weights[v]);
#pragma unroll
            for (int o = 0; o < kOutputs; ++o) sums[o][v] += static_cast<acc_t>(x[o * kStride + s][v]) * w;
          }
        }
      }
    }
    scalar_t* const to = destination + ((n * window.out_height + p) * window.out_width + q) * window.channels + channel;
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      if (q + o >= window.out_width) break;
      Channels result;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        if (bias != nullptr) sums[o][v] += static_cast<acc_t>(bias[channel + v]);
        result[v] = static_cast<scalar_t>(sums[o][v]);
      }
      result.store(to + o * window.channels);
    }
  });
}

template <typename scalar_t, int kKernel, int kStride>
void run_channels(const DepthwiseWindow& window, const Conv2dArguments& arguments) {
  constexpr int kVector = kVectorBytes / sizeof(scalar_t);
  const int64_t vectors = window.channels / kVector, runs = ceil_div(window.out_width, kRunOutputs<kStride>);
  const ChannelWork work{
      .window = window,
      .vectors = Divisor<int32_t>(vectors),
      .runs = Divisor<int32_t>(runs),
      .rows = Divisor<int32_t>(window.out_height),
      .count = static_cast<int>(window.images * window.out_height * vectors * runs)};
  const void* const source = window.turned ? arguments.output : arguments.input;
  void* const destination = window.turned ? arguments.input : arguments.output;
  launch(
      "conv2d", conv2d_depthwise_channels_kernel<scalar_t, kKernel, kStride>, blocks_for(work.count, kChannelThreads),
      kChannelThreads, 0, arguments.stream, work, static_cast<const scalar_t*>(source),
      static_cast<const scalar_t*>(arguments.weight), static_cast<const scalar_t*>(arguments.bias),
      static_cast<scalar_t*>(destination));
}

// --- grad_weight

// Taps, and channels of a vector, that a thread sums at once: what registers hold. 7 x 7 takes two passes.
template <typename scalar_t, int kKernel>
struct TapBlock {
  static constexpr int kRows = kKernel == 7 ? 4 : kKernel > 0 ? kKernel : 1;
  static constexpr int kColumns = kKernel > 0 ? kKernel : 8;
  static constexpr int kTaps = kRows * kColumns;
  static constexpr int kMostSums = 128 * 4 / sizeof(accumulator_t<scalar_t>);
  static constexpr int kWidest = kVectorBytes / static_cast<int>(sizeof(scalar_t));
  static constexpr int kVector = kWidest * kTaps > kMostSums ? kWidest / 2 : kWidest;
};

constexpr int kStripOutputs = 4;

// A block sums a block of taps of `lanes` vectors of channels over a slice of the strips of kStripOutputs outputs.
struct ChannelSlices {
  DepthwiseWindow window;
  int lanes, channel_blocks, tap_rows, tap_columns;
  int strips, slice_strips;
  Divisor<int32_t> by_runs, by_rows;
  int64_t slices() const { return std::max<int64_t>(1, ceil_div(strips, slice_strips)); }
};

template <typename scalar_t, int kKernel>
ChannelSlices plan_slices(const DepthwiseWindow& window) {
  using Taps = TapBlock<scalar_t, kKernel>;
  const int64_t vectors = std::max(1, window.channels / Taps::kVector);
  const int64_t runs = ceil_div(window.out_width, kStripOutputs);
  ChannelSlices slices{};
  slices.window = window;
  slices.lanes = 1;
  while (slices.lanes < 32 && slices.lanes < vectors) slices.lanes *= 2;
  slices.channel_blocks = static_cast<int>(ceil_div(vectors, slices.lanes));
  slices.tap_rows = static_cast<int>(ceil_div(window.kernel_h, Taps::kRows));
  slices.tap_columns = static_cast<int>(ceil_div(window.kernel_w, Taps::kColumns));
  slices.strips = static_cast<int>(window.images * window.out_height * runs);
  // Enough blocks to fill a GPU of about 132 SMs eight times over, but with 16 outputs or more for each thread.
  const int64_t at_once = kChannelThreads / slices.lanes;
  const int64_t blocks = int64_t{slices.channel_blocks} * slices.tap_rows * slices.tap_columns;
  const int64_t wanted = std::max<int64_t>(1, std::min(1056 / blocks, slices.strips / (16 / kStripOutputs * at_once)));
  slices.slice_strips = static_cast<int>(std::max<int64_t>(1, ceil_div(slices.strips, wanted)));
  slices.by_runs = Divisor<int32_t>(runs);
  slices.by_rows = Divisor<int32_t>(window.out_height);
  return slices;
}

// weight(c, r, s) = sum over n, p, q of output(n, c, p, q) input(n, c, p stride + r - pad, q stride + s - pad)
//
// Per strip a thread reads 4 vectors of the gradient and, for each row of taps, those of the pixels under them: under 3
// x 3, 22 vectors for 36 multiply-adds of each channel. Threads of the same channels take turns in adding up.
template <typename scalar_t, int kKernel, int kStride>
__global__ void __launch_bounds__(kChannelThreads, kKernel == 3 && kStride == 1 ? 3 : 2)
    conv2d_depthwise_channels_grad_weight_kernel(
        const ChannelSlices slices, const scalar_t* __restrict__ input, const scalar_t* __restrict__ grad_output,
        accumulator_t<scalar_t>* __restrict__ partials) {
  using acc_t = accumulator_t<scalar_t>;
  using Taps = TapBlock<scalar_t, kKernel>;
  constexpr int kVector = Taps::kVector, kPixels = (kStripOutputs - 1) * kStride + Taps::kColumns;
  using Channels = Vector<scalar_t, kVector>;
  acc_t* const shared_sums = reinterpret_cast<acc_t*>(dynamic_shared());  // (tap, lane, channel of the vector)
  const DepthwiseWindow& window = slices.window;
  int block = static_cast<int>(blockIdx.x);
  const int first_column = take_digit(block, slices.tap_columns) * Taps::kColumns,
            first_row = take_digit(block, slices.tap_rows) * Taps::kRows;
  const int first_channel = take_digit(block, slices.channel_blocks) * slices.lanes * kVector, slice = block;
  const int lane = static_cast<int>(threadIdx.x) % slices.lanes, turn = static_cast<int>(threadIdx.x) / slices.lanes;
  const int turns = kChannelThreads / slices.lanes, channel = first_channel + lane * kVector;
  const bool exists = channel < window.channels;

  acc_t sums[Taps::kRows][Taps::kColumns][kVector] = {};
  if (exists) {
    const int begin = slice * slices.slice_strips;
    const int end = slices.strips - begin < slices.slice_strips ? slices.strips : begin + slices.slice_strips;
    for (int strip = begin + turn; strip < end; strip += turns) {
      int n = strip;
      const int q = take_digit(n, slices.by_runs) * kStripOutputs, p = take_digit(n, slices.by_rows);
      const int columns = window.out_width - q < kStripOutputs ? window.out_width - q : kStripOutputs;
      const scalar_t* const gradient =
          grad_output + ((n * window.out_height + p) * window.out_width + q) * window.channels + channel;
      Channels g[kStripOutputs];
#pragma unroll
      for (int o = 0; o < kStripOutputs; ++o) {
        g[o] = Channels{};
        if (o < columns) g[o] = Channels::load(gradient + o * window.channels);
      }
      const int row = p * kStride - window.pad_h + first_row, column = q * kStride - window.pad_w + first_column;
      const scalar_t* const image = input + n * window.height * window.width * window.channels + channel;
#pragma unroll
      for (int r = 0; r < Taps::kRows; ++r) {
        const int h = row + r;
        if (h < 0 || h >= window.height) continue;
        Channels x[kPixels];
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          const int w = column + j;
          x[j] = Channels{};
          if (w >= 0 && w < window.width) x[j] = Channels::load(image + (h * window.width + w) * window.channels);
        }
#pragma unroll
        for (int o = 0; o < kStripOutputs; ++o) {
          // An output beyond the image must not meet an infinite pixel with its zero.
          if (o >= columns) break;
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            const acc_t value = static_cast<acc_t>(g[o][v]);
#pragma unroll
            for (int s = 0; s < Taps::kColumns; ++s) {
              sums[r][s][v] += value * static_cast<acc_t>(x[o * kStride + s][v]);
            }
          }
        }
      }
    }
  }

  for (int now = 0; now < turns; ++now) {
    if (turn == now) {
#pragma unroll
      for (int t = 0; t < Taps::kTaps; ++t) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          acc_t& sum = shared_sums[(t * slices.lanes + lane) * kVector + v];
          sum = now == 0 ? sums[t / Taps::kColumns][t % Taps::kColumns][v]
                         : sum + sums[t / Taps::kColumns][t % Taps::kColumns][v];
        }
      }
    }
    __syncthreads();
  }
  const int block_channels = slices.lanes * kVector;
  for (int i = static_cast<int>(threadIdx.x); i < Taps::kTaps * block_channels; i += kChannelThreads) {
    const int t = i / block_channels, c = first_channel + i % block_channels;
    const int r = first_row + t / Taps::kColumns, s = first_column + t % Taps::kColumns;
    if (c < window.channels && r < window.kernel_h && s < window.kernel_w) {
      partials[(static_cast<int64_t>(slice) * window.channels + c) * window.taps() + r * window.kernel_w + s] =
          shared_sums[i];
    }
  }
}

template <typename scalar_t, int kKernel, int kStride>
void run_grad_weight(const DepthwiseWindow& window, const Conv2dArguments& arguments) {
  using acc_t = accumulator_t<scalar_t>;
  using Taps = TapBlock<scalar_t, kKernel>;
  const ChannelSlices slices = plan_slices<scalar_t, kKernel>(window);
  launch(
      "conv2d", conv2d_depthwise_channels_grad_weight_kernel<scalar_t, kKernel, kStride>,
      slices.slices() * slices.channel_blocks * slices.tap_rows * slices.tap_columns, kChannelThreads,
      int64_t{Taps::kTaps} * slices.lanes * Taps::kVector * static_cast<int64_t>(sizeof(acc_t)), arguments.stream,
      slices, static_cast<const scalar_t*>(arguments.input), static_cast<const scalar_t*>(arguments.output),
      static_cast<acc_t*>(arguments.workspace));
  const int64_t count = int64_t{window.channels} * window.taps();
  launch(
      "conv2d", sum_slices_kernel<scalar_t>, blocks_for(count), kBlockThreads, 0, arguments.stream,
      static_cast<const acc_t*>(arguments.workspace), static_cast<scalar_t*>(arguments.weight), count, slices.slices());
}

}  // namespace

bool depthwise_channels_supports(const DepthwiseWindow& window, const Conv2dProblem& problem) {
  return problem.geometry.channels_last && window.channels % (kVectorBytes / element_size(problem.dtype)) == 0;
}

int64_t depthwise_channels_slices(const DepthwiseWindow& window, const Conv2dProblem& problem) {
  int64_t slices = 0;
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto) {
    slices = plan_slices<typename decltype(tag)::type, side.value>(window).slices();
  });
  return slices;
}

void depthwise_channels_run(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto stride) {
    run_channels<typename decltype(tag)::type, side.value, stride.value>(window, arguments);
  });
}

void depthwise_channels_grad_weight(
    const DepthwiseWindow& window, const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  dispatch_depthwise_window(window, problem.dtype, [&](auto tag, auto side, auto stride) {
    run_grad_weight<typename decltype(tag)::type, side.value, stride.value>(window, arguments);
  });
}

}  // namespace convops
