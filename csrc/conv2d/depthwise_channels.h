// Depthwise convolution over vectors of channels, one filter a channel: of channels_last images, and of contiguous ones
// whose planes are so small that they are better transposed.
//
// A block is a vector of channels of up to 14 neighbouring targets, or two vectors of up to 7, whose sums stay in
// registers over all taps. It reads each pixel of a source row once for up to seven neighbouring taps, whose weights
// are in registers, too: 3x3 loads 3 * (16 + 3) vectors for 126 FMAs, 7x7 7 * (20 + 7) for 686, so that both are bound
// by FMAs where the pixels are in the first cache. That is what the order of the blocks is for: down a band of rows, in
// a tile as wide as a block and as many channels as fit in that cache, so that each pixel comes in once for all R rows
// of the window. Rows and columns of padding are skipped: 31x31 at 28 x 28 is 0.55 of its FLOPs. Reached in the first
// cache: 45 % of the peak of FMAs for 3x3, 60 % for 5x5, 70 % for 7x7, 75 % for 31x31. In images, 3x3 moves 20 GB/s a
// core, where a copy moves 27.
#pragma once

#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

// Targets of a block. As many sums as an FMA is long and two a cycle need are 8, and with weights they must fit.
constexpr int kBlockPixels = kVectorRegisters >= 32 ? 14 : 7;
// Taps of a run at most.
constexpr int kRunTaps = 7;

// The taps of a phase along the columns: runs of as many neighbours as suits their number, then single ones.
struct ColumnTaps {
  ColumnTaps(const std::vector<AxisTap>& phase, int64_t step) {
    const auto follows = [&](size_t i) { return phase[i].offset == phase[i - 1].offset + step; };
    std::vector<int64_t> lengths;
    for (size_t i = 0; i < phase.size(); ++i) {
      if (i > 0 && follows(i)) {
        ++lengths.back();
      } else {
        lengths.push_back(1);
      }
      least = std::min(least, phase[i].offset);
      most = std::max(most, phase[i].offset);
    }
    int64_t fewest = INT64_MAX;
    for (const int64_t taps : {7, 5, 3, 2}) {
      int64_t rest = 0;
      for (const int64_t length : lengths) rest += length % taps;
      if (rest < fewest && rest < static_cast<int64_t>(phase.size())) {
        fewest = rest;
        run_taps = taps;
      }
    }
    std::vector<AxisTap> rest;
    size_t i = 0;
    for (int64_t length : lengths) {
      for (; length >= run_taps && run_taps > 1; length -= run_taps, i += run_taps) {
        runs.push_back(phase[i].offset);
        taps.insert(taps.end(), phase.begin() + i, phase.begin() + i + run_taps);
      }
      for (; length > 0; --length) rest.push_back(phase[i++]);
    }
    for (const AxisTap& tap : rest) singles.push_back(tap.offset);
    taps.insert(taps.end(), rest.begin(), rest.end());
  }

  int64_t run_taps = 1;
  std::vector<int64_t> runs, singles;  // the offsets of their first taps
  std::vector<AxisTap> taps;           // in the order that blocks go through them
  int64_t least = 0, most = 0;         // offsets
};

// A row of the source that a row of targets reads, and the row of the kernel that it does so through.
struct RowTap {
  int64_t source, tap;
};

// What one call of a kernel goes through: one tile of columns, some rows of targets and some vectors of channels.
template <typename scalar_t>
struct DepthwiseBlocks {
  const scalar_t* source;    // the image's pixel 0
  const RowTap* rows;        // of all rows of targets; null: the plan's
  const int64_t* row_begin;  // where those of a row of targets begin
  int64_t begin, end;        // rows of targets
  int64_t vector_begin, vector_end, channels;
  int64_t row, step;    // elements from one row of the source to the next, and between what neighbours read
  int64_t column_step;  // columns between these
  int64_t first;        // elements from a row's start to what the first target reads at offset 0
  int64_t pixel;        // elements of a pixel of the source
  const ColumnTaps* taps;
  const int64_t* columns;      // elements from a row's start to what the first target reads at offset i, -1: zero
  Compute<scalar_t>* filters;  // [vector][row of the kernel][tap in ColumnTaps' order][lane]; grad_weight adds to them
  int64_t filter_size;         // elements of a vector's
  int64_t depth = 1;           // channels of the source that a target sums over, each with filters as above
  const Compute<scalar_t>* bias;
  int64_t paired = 0;  // vectors that come in pairs, with a bias and filters arranged for that
  const Compute<scalar_t>* paired_bias;
  scalar_t* target;  // the first target of row 0, or its gradient
  int64_t target_row, target_step;
};

// The first channel of vector i. Where the last would be partial it repeats channels of the one before it instead.
template <typename T>
int64_t first_channel(int64_t i, int64_t channels) {
  constexpr int lanes = kLanes<T>;
  return channels < lanes ? 0 : std::min(i * lanes, channels - lanes);
}

// Calls visit(first tap of the run in filter, row of the source, offset of the run, its taps as a constant) for all
// runs of a row of targets.
template <int kTaps, typename T, typename scalar_t, typename Visit>
CONVOPS_INLINE void for_each_run(
    const DepthwiseBlocks<scalar_t>& b, int64_t target_row, T* filters, const Visit& visit) {
  constexpr int lanes = kLanes<T>;
  const ColumnTaps& taps = *b.taps;
  const int64_t row_size = static_cast<int64_t>(taps.taps.size()) * lanes;
  const int64_t* const runs = taps.runs.data();
  const int64_t* const runs_end = runs + taps.runs.size();
  const int64_t* const singles_end = taps.singles.data() + taps.singles.size();
  const RowTap* const rows_end = b.rows + b.row_begin[target_row + 1];
  for (const RowTap* r = b.rows + b.row_begin[target_row]; r < rows_end; ++r) {
    T* filter = filters + r->tap * row_size;
    if constexpr (kTaps > 1) {
      for (const int64_t* run = runs; run < runs_end; ++run, filter += kTaps * lanes) {
        visit(filter, r->source * b.row, *run, std::integral_constant<int, kTaps>());
      }
    }
    for (const int64_t* run = taps.singles.data(); run < singles_end; ++run, filter += lanes) {
      visit(filter, r->source * b.row, *run, std::integral_constant<int, 1>());
    }
  }
}

// Calls visit(i, read(pixel)) for the `count` neighbours from an offset on, of which kEdge at either end may be outside
// the image. They come in turn from either half, because neighbours are added to the same sums, of which an FMA waits
// for the one before.
template <int count, int kEdge, typename scalar_t, typename Read, typename Visit>
CONVOPS_INLINE void for_each_pixel(
    const DepthwiseBlocks<scalar_t>& b, const scalar_t* row, int64_t offset, const Read& read, const Visit& visit) {
  constexpr int half = (count + 1) / 2;
  // Hides from the compiler where a pointer came from: it would keep the multiples of the step, more than there are
  // registers.
  const auto advance = [](auto& pointer, int64_t by) CONVOPS_INLINE_LAMBDA {
    pointer += by;
    asm("" : "+r"(pointer));
  };
  if constexpr (2 * kEdge < count) {
    const auto visit_at = [&](int i, const scalar_t* at) CONVOPS_INLINE_LAMBDA {
      if (i >= kEdge && i < count - kEdge) return visit(i, read(at));
      const int64_t column = b.columns[offset + i * b.column_step];
      if (column >= 0) visit(i, read(row + column));
    };
    const scalar_t* low = row + b.first + offset * b.pixel;
    const scalar_t* high = low + half * b.step;
#pragma GCC unroll 10
    for (int i = 0; i < half; ++i, advance(low, b.step), advance(high, b.step)) {
      visit_at(i, low);
      if (i + half < count) visit_at(i + half, high);
    }
  } else {
    const int64_t* low = b.columns + offset;
    const int64_t* high = low + half * b.column_step;
#pragma GCC unroll 10
    for (int i = 0; i < half; ++i, advance(low, b.column_step), advance(high, b.column_step)) {
      if (*low >= 0) visit(i, read(row + *low));
      if (i + half < count && *high >= 0) visit(i + half, read(row + *high));
    }
  }
}

// Pixels at either end of a run that blocks "inside" the image check one by one. Of an image of 56 columns half
// of the blocks lie at its sides, of 28 all; but all blocks pay for it, in long runs more than it gains.
constexpr int kMostCheckedTaps = 5;
constexpr int checked_edge(int taps) {
  return taps <= kMostCheckedTaps ? taps / 2 : 0;
}

// The channels that a block computes at once: those of a vector.
template <typename T>
struct VectorOfChannels {
  using scalar_t = T;
  using Values = Vector<Compute<T>>;
  static constexpr int kVectors = 1;

  CONVOPS_INLINE static void pin(Values& values) { CONVOPS_PIN(values); }
  CONVOPS_INLINE static Values read(const T* from, int64_t count) { return load_partial(from, count); }
  // Of what is computed with, [vector][lane] with `step` elements from a vector to the next.
  CONVOPS_INLINE static Values parameters(const Compute<T>* from, int64_t) { return load(from); }
  CONVOPS_INLINE static void write(T* to, Values values, int64_t count) { store_partial(to, values, count); }
};

// Targets of a block of two vectors: the sums are as many.
constexpr int kPairPixels = 7;

struct TwoVectors {
  Vector<float> first, second;

  CONVOPS_INLINE TwoVectors operator*(const TwoVectors& other) const {
    return {first * other.first, second * other.second};
  }
  CONVOPS_INLINE TwoVectors& operator+=(const TwoVectors& other) {
    first += other.first, second += other.second;
    return *this;
  }
};

// Those of two whole vectors, where registers suffice: neighbours lie in neighbouring cache lines.
template <typename T>
struct PairOfVectors {
  using scalar_t = float;
  using Values = TwoVectors;
  static constexpr int kVectors = 2;
  // Longer runs are better off with a wider block, which reads fewer pixels beyond its own.
  static constexpr int64_t kMostTaps = 5;

  CONVOPS_INLINE static void pin(Values& values) {
    CONVOPS_PIN(values.first);
    CONVOPS_PIN(values.second);
  }
  CONVOPS_INLINE static Values read(const float* from, int64_t) { return parameters(from, kLanes<float>); }
  CONVOPS_INLINE static Values parameters(const float* from, int64_t step) { return {load(from), load(from + step)}; }
  CONVOPS_INLINE static void write(float* to, const Values& values, int64_t) {
    store(to, values.first);
    store(to + kLanes<float>, values.second);
  }
  // Two vectors of parameters as the pair takes them.
  static void arrange(float*, float*) {}
};
template <typename scalar_t>
constexpr bool kTakesPairs = std::is_same_v<scalar_t, float> && kVectorRegisters >= 32;

#ifdef __AVX512BF16__
// Those of bfloat16 are apart by even and odd: each half of a 32-bit lane becomes a float by one instruction, where
// widening half as many takes a shuffle and a shift.
template <>
struct PairOfVectors<bfloat16> : PairOfVectors<float> {
  using scalar_t = bfloat16;
  static constexpr int64_t kMostTaps = INT64_MAX;

  CONVOPS_INLINE static Values read(const bfloat16* from, int64_t) {
    Vector<uint32_t> bits;
    std::memcpy(&bits, from, sizeof(bits));
    return {bit_cast<Vector<float>>(bits << 16), bit_cast<Vector<float>>(bits & 0xffff0000)};
  }
  CONVOPS_INLINE static void write(bfloat16* to, const Values& values, int64_t) {
    const auto zipped = round_and_zip(values.first, values.second);
    std::memcpy(to, &zipped, sizeof(zipped));
  }
  static void arrange(float* first, float* second) {
    float values[32];
    std::copy_n(first, 16, values);
    std::copy_n(second, 16, values + 16);
    for (int i = 0; i < 16; ++i) first[i] = values[2 * i], second[i] = values[2 * i + 1];
  }
};
template <>
inline constexpr bool kTakesPairs<bfloat16> = true;
#endif

// Of vectors vector_begin to vector_end, with bias and filters as Channels takes them.
template <typename Channels, int kPixels, int kTaps, bool kInside, typename scalar_t = typename Channels::scalar_t>
void correlate_pixels(
    const DepthwiseBlocks<scalar_t>& b, const Compute<scalar_t>* bias, int64_t vector_begin, int64_t vector_end) {
  using acc_t = Compute<scalar_t>;
  using Values = typename Channels::Values;
  constexpr int lanes = kLanes<acc_t>, unit = lanes * Channels::kVectors;
  const int64_t channel_lanes = kInside ? unit : std::min<int64_t>(unit, b.channels);
  const auto read = [&](const scalar_t* at) CONVOPS_INLINE_LAMBDA { return Channels::read(at, channel_lanes); };
  for (int64_t target_row = b.begin; target_row < b.end; ++target_row) {
    for (int64_t vector = vector_begin; vector < vector_end; vector += Channels::kVectors) {
      const int64_t channel = first_channel<acc_t>(vector, b.channels);
      const scalar_t* const source = b.source + channel;
      const Values start = bias == nullptr ? Values{} : Channels::parameters(bias + channel, lanes);
      Values sum[kPixels];
#pragma GCC unroll 14
      for (int j = 0; j < kPixels; ++j) sum[j] = start;
      for_each_run<kTaps>(
          b, target_row, static_cast<const acc_t*>(b.filters + vector * b.filter_size),
          [&](const acc_t* filter, int64_t row, int64_t offset, auto run) CONVOPS_INLINE_LAMBDA {
            constexpr int taps = run;
            Values w[taps];
#pragma GCC unroll 7
            for (int t = 0; t < taps; ++t) w[t] = Channels::parameters(filter + t * lanes, b.filter_size);
            for_each_pixel<kPixels + taps - 1, kInside ? checked_edge(taps) : kPixels + taps - 1>(
                b, source + row, offset, read, [&](int i, Values x) CONVOPS_INLINE_LAMBDA {
                  Channels::pin(x);  // loaded once, not by each FMA
#pragma GCC unroll 7
                  for (int t = 0; t < taps; ++t) {
                    if (i - t >= 0 && i - t < kPixels) sum[i - t] += x * w[t];
                  }
                });
          });
      scalar_t* const to = b.target + target_row * b.target_row + channel;
#pragma GCC unroll 14
      for (int j = 0; j < kPixels; ++j) Channels::write(to + j * b.target_step, sum[j], channel_lanes);
    }
  }
}

// filters += the pixels times the gradients of the targets that read them.
template <typename scalar_t, int kPixels, int kTaps, bool kInside>
void correlate_gradients(const DepthwiseBlocks<scalar_t>& b) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t channel_lanes = kInside ? lanes : std::min<int64_t>(lanes, b.channels);
  const auto read = [&](const scalar_t* at)
                        CONVOPS_INLINE_LAMBDA { return kInside ? load(at) : load_partial(at, channel_lanes); };
  for (int64_t target_row = b.begin; target_row < b.end; ++target_row) {
    for (int64_t vector = b.vector_begin; vector < b.vector_end; ++vector) {
      const int64_t channel = first_channel<acc_t>(vector, b.channels);
      const scalar_t* const source = b.source + channel;
      const scalar_t* const from = b.target + target_row * b.target_row + channel;
      Vector<acc_t> gradient[kPixels];
#pragma GCC unroll 14
      for (int j = 0; j < kPixels; ++j) {
        const scalar_t* at = from + j * b.target_step;
        gradient[j] = kInside ? load(at) : load_partial(at, channel_lanes);
      }
      for_each_run<kTaps>(
          b, target_row, b.filters + vector * b.filter_size,
          [&](acc_t* sums, int64_t row, int64_t offset, auto run) CONVOPS_INLINE_LAMBDA {
            constexpr int taps = run, count = kPixels + taps - 1;
            // Sums of their own, added to what there is: long sums in turn would round more.
            Vector<acc_t> low[taps] = {}, high[taps] = {};
            for_each_pixel<count, kInside ? checked_edge(taps) : count>(
                b, source + row, offset, read, [&](int i, Vector<acc_t> x) CONVOPS_INLINE_LAMBDA {
                  CONVOPS_PIN(x);  // loaded once, not by each FMA
#pragma GCC unroll 7
                  for (int t = 0; t < taps; ++t) {
                    if (i - t >= 0 && i - t < kPixels) (i < (count + 1) / 2 ? low : high)[t] += x * gradient[i - t];
                  }
                });
#pragma GCC unroll 7
            for (int t = 0; t < taps; ++t) store(sums + t * lanes, load(sums + t * lanes) + (low[t] + high[t]));
          });
    }
  }
}

// Calls the instance of a template on (kPixels, kTaps, kInside).
template <typename Instance>
CONVOPS_INLINE auto select_blocks(int64_t pixels, int64_t taps, bool inside, Instance instance) {
  const auto with_taps = [&]<int kPixels>() {
    const auto with_inside = [&]<int kTaps>() {
      return inside ? instance.template operator()<kPixels, kTaps, true>()
                    : instance.template operator()<kPixels, kTaps, false>();
    };
    switch (taps) {
      case 7: return with_inside.template operator()<7>();
      case 5: return with_inside.template operator()<5>();
      case 3: return with_inside.template operator()<3>();
      case 2: return with_inside.template operator()<2>();
      default: return with_inside.template operator()<1>();
    }
  };
  switch (pixels) {
    case 14: return with_taps.template operator()<kBlockPixels>();
    case 7: return with_taps.template operator()<7>();
    case 3: return with_taps.template operator()<3>();
    default: return with_taps.template operator()<1>();
  }
}

// A tile of neighbouring columns of targets, all of one phase.
struct ChannelTile {
  int64_t phase, begin, pixels;  // base position of the first target
  bool inside;                   // all that it reads is inside the image
  bool inside_but_edges;         // all but as many pixels at either end of a run as half of its taps
};

// What all images of a problem share. Images are [row][column][pixel] with `pixel` elements from one pixel to the next.
class ChannelPlan {
 public:
  // disjoint: no target is in two tiles (a tile may else repeat targets of another, which costs less than a short one).
  ChannelPlan(const Correlation& c, bool disjoint) : h(c.h), w(c.w) {
    for (const auto& phase : w.phases) taps.emplace_back(phase, w.source_step);
    for (const ColumnTaps& t : taps) least = std::min(least, t.least), most = std::max(most, t.most);
    for (int64_t position = least; position <= (w.positions() - 1) * w.source_step + most; ++position) {
      columns.push_back(w.pixel(position));
    }
    for (size_t phase = 0; phase < w.phases.size(); ++phase) {
      const int64_t count = ceil_div(w.target - static_cast<int64_t>(phase), w.target_step);
      for (int64_t begin = 0; begin < count;) {
        const int64_t left = count - begin;
        int64_t pixels = left >= kBlockPixels ? kBlockPixels : left >= 7 ? 7 : left >= 3 ? 3 : 1;
        if (!disjoint) {
          // The smallest that covers what is left, if so many targets there are at all.
          for (const int64_t most_pixels : {1, 3, 7, kBlockPixels}) {
            if (most_pixels <= count) pixels = most_pixels;
            if (most_pixels >= left) break;
          }
          begin = std::min(begin, count - pixels);
        }
        const int64_t first = begin * w.source_step;
        const bool inside =
            first + taps[phase].least >= 0 && first + (pixels - 1) * w.source_step + taps[phase].most < w.source;
        const auto fits = [&](int64_t offset, int64_t run_taps) {
          const int64_t edge = run_taps / 2 * w.source_step, start = first + offset;
          return start + edge >= 0 && start + (pixels + run_taps - 2) * w.source_step - edge < w.source;
        };
        bool inside_but_edges = true;
        for (const int64_t run : taps[phase].runs) inside_but_edges &= fits(run, taps[phase].run_taps);
        for (const int64_t run : taps[phase].singles) inside_but_edges &= fits(run, 1);
        tiles.push_back({static_cast<int64_t>(phase), begin, pixels, inside, inside_but_edges});
        begin += pixels;
      }
    }
    for (int64_t row = 0; row < h.target; ++row) {
      row_begin.push_back(static_cast<int64_t>(rows.size()));
      for (const AxisTap& tap : h.phases[row % h.target_step]) {
        const int64_t source = h.pixel(row / h.target_step * h.source_step + tap.offset);
        if (source >= 0) rows.push_back({source, tap.tap});
      }
    }
    row_begin.push_back(static_cast<int64_t>(rows.size()));
    int64_t begin = 0;
    for (const ColumnTaps& t : taps) {
      tap_begin.push_back(begin);
      begin += h.kernel * static_cast<int64_t>(t.taps.size());
    }
    tap_begin.push_back(begin);
    of_tap.assign(h.kernel * w.kernel, -1);
    for (const auto& row_phase : h.phases) {
      for (const AxisTap& r : row_phase) {
        for (size_t phase = 0; phase < taps.size(); ++phase) {
          const auto& row = taps[phase].taps;
          for (size_t i = 0; i < row.size(); ++i) {
            of_tap[r.tap * w.kernel + row[i].tap] = tap_begin[phase] + r.tap * row.size() + i;
          }
        }
      }
    }
  }

  // Taps of all phases: the vectors of weights of a vector of channels.
  int64_t size() const { return tap_begin.back(); }

  // How many vectors of channels go down a band of rows together: what fits in the first cache with their weights.
  int64_t vectors_together(int64_t element_bytes, int64_t depth) const {
    constexpr int64_t kBytes = 32 << 10;
    int64_t rows_at_once = 0, columns_at_once = 0;
    for (const auto& phase : h.phases) rows_at_once = std::max<int64_t>(rows_at_once, phase.size());
    columns_at_once = w.sources(kBlockPixels) + w.kernel;
    const int64_t elements = rows_at_once * columns_at_once + (depth - 1) * size();
    return std::max<int64_t>(1, kBytes / std::max<int64_t>(1, elements * element_bytes));
  }

  CorrelationAxis h, w;
  std::vector<ColumnTaps> taps;  // by phase
  int64_t least = 0, most = 0;   // offset along the columns
  std::vector<int64_t> columns;  // the pixel that each position from `least` on reads, -1: none
  std::vector<ChannelTile> tiles;
  std::vector<RowTap> rows;        // of all rows of targets
  std::vector<int64_t> row_begin;  // where those of a row of targets begin
  std::vector<int64_t> tap_begin;  // where the taps of a phase begin
  std::vector<int64_t> of_tap;     // where a tap of the kernel is, -1: no target reads through it
};

// Calls visit(blocks, tile) for all tiles of columns and groups of vectors, in an order that keeps what neighbouring
// rows read in the first cache. Groups begin at multiples of `unit` vectors.
template <template <typename> typename Blocks, typename scalar_t, typename Visit>
void for_each_tile(const ChannelPlan& plan, Blocks<scalar_t> b, const Visit& visit, int64_t unit = 1) {
  constexpr int lanes = kLanes<Compute<scalar_t>>;
  const CorrelationAxis& w = plan.w;
  std::vector<int64_t> columns;
  for (const int64_t column : plan.columns) columns.push_back(column < 0 ? -1 : column * b.pixel);
  scalar_t* const target = b.target;
  const int64_t first = b.vector_begin, count = b.vector_end - first, target_pixel = b.target_step;
  if (b.rows == nullptr) b.rows = plan.rows.data();
  b.row_begin = plan.row_begin.data();
  b.row = w.source * b.pixel;
  b.step = w.source_step * b.pixel;
  b.column_step = w.source_step;
  b.target_row = w.target * target_pixel;
  b.target_step = w.target_step * target_pixel;
  Compute<scalar_t>* const filters = b.filters;
  b.filter_size = b.depth * plan.size() * lanes;
  const int64_t groups = ceil_div(count, plan.vectors_together(lanes * sizeof(scalar_t), b.depth));
  for (int64_t group = 0; group < groups; ++group) {
    b.vector_begin = first + group * (count / unit) / groups * unit;
    b.vector_end = group + 1 == groups ? first + count : first + (group + 1) * (count / unit) / groups * unit;
    for (const ChannelTile& tile : plan.tiles) {
      b.first = tile.begin * b.step;
      b.taps = &plan.taps[tile.phase];
      b.columns = columns.data() + tile.begin * w.source_step - plan.least;
      b.filters = filters + plan.tap_begin[tile.phase] * lanes;
      b.target = target + (tile.begin * w.target_step + tile.phase) * target_pixel;
      visit(b, tile);
    }
  }
}

inline bool is_inside(const ChannelTile& tile, const ColumnTaps& taps) {
  return taps.run_taps <= kMostCheckedTaps ? tile.inside_but_edges : tile.inside;
}

template <typename scalar_t>
void correlate_channels(const ChannelPlan& plan, const DepthwiseBlocks<scalar_t>& blocks) {
  const auto visit = [](DepthwiseBlocks<scalar_t> b, const ChannelTile& tile) {
    const bool inside = is_inside(tile, *b.taps) && b.channels >= kLanes<Compute<scalar_t>>;
    int64_t vector = b.vector_begin;
    if constexpr (kTakesPairs<scalar_t>) {
      using Pair = PairOfVectors<scalar_t>;
      const int64_t end = b.taps->run_taps > Pair::kMostTaps ? vector : std::min(b.paired, b.vector_end);
      DepthwiseBlocks<scalar_t> part = b;
      for (int64_t rest = tile.pixels; rest > 0 && vector < end; rest -= kPairPixels) {
        const int64_t pixels = std::min<int64_t>(rest, kPairPixels);
        select_blocks(pixels, b.taps->run_taps, inside, []<int kPixels, int kTaps, bool kInside>() {
          return &correlate_pixels<Pair, std::min(kPixels, kPairPixels), kTaps, kInside>;
        })(part, b.paired_bias, vector, end);
        part.first += kPairPixels * b.step;
        part.columns += kPairPixels * b.column_step;
        part.target += kPairPixels * b.target_step;
      }
      vector = std::max(vector, end);
    }
    if (vector == b.vector_end) return;
    select_blocks(tile.pixels, b.taps->run_taps, inside, []<int kPixels, int kTaps, bool kInside>() {
      return &correlate_pixels<VectorOfChannels<scalar_t>, kPixels, kTaps, kInside>;
    })(b, b.bias, vector, b.vector_end);
  };
  for_each_tile(plan, blocks, visit, kTakesPairs<scalar_t> ? 2 : 1);
}

template <typename scalar_t>
void correlate_channel_gradients(const ChannelPlan& plan, const DepthwiseBlocks<scalar_t>& blocks) {
  for_each_tile(plan, blocks, [](const DepthwiseBlocks<scalar_t>& b, const ChannelTile& tile) {
    const bool inside = is_inside(tile, *b.taps) && b.channels >= kLanes<Compute<scalar_t>>;
    select_blocks(tile.pixels, b.taps->run_taps, inside, []<int kPixels, int kTaps, bool kInside>() {
      return &correlate_gradients<scalar_t, kPixels, kTaps, kInside>;
    })(b);
  });
}

// The filters of one vector of channels, `stride` apart in the weight, as [tap in the plan's order][lane].
template <typename scalar_t>
void pack_filters(
    const ChannelPlan& plan, const scalar_t* weight, int64_t stride, int64_t count, Compute<scalar_t>* packed) {
  constexpr int lanes = kLanes<Compute<scalar_t>>;
  const int64_t taps = static_cast<int64_t>(plan.of_tap.size());
  for (int64_t tap = 0; tap < taps; tap += lanes) {
    transpose_tile(
        weight + tap, stride, count, std::min<int64_t>(lanes, taps - tap),
        [&](int64_t j, Vector<Compute<scalar_t>> filters) {
          if (plan.of_tap[tap + j] >= 0) store(packed + plan.of_tap[tap + j] * lanes, filters);
        });
  }
}

// to[lane * stride + i] = vector(i)[lane], for `size` vectors and some of their lanes.
template <typename scalar_t, typename VectorAt>
CONVOPS_INLINE void store_transposed(
    int64_t size, int64_t first_lane, int64_t end_lane, const VectorAt& vector_at, int64_t stride, scalar_t* to) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  for (int64_t i = 0; i < size; i += lanes) {
    const int64_t width = std::min<int64_t>(lanes, size - i);
    Vector<acc_t> tile[lanes] = {};
    if (width == lanes) {
#pragma GCC unroll 16
      for (int j = 0; j < lanes; ++j) tile[j] = vector_at(i + j);
    } else {
      for (int64_t j = 0; j < width; ++j) tile[j] = vector_at(i + j);
    }
    transpose<acc_t>(tile);
    if (width == lanes && first_lane == 0 && end_lane == lanes) {
#pragma GCC unroll 16
      for (int lane = 0; lane < lanes; ++lane) store(to + lane * stride + i, tile[lane]);
    } else {
      for (int64_t lane = first_lane; lane < end_lane; ++lane) store_partial(to + lane * stride + i, tile[lane], width);
    }
  }
}

// The filters' gradients from sums in that order, which is that of a forward plan: every tap is in it.
template <typename scalar_t>
void unpack_filters(
    const ChannelPlan& plan, const Compute<scalar_t>* packed, int64_t first_lane, int64_t end_lane, int64_t stride,
    scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  store_transposed(
      static_cast<int64_t>(plan.of_tap.size()), first_lane, end_lane,
      [&](int64_t tap) CONVOPS_INLINE_LAMBDA { return load(packed + plan.of_tap[tap] * kLanes<acc_t>); }, stride,
      grad_weight);
}

// Partial sums of the filters' gradients, [slice][vector of channels][tap][lane], added in order and written.
template <typename scalar_t>
void add_slices(
    const Correlation& c, const ChannelPlan& plan, int64_t slices, Compute<scalar_t>* sums, scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t vectors = ceil_div(c.groups, lanes), size = plan.size() * lanes;
  parallel_for(vectors, slices * vectors * size, [&](int64_t begin, int64_t end) {
    for (int64_t vector = begin; vector < end; ++vector) {
      acc_t* const sum = sums + vector * size;
      for (int64_t slice = 1; slice < slices; ++slice) {
        const acc_t* const part = sum + slice * vectors * size;
        for (int64_t i = 0; i < size; i += lanes) store(sum + i, load(sum + i) + load(part + i));
      }
      // Not the channels that the last vector repeats: another thread may be writing them.
      unpack_filters(
          plan, sum, vector * lanes - first_channel<acc_t>(vector, c.groups), std::min<int64_t>(lanes, c.groups),
          c.weight_group, grad_weight + first_channel<acc_t>(vector, c.groups) * c.weight_group);
    }
  });
}

// Forward and grad_input (see correlation.h) of channels_last images.
template <typename scalar_t>
void depthwise_channels(
    const Correlation& c, int64_t work, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const ChannelPlan plan(c, false);
  const int64_t C = c.groups, vectors = ceil_div(C, lanes);
  const Scratch<acc_t> filters(vectors * plan.size() * lanes), wide_bias(C);
  for (int64_t i = 0; i < vectors; ++i) {
    pack_filters(
        plan, weight + first_channel<acc_t>(i, C) * c.weight_group, c.weight_group, std::min<int64_t>(lanes, C),
        filters.data() + i * plan.size() * lanes);
  }
  for (int64_t i = 0; bias != nullptr && i < C; ++i) wide_bias[i] = widen(bias[i]);
  // The vectors that come in pairs.
  int64_t paired = 0;
  Scratch<acc_t> paired_bias(C);
  if constexpr (kTakesPairs<scalar_t>) {
    using Pair = PairOfVectors<scalar_t>;
    paired = C / (2 * lanes) * 2;
    std::copy_n(wide_bias.data(), bias == nullptr ? 0 : C, paired_bias.data());
    for (int64_t i = 0; i < paired * lanes; i += 2 * lanes) {
      acc_t* const first = filters.data() + i * plan.size();
      for (int64_t tap = 0; tap < plan.size(); ++tap) {
        Pair::arrange(first + tap * lanes, first + (plan.size() + tap) * lanes);
      }
      if (bias != nullptr) Pair::arrange(paired_bias.data() + i, paired_bias.data() + i + lanes);
    }
  }
  // Bands of rows whose pixels stay in the second cache from one group of channels to the next.
  constexpr int64_t kBytes = 512 << 10, kItems = 64;
  const int64_t row_bytes = c.w.source * C * static_cast<int64_t>(sizeof(scalar_t));
  int64_t band = std::max<int64_t>(1, kBytes / std::max<int64_t>(1, row_bytes) * c.h.target_step / c.h.source_step);
  band = std::min(band, ceil_div(c.N * c.h.target, kItems));
  band = std::clamp<int64_t>(band, std::min<int64_t>(8, c.h.target), c.h.target);
  const int64_t bands = ceil_div(c.h.target, band);
  parallel_for(c.N * bands, work, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / bands, first = item % bands * c.h.target / bands,
                    last = (item % bands + 1) * c.h.target / bands;
      DepthwiseBlocks<scalar_t> blocks{};
      blocks.source = source + n * c.h.source * c.w.source * C;
      blocks.begin = first, blocks.end = last;
      blocks.vector_end = vectors, blocks.channels = C;
      blocks.pixel = blocks.target_step = C;
      blocks.filters = filters.data();
      blocks.bias = bias == nullptr ? nullptr : wide_bias.data();
      blocks.paired = paired;
      blocks.paired_bias = bias == nullptr ? nullptr : paired_bias.data();
      blocks.target = target + n * c.h.target * c.w.target * C;
      correlate_channels(plan, blocks);
    }
  });
}

template <typename scalar_t>
void depthwise_channels_grad_weight(
    const Correlation& c, int64_t work, const scalar_t* input, const scalar_t* grad_output, scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const ChannelPlan plan(c, true);
  const int64_t C = c.groups, P = c.h.target, vectors = ceil_div(C, lanes), size = vectors * plan.size() * lanes;
  // Slices of rows of targets, fixed by the geometry and added in order; each is cut into groups of channels.
  constexpr int64_t kItems = 64, kBytes = 4 << 20;
  const int64_t groups = std::min<int64_t>(ceil_div(C, 128), kItems);
  const int64_t most = std::max<int64_t>(8, kBytes / (std::max<int64_t>(1, size) * sizeof(acc_t)));
  const int64_t slices = std::clamp<int64_t>(std::min({kItems / groups, most, c.N * P / 8}), 1, kItems);
  const Scratch<acc_t> sums(slices * size);
  parallel_for(slices * groups, work, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t slice = item / groups, group = item % groups;
      const int64_t first = group * vectors / groups, last = (group + 1) * vectors / groups;
      acc_t* slice_sums = sums.data() + slice * size;
      std::fill(slice_sums + first * plan.size() * lanes, slice_sums + last * plan.size() * lanes, acc_t(0));
      const int64_t rows_end = (slice + 1) * c.N * P / slices;
      for (int64_t row = slice * c.N * P / slices; row < rows_end;) {
        const int64_t n = row / P, row_end = std::min(rows_end, (n + 1) * P);
        DepthwiseBlocks<scalar_t> blocks{};
        blocks.source = input + n * c.h.source * c.w.source * C;
        blocks.begin = row - n * P, blocks.end = row_end - n * P;
        blocks.vector_begin = first, blocks.vector_end = last, blocks.channels = C;
        blocks.pixel = blocks.target_step = C;
        blocks.filters = slice_sums;
        blocks.target = const_cast<scalar_t*>(grad_output) + n * P * c.w.target * C;
        correlate_channel_gradients(plan, blocks);
        row = row_end;
      }
    }
  });
  add_slices(c, plan, slices, sums.data(), grad_weight);
}

// --- small planes, gathered ---

// Planes as vectors of channels: [pixel][lane].
template <typename scalar_t>
void gather_planes(const scalar_t* planes, int64_t plane, int64_t count, Compute<scalar_t>* packed) {
  constexpr int lanes = kLanes<Compute<scalar_t>>;
  for (int64_t i = 0; i < plane; i += lanes) {
    transpose_tile(
        planes + i, plane, count, std::min<int64_t>(lanes, plane - i),
        [&](int64_t j, Vector<Compute<scalar_t>> pixel) { store(packed + (i + j) * lanes, pixel); });
  }
}

// The blocks of an image of one vector of channels.
template <typename T>
DepthwiseBlocks<T> gathered_blocks(const Correlation& c, T* source, T* filters, T* target) {
  DepthwiseBlocks<T> blocks{};
  blocks.source = source;
  blocks.end = c.h.target;
  blocks.vector_end = 1;
  blocks.channels = blocks.pixel = blocks.target_step = kLanes<T>;
  blocks.filters = filters;
  blocks.target = target;
  return blocks;
}

// Forward and grad_input of contiguous images with one filter a channel. A 16 x 16 transposition is 64 shuffles, one a
// cycle: 4 cycles for each vector of pixels in and as many out, against the 4.5 of 3x3's FMAs, which in a plane of 7
// columns would fill 7 lanes of 16.
template <typename scalar_t>
void depthwise_gathered(
    const Correlation& c, int64_t work, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const ChannelPlan plan(c, false);
  const int64_t C = c.groups, vectors = ceil_div(C, lanes), count = std::min<int64_t>(lanes, C);
  const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
  parallel_for(vectors * c.N, work, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> pixels(source_plane * lanes), targets(target_plane * lanes), filters(plan.size() * lanes),
        start(lanes);
    auto blocks = gathered_blocks<acc_t>(c, pixels.data(), filters.data(), targets.data());
    for (int64_t item = begin; item < end; ++item) {
      const int64_t vector = item / c.N, channel = first_channel<acc_t>(vector, C);
      if (item == begin || item % c.N == 0) {
        pack_filters(plan, weight + channel * c.weight_group, c.weight_group, count, filters.data());
        if (bias != nullptr) store(start.data(), load_partial(bias + channel, count));
        blocks.bias = bias == nullptr ? nullptr : start.data();
      }
      const int64_t plane = item % c.N * C + channel;
      gather_planes(source + plane * source_plane, source_plane, count, pixels.data());
      correlate_channels(plan, blocks);
      store_transposed(
          target_plane, vector * lanes - channel, count,
          [&](int64_t i) CONVOPS_INLINE_LAMBDA { return load(targets.data() + i * lanes); }, target_plane,
          target + plane * target_plane);
    }
  });
}

template <typename scalar_t>
void depthwise_gathered_grad_weight(
    const Correlation& c, int64_t work, const scalar_t* input, const scalar_t* grad_output, scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const ChannelPlan plan(c, true);
  const int64_t C = c.groups, vectors = ceil_div(C, lanes), count = std::min<int64_t>(lanes, C);
  const int64_t size = plan.size() * lanes;
  const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
  // Slices of images, fixed by the geometry and added in order.
  const int64_t slices = std::clamp<int64_t>(64 / std::max<int64_t>(1, vectors), 1, std::max<int64_t>(1, c.N));
  const Scratch<acc_t> sums(slices * vectors * size);
  parallel_for(slices * vectors, work, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> pixels(source_plane * lanes), gradients(target_plane * lanes);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t slice = item / vectors, channel = first_channel<acc_t>(item % vectors, C);
      acc_t* const item_sums = sums.data() + item * size;
      std::fill_n(item_sums, size, acc_t(0));
      for (int64_t n = slice * c.N / slices; n < (slice + 1) * c.N / slices; ++n) {
        gather_planes(input + (n * C + channel) * source_plane, source_plane, count, pixels.data());
        gather_planes(grad_output + (n * C + channel) * target_plane, target_plane, count, gradients.data());
        correlate_channel_gradients(plan, gathered_blocks<acc_t>(c, pixels.data(), item_sums, gradients.data()));
      }
    }
  });
  add_slices(c, plan, slices, sums.data(), grad_weight);
}

}  // namespace CONVOPS_ISA
}  // namespace convops
