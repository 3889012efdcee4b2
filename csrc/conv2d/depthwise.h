// Depthwise convolution: one input channel a group, so that nothing is shared between output channels and a matrix
// product would be one column wide. Contiguous images are vectorised over the columns of a plane, channels_last ones
// over channels. 2 N K P Q R S FLOPs against (N C H W + N K P Q) elements of memory: small windows are bound by memory,
// large ones by the one load that each FMA needs.
#pragma once

#include "packing.h"

namespace convops {
namespace CONVOPS_ISA {

// --- contiguous: planes ---

// A plane with padding columns added and, for strides, columns sorted by remainder (see packing.h).
template <typename scalar_t>
void pack_plane(
    const scalar_t* plane, const CorrelationAxis& axis, const TileRows& rows, const TileColumns& columns,
    Compute<scalar_t>* packed) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t stretch = columns.source_end - columns.source_begin;
  const int32_t* slot_of = columns.slot_of_source.data();
  for (const int64_t h : rows.source) {
    const scalar_t* whole = plane + h * axis.source;
    for (const auto& [slot, column] : columns.outside) packed[slot] = column < 0 ? acc_t(0) : widen(whole[column]);
    const scalar_t* from = whole + columns.source_begin;
    if (columns.in_order && stretch > 0) {
      for (int64_t w = 0; w < stretch; w += lanes)
        store_partial(packed + slot_of[0] + w, load_partial(from + w, stretch - w), stretch - w);
    } else {
      for (int64_t w = 0; w < stretch; ++w) {
        if (slot_of[w] >= 0) packed[slot_of[w]] = widen(from[w]);
      }
    }
    packed += columns.slots;
  }
}

// A source row and the scalar that multiplies it.
template <typename T>
struct WeightedRow {
  const T* source;
  T weight;
};

// sums[0 : kVectors * lanes] += sum over rows of weight * source[0 : ...]; only the first `count` lanes are read.
template <typename T, int kVectors>
void accumulate_rows(const WeightedRow<T>* rows, int64_t row_count, int64_t count, T* sums) {
  constexpr int lanes = kLanes<T>;
  constexpr int last = kVectors - 1;
  Vector<T> sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sum[v] = load(sums + v * lanes);
  const bool full = count == kVectors * lanes;
  for (int64_t i = 0; i < row_count; ++i) {
    const T* p = rows[i].source;
    const Vector<T> w = broadcast(rows[i].weight);
#pragma GCC unroll 8
    for (int v = 0; v < last; ++v) sum[v] += load(p + v * lanes) * w;
    sum[last] += (full ? load(p + last * lanes) : load_partial(p + last * lanes, count - last * lanes)) * w;
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(sums + v * lanes, sum[v]);
}

// Forward and grad_input (see correlation.h) of contiguous images.
template <typename scalar_t>
void depthwise_planes(
    const Correlation& c, int64_t work, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int64_t chunk = 8 * kLanes<acc_t>;
  const int64_t source_plane = c.h.source * c.w.source;
  const int64_t source_pixel = c.groups * c.source_channels, target_pixel = c.groups * c.target_channels;
  const TileRows rows(c.h, 0, c.h.positions());
  const TileColumns columns(c.w, 0, c.w.positions());
  const int64_t packed_plane = static_cast<int64_t>(rows.source.size()) * columns.slots;
  parallel_for(c.N * c.groups, work, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> packed(c.source_channels * packed_plane), sums(ceil_div(c.w.positions(), chunk) * chunk),
        row(c.w.target);
    std::vector<WeightedRow<acc_t>> weighted;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / c.groups, group = item % c.groups;
      for (int64_t i = 0; i < c.source_channels; ++i) {
        pack_plane(
            source + (n * source_pixel + group * c.source_channels + i) * source_plane, c.w, rows, columns,
            packed.data() + i * packed_plane);
      }
      for (int64_t k = 0; k < c.target_channels; ++k) {
        const int64_t channel = group * c.target_channels + k;
        const acc_t start = bias != nullptr ? widen(bias[channel]) : acc_t(0);
        const scalar_t* filter = weight + group * c.weight_group + k * c.weight_target;
        for (int64_t h = 0; h < c.h.target; ++h) {
          const int64_t position = h / c.h.target_step;
          for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
            weighted.clear();
            for (int64_t i = 0; i < c.source_channels; ++i) {
              for (const AxisTap& r : c.h.phases[h % c.h.target_step]) {
                const int64_t slot = rows.slot(position * c.h.source_step + r.offset);
                if (slot < 0) continue;
                const acc_t* packed_row = packed.data() + i * packed_plane + slot * columns.slots;
                const scalar_t* filter_row = filter + i * c.weight_source + r.tap * c.weight_row;
                const AxisTap* s = c.w.phases[phase].data();
                for (const ColumnRun& run : columns.runs[phase]) {
                  for (int64_t t = 0; t < run.taps; ++t, ++s) {
                    weighted.push_back({packed_row + run.slot + t, widen(filter_row[s->tap * c.weight_column])});
                  }
                }
              }
            }
            const int64_t count = ceil_div(c.w.target - static_cast<int64_t>(phase), c.w.target_step);
            std::fill_n(sums.data(), ceil_div(count, chunk) * chunk, start);
            for (int64_t j = 0; j < count; j += chunk) {
              const int64_t width = std::min(chunk, count - j);
              select_instance<8>(ceil_div(width, kLanes<acc_t>), []<int N>() { return &accumulate_rows<acc_t, N>; })(
                  weighted.data(), static_cast<int64_t>(weighted.size()), width, sums.data() + j);
              for (auto& w : weighted) w.source += chunk;
            }
            for (int64_t j = 0; j < count; ++j) row[j * c.w.target_step + static_cast<int64_t>(phase)] = sums[j];
          }
          scalar_t* to = target + ((n * target_pixel + channel) * c.h.target + h) * c.w.target;
          constexpr int lanes = kLanes<acc_t>;
          for (int64_t w = 0; w < c.w.target; w += lanes) {
            const int64_t width = std::min<int64_t>(lanes, c.w.target - w);
            store_partial(to + w, load_partial(row.data() + w, width), width);
          }
        }
      }
    }
  });
}

// products[t] += sum over rows i and columns j of x[i][taps[t] + j] * gradient[i][j], for kTaps taps of one kernel row.
template <typename T, int kTaps>
void correlate_rows(
    const T* const* x, const int64_t* taps, const T* gradient, int64_t row_count, int64_t columns, T* products) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[kTaps] = {};
  for (int64_t i = 0; i < row_count; ++i, gradient += columns) {
    if (x[i] == nullptr) continue;
    for (int64_t j = 0; j < columns; j += lanes) {
      const int64_t count = columns - j;
      const Vector<T> g = load_partial(gradient + j, count);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) sum[t] += load_partial(x[i] + taps[t] + j, count) * g;
    }
  }
  for (int t = 0; t < kTaps; ++t) {
    for (int lane = 0; lane < lanes; ++lane) products[t] += sum[t][lane];
  }
}

template <typename scalar_t>
void depthwise_planes_grad_weight(
    const Correlation& c, int64_t work, const scalar_t* input, const scalar_t* grad_output, scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t R = c.h.kernel, S = c.w.kernel, K = c.target_channels;
  const int64_t source_plane = c.h.source * c.w.source, target_plane = c.h.target * c.w.target;
  const TileRows rows(c.h, 0, c.h.positions());
  const TileColumns columns(c.w, 0, c.w.positions());
  std::vector<int64_t> tap_slots;
  for (const ColumnRun& run : columns.runs[0]) {
    for (int64_t t = 0; t < run.taps; ++t) tap_slots.push_back(run.slot + t);
  }
  // One task a channel: it sums over images in order.
  parallel_for(c.groups, work, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> packed(static_cast<int64_t>(rows.source.size()) * columns.slots), gradient(target_plane),
        sums(K * R * S), plane_sums(S);
    std::vector<const acc_t*> tap_rows(c.h.target);
    for (int64_t group = begin; group < end; ++group) {
      std::fill_n(sums.data(), K * R * S, acc_t(0));
      for (int64_t n = 0; n < c.N; ++n) {
        pack_plane(input + (n * c.groups + group) * source_plane, c.w, rows, columns, packed.data());
        for (int64_t k = 0; k < K; ++k) {
          const scalar_t* from = grad_output + ((n * c.groups + group) * K + k) * target_plane;
          for (int64_t i = 0; i < target_plane; i += lanes) {
            store_partial(gradient.data() + i, load_partial(from + i, target_plane - i), target_plane - i);
          }
          for (const AxisTap& r : c.h.phases[0]) {
            for (int64_t p = 0; p < c.h.target; ++p) {
              const int64_t slot = rows.slot(p * c.h.source_step + r.offset);
              tap_rows[p] = slot < 0 ? nullptr : packed.data() + slot * columns.slots;
            }
            std::fill_n(plane_sums.data(), S, acc_t(0));
            for (int64_t s = 0; s < S; s += 8) {
              select_instance<8>(std::min<int64_t>(8, S - s), []<int N>() {
                return &correlate_rows<acc_t, N>;
              })(tap_rows.data(), tap_slots.data() + s, gradient.data(), c.h.target, c.w.target, plane_sums.data() + s);
            }
            for (int64_t s = 0; s < S; ++s) sums[(k * R + r.tap) * S + c.w.phases[0][s].tap] += plane_sums[s];
          }
        }
      }
      for (int64_t k = 0; k < K; ++k) {
        for (int64_t r = 0; r < R; ++r) {
          for (int64_t s = 0; s < S; ++s) {
            grad_weight[group * c.weight_group + k * c.weight_target + r * c.weight_row + s * c.weight_column] =
                narrow<scalar_t>(sums[(k * R + r) * S + s]);
          }
        }
      }
    }
  });
}

// --- channels_last: vectors of channels, one filter a channel ---

// The weight as [tap][channel].
template <typename scalar_t>
void pack_filters(const Correlation& c, const scalar_t* weight, Compute<scalar_t>* packed) {
  for (int64_t r = 0; r < c.h.kernel; ++r) {
    for (int64_t s = 0; s < c.w.kernel; ++s) {
      for (int64_t g = 0; g < c.groups; ++g) {
        *packed++ = widen(weight[g * c.weight_group + r * c.weight_row + s * c.weight_column]);
      }
    }
  }
}

// targets[j] = init + sum over row taps and column taps of source * filter, for kPixels targets and one vector of
// channels. source points at the first target's column 0 tap offset; only lanes < count are read and written.
template <typename scalar_t, int kPixels>
CONVOPS_INLINE void depthwise_pixels(
    const scalar_t* const* tap_rows, const int64_t* row_taps, int64_t row_count, const AxisTap* columns,
    int64_t column_count, int64_t S, int64_t C, int64_t source_step, int64_t target_step,
    const Compute<scalar_t>* filters, Vector<Compute<scalar_t>> init, int64_t count, scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  Vector<acc_t> sum[kPixels];
#pragma GCC unroll 8
  for (int j = 0; j < kPixels; ++j) sum[j] = init;
  for (int64_t i = 0; i < row_count; ++i) {
    for (const AxisTap* s = columns; s < columns + column_count; ++s) {
      const Vector<acc_t> w = load_partial(filters + (row_taps[i] * S + s->tap) * C, count);
      const scalar_t* x = tap_rows[i] + s->offset * C;
#pragma GCC unroll 8
      for (int j = 0; j < kPixels; ++j) sum[j] += load_partial(x + j * source_step, count) * w;
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kPixels; ++j) store_partial(target + j * target_step, sum[j], count);
}

template <typename scalar_t>
void depthwise_channels(
    const Correlation& c, int64_t work, const scalar_t* source, const scalar_t* weight, const scalar_t* bias,
    scalar_t* target) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  constexpr int kPixels = 8;
  const int64_t C = c.groups, S = c.w.kernel;
  const Scratch<acc_t> filters(c.h.kernel * S * C);
  pack_filters(c, weight, filters.data());
  parallel_for(c.N * c.h.target, work, [&](int64_t begin, int64_t end) {
    std::vector<const scalar_t*> tap_rows(c.h.kernel);
    std::vector<int64_t> row_taps(c.h.kernel);
    std::vector<AxisTap> inside;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / c.h.target, h = item % c.h.target;
      int64_t row_count = 0;
      for (const AxisTap& r : c.h.phases[h % c.h.target_step]) {
        const int64_t row = c.h.pixel(h / c.h.target_step * c.h.source_step + r.offset);
        if (row < 0) continue;
        tap_rows[row_count] = source + (n * c.h.source + row) * c.w.source * C;
        row_taps[row_count++] = r.tap;
      }
      std::vector<const scalar_t*> at(row_count);
      for (size_t phase = 0; phase < c.w.phases.size(); ++phase) {
        const auto& taps = c.w.phases[phase];
        int64_t least = 0, most = 0;
        for (const AxisTap& s : taps) {
          least = std::min(least, s.offset);
          most = std::max(most, s.offset);
        }
        const int64_t count = ceil_div(c.w.target - static_cast<int64_t>(phase), c.w.target_step);
        for (int64_t j = 0; j < count;) {
          const int64_t first = j * c.w.source_step;
          const bool interior =
              j + kPixels <= count && first + least >= 0 && (j + kPixels - 1) * c.w.source_step + most < c.w.source;
          // Near a border go pixel by pixel, with the taps that read something, from where they read it.
          const AxisTap* columns = taps.data();
          int64_t column_count = static_cast<int64_t>(taps.size());
          if (!interior) {
            inside.clear();
            for (const AxisTap& s : taps) {
              const int64_t column = c.w.pixel(first + s.offset);
              if (column >= 0) inside.push_back({s.tap, column - first, s.order});
            }
            columns = inside.data();
            column_count = static_cast<int64_t>(inside.size());
          }
          scalar_t* to =
              target + ((n * c.h.target + h) * c.w.target + j * c.w.target_step + static_cast<int64_t>(phase)) * C;
          for (int64_t channel = 0; channel < C; channel += lanes) {
            for (int64_t i = 0; i < row_count; ++i) at[i] = tap_rows[i] + first * C + channel;
            const int64_t width = std::min<int64_t>(lanes, C - channel);
            const Vector<acc_t> init = bias != nullptr ? load_partial(bias + channel, width) : Vector<acc_t>{};
            const auto pixels = interior ? depthwise_pixels<scalar_t, kPixels> : depthwise_pixels<scalar_t, 1>;
            pixels(
                at.data(), row_taps.data(), row_count, columns, column_count, S, C, c.w.source_step * C,
                c.w.target_step * C, filters.data() + channel, init, width, to + channel);
          }
          j += interior ? kPixels : 1;
        }
      }
    }
  });
}

// sums[t] += sum over j of x[taps[t] + j * step] * gradient[j], for kTaps taps and one vector of channels.
template <typename scalar_t, int kTaps>
void correlate_channels(
    const scalar_t* x, const AxisTap* taps, int64_t step, const scalar_t* gradient, int64_t C, int64_t first,
    int64_t last, int64_t count, Compute<scalar_t>* sums) {
  using acc_t = Compute<scalar_t>;
  Vector<acc_t> sum[kTaps] = {};
  for (int64_t j = first; j < last; ++j) {
    const Vector<acc_t> g = load_partial(gradient + j * C, count);
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) sum[t] += load_partial(x + (j * step + taps[t].offset) * C, count) * g;
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
    acc_t* to = sums + taps[t].tap * C;
    store_partial(to, load_partial(to, count) + sum[t], count);
  }
}

template <typename scalar_t>
void depthwise_channels_grad_weight(
    const Correlation& c, int64_t work, const scalar_t* input, const scalar_t* grad_output, scalar_t* grad_weight) {
  using acc_t = Compute<scalar_t>;
  constexpr int lanes = kLanes<acc_t>;
  const int64_t C = c.groups, R = c.h.kernel, S = c.w.kernel, Q = c.w.target;
  // Slices of output rows, fixed by the geometry and added in order.
  const int64_t items = c.N * c.h.target, slices = std::min<int64_t>(items, 16), size = R * S * C;
  const Scratch<acc_t> sums(std::max<int64_t>(slices, 1) * size);
  std::fill_n(sums.data(), std::max<int64_t>(slices, 1) * size, acc_t(0));
  const auto& taps = c.w.phases[0];
  const bool bordered = c.w.border != Border::zeros;
  parallel_for(slices, work, [&](int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice) {
      for (int64_t item = slice * items / slices; item < (slice + 1) * items / slices; ++item) {
        const int64_t n = item / c.h.target, p = item % c.h.target;
        const scalar_t* gradient = grad_output + item * Q * C;
        for (int64_t channel = 0; channel < C; channel += lanes) {
          const int64_t count = std::min<int64_t>(lanes, C - channel);
          for (const AxisTap& r : c.h.phases[0]) {
            const int64_t row = c.h.pixel(p * c.h.source_step + r.offset);
            if (row < 0) continue;
            const scalar_t* x = input + (n * c.h.source + row) * c.w.source * C + channel;
            acc_t* to = sums.data() + slice * size + r.tap * S * C + channel;
            for (int64_t s = 0; s < S; s += 8) {
              const int64_t group = std::min<int64_t>(8, S - s);
              const auto run = [&](const AxisTap* first_tap, int64_t tap_count, int64_t first, int64_t last) {
                if (first < last) {
                  select_instance<8>(tap_count, []<int N>() { return &correlate_channels<scalar_t, N>; })(
                      x, first_tap, c.w.source_step, gradient + channel, C, first, last, count, to);
                }
              };
              const auto run_border = [&](const AxisTap& t, int64_t first, int64_t last) {
                for (int64_t q = first; q < last; ++q) {
                  const int64_t position = q * c.w.source_step, column = c.w.pixel(position + t.offset);
                  const AxisTap shown{t.tap, column - position, t.order};
                  if (column >= 0) run(&shown, 1, q, q + 1);
                }
              };
              // Outputs [first, last) of a tap fall inside the image; those common to the group go together.
              const auto first_of = [&](const AxisTap& t) {
                return std::clamp<int64_t>(ceil_div(-t.offset, c.w.source_step), 0, Q);
              };
              const auto last_of = [&](const AxisTap& t) {
                return std::clamp<int64_t>(ceil_div(c.w.source - t.offset, c.w.source_step), 0, Q);
              };
              int64_t first = 0, last = Q;
              for (int64_t t = s; t < s + group; ++t) {
                first = std::max(first, first_of(taps[t]));
                last = std::min(last, last_of(taps[t]));
              }
              if (first < last) {
                run(taps.data() + s, group, first, last);
              } else {
                first = last = 0;
              }
              for (int64_t t = s; t < s + group; ++t) {
                run(taps.data() + t, 1, first_of(taps[t]), std::min(first, last_of(taps[t])));
                run(taps.data() + t, 1, std::max(last, first_of(taps[t])), last_of(taps[t]));
                if (bordered) {
                  run_border(taps[t], 0, first_of(taps[t]));
                  run_border(taps[t], last_of(taps[t]), Q);
                }
              }
            }
          }
        }
      }
    }
  });
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t slice = 1; slice < slices; ++slice) sums[i] += sums[slice * size + i];
    const int64_t channel = i % C, s = i / C % S, r = i / (C * S);
    grad_weight[channel * c.weight_group + r * c.weight_row + s * c.weight_column] = narrow<scalar_t>(sums[i]);
  }
}

template <typename scalar_t>
void depthwise(const Conv2dProblem& problem, const Conv2dArguments& arguments) {
  const auto input = static_cast<scalar_t*>(arguments.input);
  const auto weight = static_cast<scalar_t*>(arguments.weight);
  const auto output = static_cast<scalar_t*>(arguments.output);
  Correlation c = make_correlation(problem.geometry, problem.pass == Conv2dPass::grad_input);
  order_taps(c.h);
  order_taps(c.w);
  const bool last = c.channels_last;
  const int64_t work = multiplications(problem.geometry);
  const auto bias = static_cast<const scalar_t*>(arguments.bias);
  const auto run = last ? depthwise_channels<scalar_t> : depthwise_planes<scalar_t>;
  switch (problem.pass) {
    case Conv2dPass::forward: return run(c, work, input, weight, bias, output);
    case Conv2dPass::grad_input: return run(c, work, output, weight, bias, input);
    default:
      return (last ? depthwise_channels_grad_weight<scalar_t> : depthwise_planes_grad_weight<scalar_t>)(c, work, input,
                                                                                                        output, weight);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
