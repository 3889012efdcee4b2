// What sums are divided by, worked out once for each row and each column of windows.
#pragma once

#include "../common/algorithm.h"
#include "../common/pool_rows.h"

namespace convops {
namespace CONVOPS_ISA {

template <typename acc_t>
class Divisors {
 public:
  explicit Divisors(const AvgPool2dProblem& problem)
      : rows_(problem.geometry.h.output), columns_(round_up(problem.geometry.w.output, kLanes<acc_t>)) {
    const auto& [count_include_pad, override_] = problem.divisor;
    fill(problem, problem.geometry.h, override_ == 0 ? 0 : 1, rows_);
    fill(problem, problem.geometry.w, override_, columns_);
    if (!exact_) return;
    for (int64_t p = 0; p < problem.geometry.h.output; ++p) rows_[p] = 1 / rows_[p];
    for (int64_t q = 0; q < problem.geometry.w.output; ++q) columns_[q] = 1 / columns_[q];
  }

  // Sums of windows (p, q), (p, q + 1), ..., divided.
  CONVOPS_INLINE Vector<acc_t> divide_along(int64_t p, int64_t q, Vector<acc_t> sums) const {
    return divide(sums, broadcast(rows_[p]) * load(columns_.data() + q));
  }
  // Sums of several channels of window (p, q).
  CONVOPS_INLINE Vector<acc_t> divide_at(int64_t p, int64_t q, Vector<acc_t> sums) const {
    return divide(sums, broadcast(rows_[p] * columns_[q]));
  }

 private:
  void fill(const AvgPool2dProblem& problem, const Axis& axis, int64_t all, const Scratch<acc_t>& to) {
    for (int64_t o = 0; o < axis.output; ++o) {
      const int64_t count = all != 0 ? all : problem.divisor.counted(axis, o);
      exact_ &= count > 0 && (count & (count - 1)) == 0;
      to[o] = static_cast<acc_t>(count);
    }
  }
  CONVOPS_INLINE Vector<acc_t> divide(Vector<acc_t> sums, Vector<acc_t> by) const {
    return exact_ ? sums * by : sums / by;
  }

  Scratch<acc_t> rows_, columns_;
  // Multiplying by the reciprocal of a power of two is exact, and faster than dividing.
  bool exact_ = true;
};

}  // namespace CONVOPS_ISA
}  // namespace convops
