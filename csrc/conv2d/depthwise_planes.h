// Depthwise convolution of contiguous images: vectors of neighbouring columns of a plane.
//
// A band of a plane is first packed (see packing.h): padding columns added, for strides sorted by remainder, widened.
// That costs a load and a store a vector and makes every read of a block full, whatever the borders. A block is 7 rows
// of 2 vectors of targets, whose sums stay in registers over up to 7 rows of the window. It loads a vector of a packed
// row at each column tap once for all the rows of targets that read it: 7x7 loads 7 * (13 * 2 + 49) vectors for 686
// FMAs. Most of the 13 * 2 are not aligned and take two turns, so that loads (101 a column tap, two a cycle) and FMAs
// (98, two a cycle) are even; 4 rows of 4 vectors need fewer loads and are slower all the same. Rows of padding are
// skipped, which for 31x31 at 28 rows is a quarter of the work. Reached in the first cache, without packing: 40 % of
// the peak of FMAs for 3x3, 60 % for 5x5, 65 to 75 % for 7x7, 85 % for 31x31. Packing adds a quarter for 3x3, a seventh
// for 7x7. In images, 3x3 moves 13 GB/s a core, where a copy moves 27.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

// Rows and vectors of a block, and rows of the window that it takes at once.
constexpr int kBlockRows = kVectorRegisters >= 32 ? 7 : 4;
constexpr int kBlockVectors = 2;
constexpr int kRunRows = 7;
// Rows and columns of taps whose sums a block of grad_weight holds.
constexpr int kGradientRows = kVectorRegisters >= 32 ? 3 : 1;
constexpr int kGradientColumns = 7;

// Calls step(std::integral_constant<int, i>()) for i = 0 ... n - 1.
template <int n, typename Step>
CONVOPS_INLINE void unroll(const Step& step) {
  [&]<int... i>(std::integer_sequence<int, i...>)
      CONVOPS_INLINE_LAMBDA { (step(std::integral_constant<int, i>()), ...); }(std::make_integer_sequence<int, n>());
}

// Taps of an axis that read what its neighbours read one target further on, where targets are `spacing` apart.
struct TapRun {
  int64_t offset, first, count;  // of the first tap; its place in the phase
};

// The distance of targets at which the windows of a phase share most: 1, or with a dilation what that is in steps.
inline int64_t target_spacing(const std::vector<AxisTap>& phase, int64_t step) {
  for (size_t i = 1; i < phase.size(); ++i) {
    const int64_t distance = phase[i].offset - phase[i - 1].offset;
    if (distance > 0 && distance % step == 0) return distance / step;
  }
  return 1;
}

inline std::vector<TapRun> tap_runs(const std::vector<AxisTap>& phase, int64_t distance, int64_t most) {
  std::vector<TapRun> runs;
  for (int64_t i = 0; i < static_cast<int64_t>(phase.size()); ++i) {
    if (!runs.empty() && runs.back().count < most &&
        phase[i].offset == runs.back().offset + runs.back().count * distance) {
      ++runs.back().count;
    } else {
      runs.push_back({phase[i].offset, i, 1});
    }
  }
  return runs;
}

// The columns of packed planes, and their tiles.
struct PlaneColumns {
  explicit PlaneColumns(const CorrelationAxis& axis) : columns(axis, 0, axis.positions()) {
    for (const auto& phase_runs : columns.runs) {
      slots.emplace_back();
      for (const ColumnRun& run : phase_runs) {
        for (int64_t t = 0; t < run.taps; ++t) slots.back().push_back(run.slot + t);
      }
    }
    const auto& slot_of = columns.slot_of_source;
    paired = axis.source_step == 2 && !slot_of.empty();
    for (size_t i = 0; paired && i < slot_of.size(); ++i) {
      paired = slot_of[i] >= 0 && (i < 2 || slot_of[i] == slot_of[i - 2] + 1);
    }
  }

  // Elements from one packed row to the next; a block reads a vector beyond the last target.
  template <typename T>
  int64_t pitch() const {
    return ceil_div(columns.slots + 2 * kLanes<T>, kLanes<T>) * kLanes<T>;
  }
  // Elements before slot 0 that put the first column of the image on a vector's boundary.
  template <typename T>
  int64_t lead() const {
    return columns.slot_of_source.empty() ? 0 : floor_mod(-columns.slot_of_source[0], kLanes<T>);
  }

  TileColumns columns;
  std::vector<std::vector<int64_t>> slots;  // of each tap, by phase
  bool paired;                              // even and odd columns go to two stretches
};

// A row of the image, packed. What is outside the image and zero stays so from one plane to the next.
template <typename scalar_t>
void pack_plane_row(const scalar_t* row, const PlaneColumns& plane, Compute<scalar_t>* packed) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const TileColumns& columns = plane.columns;
  for (const auto& [slot, column] : columns.outside) {
    if (column >= 0) packed[slot] = widen(row[column]);
  }
  const int64_t count = columns.source_end - columns.source_begin;
  if (count <= 0) return;
  const scalar_t* from = row + columns.source_begin;
  const int32_t* slot_of = columns.slot_of_source.data();
  if (columns.in_order) {
    acc_t* to = packed + slot_of[0];
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      prefetch_ahead(from + i);
      store(to + i, load(from + i));
    }
    if (i == count) return;
    if (count >= lanes) {
      store(to + count - lanes, load(from + count - lanes));
    } else {
      store_partial(to, load_partial(from, count), count);
    }
    return;
  }
  int64_t i = 0;
  if (plane.paired) {
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
      const Vector<acc_t> low = load(from + i), high = load(from + i + lanes);
      store(packed + slot_of[i], unzip<false, acc_t>(low, high));
      store(packed + slot_of[i + 1], unzip<true, acc_t>(low, high));
    }
  }
  for (; i < count; ++i) {
    if (slot_of[i] >= 0) packed[slot_of[i]] = widen(from[i]);
  }
}

// What one call of a block kernel reads and writes.
template <typename T>
struct PlaneBlock {
  const T* source;       // packed plane, at the first target's slot 0
  const int64_t* rows;   // elements from there to each row, -1: zeros
  const int64_t* slots;  // of each column tap
  int64_t columns;       // taps
  const T* weights;      // [column tap][row tap]
  bool accumulate;       // to what target holds, instead of to start
  T start;
  T* target;
  int64_t target_row, row_count, count;  // elements between rows; rows and targets in a row
};

// kColumns: the column taps, 0 for any number. A loop over few of them would cost more in mispredicted ends.
template <typename T, int kTaps, int kVectors, int kColumns>
void correlate_plane_block(const PlaneBlock<T>& b) {
  constexpr int lanes = kLanes<T>;
  constexpr int last_vector = kVectors - 1;
  const int64_t tail = b.count - last_vector * lanes;
  Vector<T> sum[kBlockRows][kVectors];
  unroll<kBlockRows>([&](auto r) CONVOPS_INLINE_LAMBDA {
    const T* const from = b.target + r * b.target_row;
    const bool add = b.accumulate && r < b.row_count;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = !add              ? broadcast(b.start)
                  : v < last_vector ? load(from + v * lanes)
                                    : load_partial(from + v * lanes, tail);
    }
  });
  unroll<kBlockRows + kTaps - 1>([&](auto row) CONVOPS_INLINE_LAMBDA {
    constexpr int i = row;
    constexpr int first = i < kTaps ? 0 : i - kTaps + 1, last = i < kBlockRows ? i : kBlockRows - 1;
    if (b.rows[i] < 0) return;
    const T* const from = b.source + b.rows[i];
    const auto add = [&](int64_t s) CONVOPS_INLINE_LAMBDA {
      const T* const row = from + b.slots[s];
      const T* const w = b.weights + s * kTaps;
      Vector<T> x[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        x[v] = load(row + v * lanes);
        CONVOPS_PIN(x[v]);
      }
      unroll<last - first + 1>([&](auto j) CONVOPS_INLINE_LAMBDA {
        constexpr int r = first + j;
        Vector<T> weight = broadcast(w[i - r]);
        if constexpr (kVectors > 1) CONVOPS_PIN(weight);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[r][v] += x[v] * weight;
      });
    };
    if constexpr (kColumns > 0) {
      unroll<kColumns>([&](auto s) CONVOPS_INLINE_LAMBDA { add(s); });
    } else {
      for (int64_t s = 0; s < b.columns; ++s) add(s);
    }
  });
  unroll<kBlockRows>([&](auto r) CONVOPS_INLINE_LAMBDA {
    if (r >= b.row_count) return;
    T* const to = b.target + r * b.target_row;
#pragma GCC unroll 2
    for (int v = 0; v < last_vector; ++v) store(to + v * lanes, sum[r][v]);
    store_partial(to + last_vector * lanes, sum[r][last_vector], tail);
  });
}

template <typename T>
void correlate_plane_block(int64_t taps, int64_t vectors, const PlaneBlock<T>& b) {
  const auto with_vectors = [&]<int kVectors>() {
    const auto any =
        select_instance<kRunRows>(taps, []<int kTaps>() { return &correlate_plane_block<T, kTaps, kVectors, 0>; });
    const auto square = select_instance<kRunRows>(taps, []<int kTaps>() {
      return &correlate_plane_block < T, kTaps, kVectors, kTaps == 3 || kTaps == 5 || kTaps == 7 ? kTaps : 0 > ;
    });
    (b.columns == taps ? square : any)(b);
  };
  static_assert(kBlockVectors == 2);
  vectors == 1 ? with_vectors.template operator()<1>() : with_vectors.template operator()<2>();
}

// Rows of targets of one phase that a block computes, and its runs of rows of the window.
struct PlaneRows {
  int64_t target, step, count;  // the first row, from one to the next, and how many
  int64_t phase;
  struct Run {
    int64_t taps, first;                                  // place of its first tap in the phase
    std::array<int64_t, kBlockRows + kRunRows - 1> rows;  // packed rows in turn, -1: zeros
  };
  std::vector<Run> runs;
};

// The base positions [begin, begin + count) along the rows.
struct PlaneBand {
  PlaneBand(const CorrelationAxis& axis, int64_t begin, int64_t count) : rows(axis, begin, count) {
    for (size_t phase = 0; phase < axis.phases.size(); ++phase) {
      const auto& taps = axis.phases[phase];
      const int64_t spacing = target_spacing(taps, axis.source_step), distance = spacing * axis.source_step;
      std::vector<TapRun> runs = tap_runs(taps, distance, kRunRows);
      if (runs.empty()) runs.push_back({0, 0, 0});  // no tap: the bias is written all the same
      const int64_t in_phase = ceil_div(axis.target - static_cast<int64_t>(phase), axis.target_step);
      const int64_t end = std::min(begin + count, in_phase);
      for (int64_t residue = 0; residue < spacing; ++residue) {
        for (int64_t position = begin + residue; position < end; position += kBlockRows * spacing) {
          PlaneRows rows_of_block{
              position * axis.target_step + static_cast<int64_t>(phase),
              spacing * axis.target_step,
              std::min<int64_t>(kBlockRows, ceil_div(end - position, spacing)),
              static_cast<int64_t>(phase),
              {}};
          for (const TapRun& run : runs) {
            PlaneRows::Run packed{std::max<int64_t>(1, run.count), run.first, {}};
            packed.rows.fill(-1);
            // A row that only targets beyond the last one read is left out, too.
            for (int64_t i = 0; run.count > 0 && i < rows_of_block.count + run.count - 1; ++i) {
              packed.rows[i] = rows.slot(position * axis.source_step + i * distance + run.offset);
            }
            rows_of_block.runs.push_back(packed);
          }
          blocks.push_back(std::move(rows_of_block));
        }
      }
    }
  }

  TileRows rows;
  std::vector<PlaneRows> blocks;
};

// Bands of a plane whose packed rows of that many bytes fit in the first cache, or where windows are high, the second.
inline int64_t band_positions(const CorrelationAxis& axis, int64_t row_bytes) {
  constexpr int64_t kBytes = 32 << 10;
  int64_t count = axis.positions();
  const int64_t least = std::max<int64_t>(2 * axis.sources(1) / axis.source_step, 4 * kBlockRows);
  while (count > least && axis.sources(count) * row_bytes > kBytes) count = ceil_div(count, 2);
  return ceil_div(count, 4 * kBlockRows) * 4 * kBlockRows;
}

// What all planes of a problem share: how a packed plane is correlated with a kernel.
template <typename T>
class PlanePlan {
  static constexpr int lanes = kLanes<T>;

 public:
  PlanePlan(const CorrelationAxis& h, const CorrelationAxis& w)
      : h(h), w(w), columns(w), pitch(columns.template pitch<T>()), lead(columns.template lead<T>()) {
    const int64_t positions = band_positions(h, pitch * sizeof(T));
    for (int64_t begin = 0; begin < h.positions(); begin += positions) {
      bands.emplace_back(h, begin, std::min(positions, h.positions() - begin));
    }
    for (const PlaneBand& band : bands) {
      packed_size = std::max(packed_size, static_cast<int64_t>(band.rows.source.size()) * pitch);
    }
    packed_size += lanes;
  }

  // The kernel that from(row tap, column tap) gives, in the order that blocks read it.
  template <typename From>
  void pack_weights(const From& from, T* packed) const {
    for (size_t row_phase = 0; row_phase < h.phases.size(); ++row_phase) {
      const auto& row_taps = h.phases[row_phase];
      const auto runs = tap_runs(row_taps, target_spacing(row_taps, h.source_step) * h.source_step, kRunRows);
      for (const auto& column_taps : w.phases) {
        for (const TapRun& run : runs) {
          for (const AxisTap& s : column_taps) {
            for (int64_t t = 0; t < run.count; ++t) *packed++ = from(row_taps[run.first + t].tap, s.tap);
          }
        }
      }
    }
  }

  template <typename scalar_t>
  void pack(const PlaneBand& band, const scalar_t* plane, T* packed) const {
    packed += lead;
    for (const int64_t row : band.rows.source) {
      pack_plane_row(plane + row * w.source, columns, packed);
      packed += pitch;
    }
  }

  // The targets of a block of rows and a phase of columns, summed over `sources` packed planes.
  void correlate(
      const PlaneRows& block, int64_t phase, const T* packed, int64_t sources, const T* weights, bool accumulate,
      T start, T* target, int64_t target_row) const {
    const int64_t count = ceil_div(w.target - phase, w.target_step);
    const int64_t taps = static_cast<int64_t>(w.phases[phase].size());
    const int64_t row_taps = static_cast<int64_t>(h.phases[block.phase].size());
    // Where the weights of these two phases are.
    if (row_taps > 0 && taps > 0) {
      weights += h.phases[block.phase][0].order * tap_count(w) + row_taps * w.phases[phase][0].order;
    }
    std::array<int64_t, kBlockRows + kRunRows - 1> row_offsets;
    for (int64_t source = 0; source < sources; ++source) {
      for (const PlaneRows::Run& run : block.runs) {
        for (size_t i = 0; i < row_offsets.size(); ++i) {
          row_offsets[i] = run.rows[i] < 0 ? -1 : run.rows[i] * pitch;
        }
        for (int64_t begin = 0; begin < count; begin += kBlockVectors * lanes) {
          const int64_t width = std::min<int64_t>(kBlockVectors * lanes, count - begin);
          const PlaneBlock<T> b{
              packed + source * packed_size + lead + begin,
              row_offsets.data(),
              columns.slots[phase].data(),
              taps,
              weights + source * h.kernel * w.kernel + run.first * taps,
              accumulate || source > 0 || &run != block.runs.data(),
              start,
              target + begin,
              target_row,
              block.count,
              width};
          correlate_plane_block(run.taps, ceil_div(width, lanes), b);
        }
      }
    }
  }

  CorrelationAxis h, w;
  PlaneColumns columns;
  int64_t pitch, lead, packed_size = 0;
  std::vector<PlaneBand> bands;
};

// Writes rows of sums, by phase of the columns, as rows of targets.
template <typename scalar_t>
void store_phases(const CorrelationAxis& w, const Compute<scalar_t>* sums, int64_t phase_size, scalar_t* row) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  if (w.target_step == 1) {
    for (int64_t i = 0; i < w.target; i += lanes) store_partial(row + i, load(sums + i), w.target - i);
  } else if (w.target_step == 2 && w.phases.size() == 2) {
    for (int64_t i = 0; i < w.target; i += 2 * lanes) {
      const Vector<acc_t> even = load(sums + i / 2), odd = load(sums + phase_size + i / 2);
      store_partial(row + i, zip<false, acc_t>(even, odd), w.target - i);
      store_partial(row + i + lanes, zip<true, acc_t>(even, odd), w.target - i - lanes);
    }
  } else {
    for (int64_t i = 0; i < w.target; ++i) {
      row[i] = narrow<scalar_t>(sums[i % w.target_step * phase_size + i / w.target_step]);
    }
  }
}

// Forward and grad_input (see correlation.h) of contiguous images.
template <typename scalar_t>
void depthwise_planes(
    const Correlation& c, int64_t work, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const PlanePlan<acc_t> plan(c.h, c.w);
  const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
  const int64_t I = c.source_channels, K = c.target_channels, taps = c.h.kernel * c.w.kernel;
  const int64_t bands = static_cast<int64_t>(plan.bands.size());
  // Blocks write targets themselves where those are of their type and next to each other.
  const bool direct = std::is_same_v<scalar_t, acc_t> && c.w.target_step == 1;
  const int64_t sums_row = ceil_div(c.w.positions(), lanes) * lanes, phase_size = kBlockRows * sums_row;
  parallel_for(c.N * c.groups * bands, work, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> packed(I * plan.packed_size), weights(I * taps),
        sums(direct ? 0 : static_cast<int64_t>(c.w.phases.size()) * phase_size);
    std::fill_n(packed.data(), I * plan.packed_size, acc_t(0));
    for (int64_t item = begin; item < end; ++item) {
      const PlaneBand& band = plan.bands[item % bands];
      const int64_t plane = item / bands, group = plane % c.groups;
      if (bands > 1) std::fill_n(packed.data(), I * plan.packed_size, acc_t(0));
      for (int64_t i = 0; i < I; ++i) {
        plan.pack(band, source + (plane * I + i) * source_plane, packed.data() + i * plan.packed_size);
      }
      for (int64_t k = 0; k < K; ++k) {
        const scalar_t* filter = weight + group * c.weight_group + k * c.weight_target;
        for (int64_t i = 0; i < I; ++i) {
          plan.pack_weights(
              [&](int64_t r, int64_t s) {
                return widen(filter[i * c.weight_source + r * c.weight_row + s * c.weight_column]);
              },
              weights.data() + i * taps);
        }
        const acc_t start = bias != nullptr ? widen(bias[group * K + k]) : acc_t(0);
        for (const PlaneRows& block : band.blocks) {
          scalar_t* const to = target + (plane * K + k) * target_plane + block.target * c.w.target;
          const int64_t step = block.step * c.w.target;
          if constexpr (std::is_same_v<scalar_t, acc_t>) {
            if (direct) {
              plan.correlate(block, 0, packed.data(), I, weights.data(), false, start, to, step);
              continue;
            }
          }
          for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
            plan.correlate(
                block, static_cast<int64_t>(phase), packed.data(), I, weights.data(), false, start,
                sums.data() + phase * phase_size, sums_row);
          }
          for (int64_t r = 0; r < block.count; ++r) {
            store_phases(c.w, sums.data() + r * sums_row, phase_size, to + r * step);
          }
        }
      }
    }
  });
}

// --- grad_weight ---

// What one call of a gradient kernel goes through.
template <typename T>
struct GradientBlock {
  const T* source;      // packed plane at slot 0
  const int64_t* rows;  // elements from there to each row, -1: zeros
  int64_t row_count;
  const int64_t* slots;           // of each column tap
  const T* gradient;              // the row that the first row tap pairs with the first row
  int64_t gradient_row, columns;  // elements from one such row to the next; columns of a row
  T* sums;                        // [row tap][column tap][lane]
  int64_t sums_row;
};

// sums += pixels times the gradients of the targets that read them: row i of the source is read through row tap t by
// row i - t of the targets. For 3 x 7 taps 7 + 3 loads, most of the 7 in two turns, and 21 FMAs.
template <typename T, int kRows, int kTaps>
void correlate_plane_gradient(const GradientBlock<T>& b) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[kRows][kTaps];
  unroll<kRows>([&](auto r) CONVOPS_INLINE_LAMBDA {
#pragma GCC unroll 7
    for (int s = 0; s < kTaps; ++s) sum[r][s] = load(b.sums + r * b.sums_row + s * lanes);
  });
  const int64_t whole = b.columns / lanes * lanes;
  const T* gradient = b.gradient;
  Vector<LaneInt<T>> inside;  // the lanes of the last vector of columns
  for (int lane = 0; lane < lanes; ++lane) inside[lane] = whole + lane < b.columns ? -1 : 0;
  for (int64_t i = 0; i < b.row_count; ++i, gradient += b.gradient_row) {
    if (b.rows[i] < 0) continue;
    const T* const from = b.source + b.rows[i];
    const auto add = [&](int64_t j, auto partial) CONVOPS_INLINE_LAMBDA {
      Vector<T> g[kRows];
      unroll<kRows>([&](auto r) CONVOPS_INLINE_LAMBDA {
        g[r] = load(gradient - r * b.gradient_row + j);
        CONVOPS_PIN(g[r]);
      });
      unroll<kTaps>([&](auto s) CONVOPS_INLINE_LAMBDA {
        Vector<T> x = load(from + b.slots[s] + j);
        // Beyond the last column gradients are zero, but pixels need not be finite.
        if constexpr (partial) x = bit_cast<Vector<T>>(bit_cast<Vector<LaneInt<T>>>(x) & inside);
        if constexpr (kRows > 1) CONVOPS_PIN(x);
        unroll<kRows>([&](auto r) CONVOPS_INLINE_LAMBDA { sum[r][s] += x * g[r]; });
      });
    };
    for (int64_t j = 0; j < whole; j += lanes) add(j, std::false_type());
    if (whole < b.columns) add(whole, std::true_type());
  }
  unroll<kRows>([&](auto r) CONVOPS_INLINE_LAMBDA {
#pragma GCC unroll 7
    for (int s = 0; s < kTaps; ++s) store(b.sums + r * b.sums_row + s * lanes, sum[r][s]);
  });
}

// Columns of taps in even parts.
template <int kRows, typename T>
void correlate_plane_gradient(const GradientBlock<T>& block, int64_t columns) {
  const int64_t parts = ceil_div(columns, kGradientColumns);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = part * columns / parts, last = (part + 1) * columns / parts;
    GradientBlock<T> b = block;
    b.slots += first;
    b.sums += first * kLanes<T>;
    select_instance<kGradientColumns>(
        last - first, []<int kTaps>() { return &correlate_plane_gradient<T, kRows, kTaps>; })(b);
  }
}

template <int kRows, typename T>
void correlate_plane_gradient_rows(int64_t rows, const GradientBlock<T>& block, int64_t columns) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return correlate_plane_gradient_rows<kRows - 1>(rows, block, columns);
  }
  correlate_plane_gradient<kRows>(block, columns);
}

template <typename scalar_t>
void depthwise_planes_grad_weight(
    const Correlation& c, int64_t work, const scalar_t* input, const scalar_t* grad_output, scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t R = c.h.kernel, S = c.w.kernel, P = c.h.target, Q = c.w.target, K = c.target_channels;
  const int64_t source_plane = c.h.source * c.w.source, target_plane = P * Q;
  const auto &row_taps = c.h.phases[0], &column_taps = c.w.phases[0];
  const int64_t spacing = target_spacing(row_taps, c.h.source_step), distance = spacing * c.h.source_step;
  const auto runs = tap_runs(row_taps, distance, kGradientRows);
  const PlaneColumns columns(c.w);
  const int64_t pitch = columns.template pitch<acc_t>(), lead = columns.template lead<acc_t>();
  const int64_t gradient_row = ceil_div(Q, lanes) * lanes;
  const int64_t positions = band_positions(c.h, pitch * sizeof(acc_t));
  std::vector<TileRows> bands;
  int64_t packed_rows = 0;
  for (int64_t begin = 0; begin < P; begin += positions) {
    bands.emplace_back(c.h, begin, std::min(positions, P - begin));
    packed_rows = std::max(packed_rows, static_cast<int64_t>(bands.back().source.size()));
  }
  // Slices of images where there are few channels, fixed by the geometry and added in order.
  const int64_t slices = std::clamp<int64_t>(64 / std::max<int64_t>(1, c.groups), 1, std::max<int64_t>(1, c.N));
  const Scratch<acc_t> sums(slices * c.groups * K * R * S);
  parallel_for(slices * c.groups, work, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> packed(packed_rows * pitch + lanes), gradient(std::min(positions, P) * gradient_row),
        lane_sums(K * R * S * lanes);
    std::vector<int64_t> rows;
    std::fill_n(packed.data(), packed_rows * pitch + lanes, acc_t(0));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t slice = item / c.groups, group = item % c.groups;
      std::fill_n(lane_sums.data(), K * R * S * lanes, acc_t(0));
      for (int64_t n = slice * c.N / slices; n < (slice + 1) * c.N / slices; ++n) {
        for (const TileRows& band : bands) {
          if (bands.size() > 1) std::fill_n(packed.data(), packed_rows * pitch + lanes, acc_t(0));
          acc_t* to = packed.data() + lead;
          for (const int64_t row : band.source) {
            pack_plane_row(input + (n * c.groups + group) * source_plane + row * c.w.source, columns, to);
            to += pitch;
          }
          for (int64_t k = 0; k < K; ++k) {
            const scalar_t* from = grad_output + ((n * c.groups + group) * K + k) * target_plane + band.begin * Q;
            for (int64_t p = 0; p < band.count; ++p) {
              for (int64_t q = 0; q < Q; q += lanes) {
                store(gradient.data() + p * gradient_row + q, load_partial(from + p * Q + q, Q - q));
              }
            }
            for (int64_t residue = 0; residue < std::min(spacing, band.count); ++residue) {
              const int64_t count = ceil_div(band.count - residue, spacing);
              for (const TapRun& run : runs) {
                rows.clear();
                for (int64_t i = 0; i < count + run.count - 1; ++i) {
                  const int64_t position = band.begin + residue + i * spacing;
                  const int64_t slot = band.slot(position * c.h.source_step + run.offset);
                  rows.push_back(slot < 0 ? -1 : slot * pitch);
                }
                const auto block = [&](int64_t first, int64_t rows_of_block, int64_t tap) {
                  return GradientBlock<acc_t>{
                      packed.data() + lead,
                      rows.data() + first,
                      rows_of_block,
                      columns.slots[0].data(),
                      gradient.data() + (residue + (first - tap) * spacing) * gradient_row,
                      spacing * gradient_row,
                      Q,
                      lane_sums.data() + (k * R + run.first + tap) * S * lanes,
                      S * lanes};
                };
                // Tap t reads rows [t, t + count). Those that all taps of the run read go together, the others alone.
                const int64_t first = run.count - 1;
                const bool together = first < count;
                if (together) {
                  correlate_plane_gradient_rows<kGradientRows>(run.count, block(first, count - first, 0), S);
                }
                for (int64_t tap = 0; tap < run.count; ++tap) {
                  const int64_t before = together ? first - tap : count, behind = together ? tap : 0;
                  if (before > 0) correlate_plane_gradient<1>(block(tap, before, tap), S);
                  if (behind > 0) correlate_plane_gradient<1>(block(count, behind, tap), S);
                }
              }
            }
          }
        }
      }
      for (int64_t k = 0; k < K; ++k) {
        for (int64_t r = 0; r < R; ++r) {
          for (int64_t s = 0; s < S; ++s) {
            Vector<acc_t> sum = load(lane_sums.data() + ((k * R + r) * S + s) * lanes);
            fold_lanes<lanes>([&](auto by) CONVOPS_INLINE_LAMBDA { sum += rotate<by, acc_t>(sum); });
            sums[((item * K + k) * R + row_taps[r].tap) * S + column_taps[s].tap] = sum[0];
          }
        }
      }
    }
  });
  for (int64_t i = 0; i < c.groups * K * R * S; ++i) {
    acc_t sum = sums[i];
    for (int64_t slice = 1; slice < slices; ++slice) sum += sums[slice * c.groups * K * R * S + i];
    const int64_t s = i % S, r = i / S % R, k = i / (S * R) % K, group = i / (S * R * K);
    grad_weight[group * c.weight_group + k * c.weight_target + r * c.weight_row + s * c.weight_column] =
        narrow<scalar_t>(sum);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
