// The reduction of sliding windows, one axis at a time: down the columns first, so that whole rows of memory are
// combined with each other, then along the one row that is left of each output row. A window costs R + S steps instead
// of R * S, and where many windows share a pixel three steps an axis, however large the window is.
//
// What is combined is up to a rule (maximum, sum): an associative operation and its identity.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "cpu.h"
#include "geometry.h"
#include "pool_rows.h"
#include "tagged.h"

namespace convops {
namespace CONVOPS_ISA {

// Rows of a rule's items in memory, each with room for a vector more.
template <typename Rule>
class TaggedRows {
  using acc_t = typename Rule::acc_t;
  using Tag = LaneInt<acc_t>;
  using Item = typename Rule::Item;

 public:
  TaggedRows(int64_t rows, int64_t length)
      : pitch_(round_up(length, kLanes<acc_t>) + kLanes<acc_t>),
        size_(rows * pitch_),
        values_(size_),
        tags_(Rule::kTags ? size_ : 0) {}

  int64_t pitch() const { return pitch_; }

  CONVOPS_INLINE Item load(int64_t at) const {
    Item item{CONVOPS_ISA::load(values_.data() + at)};
    if constexpr (Rule::kTags) item.tag = CONVOPS_ISA::load(tags_.data() + at);
    return item;
  }
  CONVOPS_INLINE void store(int64_t at, const Item& item, int64_t count = kLanes<acc_t>) {
    store_partial(values_.data() + at, item.value, count);
    if constexpr (Rule::kTags) store_partial(tags_.data() + at, item.tag, count);
  }
  void fill(const Item& item) {
    for (int64_t at = 0; at < size_; at += kLanes<acc_t>) store(at, item);
  }
  CONVOPS_INLINE void copy(int64_t to, const TaggedRows& other, int64_t from) {
    values_[to] = other.values_[from];
    if constexpr (Rule::kTags) tags_[to] = other.tags_[from];
  }

 private:
  int64_t pitch_, size_;
  Scratch<acc_t> values_;
  Scratch<Tag> tags_;
};

// A row as `segments` stretches of `width` neighbours, which lie `pitch` apart: one stretch of a contiguous plane, or
// of a channels_last row; a pixel's block of channels each where a block is less than all.
struct RowShape {
  int64_t segments, width, pitch;

  int64_t length() const { return segments * width; }

  // body(index without the gaps, index in memory, count) for each vector.
  template <typename acc_t, typename Body>
  CONVOPS_INLINE void for_each_vector(const Body& body) const {
    for (int64_t segment = 0; segment < segments; ++segment) {
      const int64_t at = segment * width, from = segment * pitch;
      CONVOPS_ISA::for_each_vector<acc_t>(
          width, [&](int64_t i, int64_t count) CONVOPS_INLINE_LAMBDA { body(at + i, from + i, count); });
    }
  }
};

// Whether so many windows share a line that going over each window by itself is slower than RunningWindows.
inline bool overlaps_much(const Axis& axis) {
  return !axis.adaptive && axis.dilation == 1 && axis.kernel > 3 * axis.stride + 3 && axis.kernel <= 2 * axis.input &&
         axis.kernel < (1 << 20);
}

// Windows of `kernel` neighbouring lines (rows of an image, pixels of a row) at ascending places, in three steps a line
// whatever the kernel (van Herk 1992, Gil and Werman 1993). Lines are cut into blocks of `kernel`; every window is the
// tail of one block and the head of the next. The tails of a block are worked out together, from the last line up; the
// head grows line by line. Blocks lie where they lie in the image: a sum does not depend on where a walk begins.
template <typename Rule, bool kOrdered>
class RunningWindows {
  using acc_t = typename Rule::acc_t;
  using Item = typename Rule::Item;

 public:
  // unit: what a line adds to the tag.
  RunningWindows(int64_t kernel, RowShape shape, int64_t unit)
      : kernel_(kernel), shape_(shape), unit_(unit), tails_(kernel, shape.length()), head_(1, shape.length()) {}

  void restart() { block_ = INT64_MIN; }

  // emit(index, count, item) for the vectors of lines [start, start + kernel). lines(line)(index, count) is the item at
  // an index in memory of any line, inside the image or not.
  template <typename Lines, typename Emit>
  void reduce(int64_t start, const Lines& lines, const Emit& emit) {
    const int64_t block = floor_div(start, kernel_), offset = start - block * kernel_;
    if (block != block_) {
      block_ = block;
      head_lines_ = 0;
      make_tails(lines);
    }
    for (; head_lines_ < offset; ++head_lines_) {
      const auto load = lines((block + 1) * kernel_ + head_lines_);
      const int64_t tag = (kernel_ + head_lines_) * unit_;
      shape_.for_each_vector<acc_t>([&](int64_t at, int64_t from, int64_t count) CONVOPS_INLINE_LAMBDA {
        const Item next = load(from, count).shifted(tag);
        if (head_lines_ == 0) return head_.store(at, next, count);
        Item head = head_.load(at);
        take(head, next);
        head_.store(at, head, count);
      });
    }
    shape_.for_each_vector<acc_t>([&](int64_t at, int64_t, int64_t count) CONVOPS_INLINE_LAMBDA {
      Item item = tails_.load(offset * tails_.pitch() + at);
      if (offset > 0) take(item, head_.load(at));
      emit(at, count, item.shifted(-offset * unit_));
    });
  }

 private:
  static CONVOPS_INLINE void take(Item& best, const Item& next) {
    if constexpr (kOrdered)
      Rule::take(best, next);
    else
      Rule::take_unordered(best, next);
  }

  template <typename Lines>
  void make_tails(const Lines& lines) {
    for (int64_t line = kernel_ - 1; line >= 0; --line) {
      const auto load = lines(block_ * kernel_ + line);
      const int64_t to = line * tails_.pitch(), below = to + tails_.pitch();
      shape_.for_each_vector<acc_t>([&](int64_t at, int64_t from, int64_t count) CONVOPS_INLINE_LAMBDA {
        Item item = load(from, count).shifted(line * unit_);
        if (line + 1 < kernel_) take(item, tails_.load(below + at));
        tails_.store(to + at, item, count);
      });
    }
  }

  int64_t kernel_;
  RowShape shape_;
  int64_t unit_, block_ = INT64_MIN, head_lines_ = 0;
  TaggedRows<Rule> tails_, head_;
};

// One row of a plane, and the windows along it. The row is padded with the identity to every column that a window reads
// and sorted by column modulo the stride, so that tap s of all windows is one contiguous stretch. Where dilation puts
// taps far apart, or windows are adaptive, each tap is copied out by itself.
//
// There are two such rows, one that is being put and one that is reduced: loads that overlap several stores wait for
// them to reach the cache, so a row rests for a turn in between.
template <typename Rule>
class RowWindows {
  using acc_t = typename Rule::acc_t;
  using Item = typename Rule::Item;
  static constexpr int64_t lanes = kLanes<acc_t>;

 public:
  explicit RowWindows(const Axis& full)
      : axis_(full.used()),
        first_tap_(full.adaptive ? 0 : full.first_used_tap()),
        each_tap_(
            full.adaptive || axis_.extent() > 2 * axis_.input + axis_.kernel ||
            (axis_.stride == 1 && axis_.pad_lower + axis_.input >= axis_.output + axis_.extent())),
        in_place_(axis_.stride == 1 && !each_tap_),
        remainders_(each_tap_ ? axis_.kernel : std::min(axis_.stride, axis_.extent())),
        sorted_(2 * remainders_, each_tap_ ? axis_.output : axis_.output + axis_.extent() / axis_.stride + 2 + lanes),
        row_(in_place_ ? 0 : 2, axis_.input + lanes),
        doubles_(!each_tap_ && (axis_.stride == 1 || axis_.dilation == 1) && axis_.kernel / axis_.stride >= 8),
        level_(doubles_ ? 1 : 0, sorted_.pitch()),
        result_(doubles_ ? 1 : 0, axis_.output) {
    sorted_.fill(Rule::identity());
    if (!in_place_) row_.fill(Rule::identity());
    for (int64_t s = 0; s < axis_.kernel; ++s) {
      const int64_t column = s * axis_.dilation;
      taps_.push_back(
          each_tap_ ? s * sorted_.pitch() : column % axis_.stride * sorted_.pitch() + column / axis_.stride);
    }
  }

  // Where the row that is being put goes, column by column.
  CONVOPS_INLINE void put(int64_t w, const Item& item, int64_t count) {
    if (in_place_) return sorted_.store(sorted_side(putting_) + axis_.pad_lower + w, item, count);
    row_.store(putting_ * row_.pitch() + w, item, count);
  }

  // Makes the row that was put the one that is reduced, and the other way round.
  void turn() { putting_ = 1 - putting_; }

  // finish(q, count, item) for vectors of windows.
  template <typename Finish>
  CONVOPS_INLINE void reduce(const Finish& finish) {
    if (!in_place_) sort();
    if (doubles_) return reduce_by_doubling(finish);
    for_each_vector<acc_t>(axis_.output, [&](int64_t q, int64_t count) CONVOPS_INLINE_LAMBDA {
      Item item = tap(0, q);
      for (int64_t s = 1; s < axis_.kernel; ++s) Rule::take_unordered(item, tap(s, q));
      finish(q, count, item);
    });
  }

 private:
  int64_t sorted_side(int64_t side) const { return side * remainders_ * sorted_.pitch(); }
  CONVOPS_INLINE Item tap(int64_t s, int64_t q) const {
    return sorted_.load(sorted_side(1 - putting_) + taps_[s] + q).shifted(first_tap_ + s);
  }

  void sort() {
    const int64_t stride = axis_.stride, from = (1 - putting_) * row_.pitch(), to = sorted_side(1 - putting_);
    if (each_tap_) {
      for (int64_t q = 0; q < axis_.output; ++q) {
        const int64_t start = axis_.start(q), last = axis_.last_tap(q);
        for (int64_t s = axis_.first_tap(q); s < last; ++s) {
          sorted_.copy(to + taps_[s] + q, row_, from + start + s * axis_.dilation);
        }
      }
      return;
    }
    const int64_t read = std::min(axis_.input, (axis_.output - 1) * stride + axis_.extent() - axis_.pad_lower);
    int64_t w = 0, remainder = axis_.pad_lower % stride, index = axis_.pad_lower / stride;
    if (stride == 2 && remainders_ == 2) {
      const int64_t even = place(axis_.pad_lower), odd = place(axis_.pad_lower + 1);
      for (; w < read; w += 2 * lanes) {  // behind the row there is padding
        const Item a = row_.load(from + w), b = row_.load(from + w + lanes);
        Item evens{unzip<false, acc_t>(a.value, b.value)}, odds{unzip<true, acc_t>(a.value, b.value)};
        if constexpr (Rule::kTags) {
          evens.tag = unzip<false, LaneInt<acc_t>>(a.tag, b.tag);
          odds.tag = unzip<true, LaneInt<acc_t>>(a.tag, b.tag);
        }
        sorted_.store(to + even + w / 2, evens);
        sorted_.store(to + odd + w / 2, odds);
      }
      return;
    }
    for (; w < read; ++w) {
      if (remainder < remainders_) sorted_.copy(to + remainder * sorted_.pitch() + index, row_, from + w);
      if (++remainder == stride) {
        remainder = 0;
        ++index;
      }
    }
  }
  int64_t place(int64_t padded) const { return padded % axis_.stride * sorted_.pitch() + padded / axis_.stride; }

  // The window is `groups` groups of as many taps as the stride, and a rest. Windows of 1, 2, 4, ... groups are worked
  // out from each other; those that add up to `groups` are put together.
  template <typename Finish>
  void reduce_by_doubling(const Finish& finish) {
    const int64_t taps = axis_.stride, groups = axis_.kernel / taps, step = taps == 1 ? axis_.dilation : 1;
    int64_t length = axis_.output + (groups - 1) * step;
    for (int64_t i = 0; i < length; i += lanes) {
      Item item = tap(0, i);
      for (int64_t s = 1; s < taps; ++s) Rule::take_unordered(item, tap(s, i));
      level_.store(i, item);
    }
    int64_t done = 0;
    for (int64_t size = 1; size <= groups; size *= 2) {
      if (groups & size) {
        for (int64_t q = 0; q < axis_.output; q += lanes) {
          Item item = level_.load(q + done * step).shifted(done * taps);
          if (done > 0) {
            Item before = result_.load(q);
            Rule::take_unordered(before, item);
            item = before;
          }
          result_.store(q, item);
        }
        done += size;
      }
      if (2 * size > groups) break;
      length -= size * step;
      for (int64_t i = 0; i < length; i += lanes) {
        Item item = level_.load(i);
        Rule::take_unordered(item, level_.load(i + size * step).shifted(size * taps));
        level_.store(i, item);
      }
    }
    for_each_vector<acc_t>(axis_.output, [&](int64_t q, int64_t count) CONVOPS_INLINE_LAMBDA {
      Item item = result_.load(q);
      for (int64_t s = groups * taps; s < axis_.kernel; ++s) Rule::take_unordered(item, tap(s, q));
      finish(q, count, item);
    });
  }

  Axis axis_;
  int64_t first_tap_;
  bool each_tap_, in_place_;
  int64_t remainders_;
  TaggedRows<Rule> sorted_, row_;
  bool doubles_;
  TaggedRows<Rule> level_, result_;
  std::vector<int64_t> taps_;
  int64_t putting_ = 0;
};

// Reduces every window by a rule whose tags are tap offsets r * S + s (with tags below the first tap's where padding
// won: no value was above the identity).
//
// make_rows(span, channels) returns a source of rows, of which up to `span` neighbours are asked for time and again:
// enter(n, channel, channels) goes to an image's block of channels (one channel of a contiguous one), pitch(channels)
// is the distance of its pixels in a row, and a call gives row h. finish(n, channel, p, q, count, item) gets a vector
// of windows (p, q), ... of a channel, or of channels of window (p, q).
template <typename Rule, typename MakeRows, typename Finish>
void reduce_windows(const Pool2dGeometry& g, const MakeRows& make_rows, const Finish& finish) {
  using acc_t = typename Rule::acc_t;
  using Item = typename Rule::Item;
  const int64_t H = g.h.input, W = g.w.input, P = g.h.output, Q = g.w.output, S = g.w.kernel;
  const auto row_windows = windows_of(g.h), column_windows = windows_of(g.w);
  const bool running_rows = overlaps_much(g.h), running_columns = g.channels_last && overlaps_much(g.w);
  // A block of channels, so that the rows at hand stay in the L2 cache.
  constexpr int64_t kBlockBytes = 256 << 10;
  const int64_t channel_bytes = (running_rows ? g.h.kernel + 2 : 2) * W * static_cast<int64_t>(sizeof(acc_t)) * 2;
  const int64_t least = 64 / static_cast<int64_t>(sizeof(acc_t));
  const int64_t width =
      !g.channels_last ? 1 : std::min(g.C, std::max(least, kBlockBytes / channel_bytes / least * least));
  const int64_t blocks = ceil_div(g.C, width);

  const int64_t span = std::min(H, running_rows ? 2 * g.h.kernel : g.h.extent());
  using Rows = decltype(make_rows(span, width));
  struct State {
    Rows rows;
    RowWindows<Rule> along;  // of a contiguous row
    TaggedRows<Rule> down;   // a channels_last row, reduced down the columns
    std::optional<RunningWindows<Rule, true>> running_down{};
    std::optional<RunningWindows<Rule, false>> running_along{};
    std::vector<decltype(std::declval<Rows>()(0))> window_rows{};
  };
  const auto make_state = [&] {
    return State{
        make_rows(span, width), RowWindows<Rule>(g.channels_last ? Axis{1, 1, 1, 1, 1, 0, 0} : g.w),
        TaggedRows<Rule>(1, g.channels_last ? W * width : 0)};
  };
  parallel_strips(
      g.N * blocks, P, g.input_numel(), make_state, [&](State& state, int64_t strip, int64_t p0, int64_t p1) {
        const int64_t n = strip / blocks, channel = strip % blocks * width, channels = std::min(width, g.C - channel);
        state.rows.enter(n, channel, channels);
        const int64_t pitch = state.rows.pitch(channels);
        const RowShape shape = !g.channels_last    ? RowShape{1, W, W}
                               : pitch == channels ? RowShape{1, W * channels, W * channels}
                                                   : RowShape{W, channels, pitch};
        state.running_down.reset();
        state.running_along.reset();
        if (running_rows) state.running_down.emplace(g.h.kernel, shape, 1);
        if (running_columns) state.running_along.emplace(S, RowShape{1, channels, channels}, 1);
        const auto put = [&](int64_t at, int64_t count, const Item& item) CONVOPS_INLINE_LAMBDA {
          if (g.channels_last)
            state.down.store(at, item, count);
          else
            state.along.put(at, item, count);
        };
        const auto reduce_down = [&](int64_t p) {
          const Window& window = row_windows[p];
          if (running_rows) {
            const auto lines = [&](int64_t h) {
              const auto* row = h < 0 || h >= H ? nullptr : state.rows(h);
              return [=](int64_t from, int64_t count) CONVOPS_INLINE_LAMBDA {
                return row == nullptr ? Rule::identity() : Item{load_partial(row + from, count)};
              };
            };
            return state.running_down->reduce(
                window.start, lines, [&](int64_t at, int64_t count, Item item) CONVOPS_INLINE_LAMBDA {
                  if constexpr (Rule::kTags) item.tag *= static_cast<LaneInt<acc_t>>(S);
                  put(at, count, item);
                });
          }
          state.window_rows.clear();
          for (int64_t r = window.first; r < window.last; ++r) {
            state.window_rows.push_back(state.rows(window.start + r * g.h.dilation));
          }
          const int64_t rows = window.last - window.first;
          shape.for_each_vector<acc_t>([&](int64_t at, int64_t from, int64_t count) CONVOPS_INLINE_LAMBDA {
            Item item = Rule::identity();
            if (rows > 0) item = Item{load_partial(state.window_rows[0] + from, count)}.shifted(window.first * S);
            for (int64_t r = 1; r < rows; ++r) {
              Rule::take(item, Item{load_partial(state.window_rows[r] + from, count)}.shifted((window.first + r) * S));
            }
            put(at, count, item);
          });
        };
        if (!g.channels_last) {
          for (int64_t p = p0; p <= p1; ++p) {
            if (p < p1) reduce_down(p);
            if (p > p0) {
              state.along.reduce([&](int64_t q, int64_t count, const Item& item)
                                     CONVOPS_INLINE_LAMBDA { finish(n, channel, p - 1, q, count, item); });
            }
            state.along.turn();
          }
          return;
        }
        for (int64_t p = p0; p < p1; ++p) {
          reduce_down(p);
          if (running_columns) state.running_along->restart();
          for (int64_t q = 0; q < Q; ++q) {
            const Window& columns = column_windows[q];
            if (running_columns) {
              const auto lines = [&](int64_t w) {
                return [&, w](int64_t from, int64_t) CONVOPS_INLINE_LAMBDA {
                  return w < 0 || w >= W ? Rule::identity() : state.down.load(w * channels + from);
                };
              };
              state.running_along->reduce(
                  columns.start, lines, [&](int64_t c, int64_t count, const Item& item) CONVOPS_INLINE_LAMBDA {
                    finish(n, channel + c, p, q, count, item);
                  });
              continue;
            }
            for_each_vector<acc_t>(channels, [&](int64_t c, int64_t count) CONVOPS_INLINE_LAMBDA {
              Item item = Rule::identity();
              for (int64_t s = columns.first; s < columns.last; ++s) {
                const Item next = state.down.load((columns.start + s * g.w.dilation) * channels + c).shifted(s);
                if (s == columns.first)
                  item = next;
                else
                  Rule::take_unordered(item, next);
              }
              finish(n, channel + c, p, q, count, item);
            });
          }
        }
      });
}

// Rows of a dense tensor.
template <typename scalar_t>
struct ImageRows {
  void enter(int64_t n, int64_t channel, int64_t) { first = image + geometry.input_at(n, channel, 0, 0); }
  int64_t pitch(int64_t) const { return geometry.C; }
  CONVOPS_INLINE const scalar_t* operator()(int64_t h) const {
    return first + h * geometry.w.input * (geometry.channels_last ? geometry.C : 1);
  }

  const Pool2dGeometry& geometry;
  const scalar_t* image;
  const scalar_t* first = nullptr;
};

}  // namespace CONVOPS_ISA
}  // namespace convops
