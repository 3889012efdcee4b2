// The algebra of Winograd's minimal filtering F(4, 3), and of F(4x4, 3x3), which is F(4, 3) along both axes.
//
// Correlating 6 pixels d with 3 taps g to 4 outputs y is, read backwards, a product of polynomials, and a product of
// degree 5 is known from its values at 6 points (Toom and Cook). At the points 0, 1, -1, 1/2, -2 and infinity
//
//   y = A^T [(G g) . (B^T d)]        6 multiplications (.) where the definition takes 12; in two dimensions 36 for 144
//
//        | 1 -3/2  -2   3/2  1  0 |       |    1     0     0  |
//        | 0  -1   1/2  5/2  1  0 |       |   1/3   1/3   1/3 |         | 1  1  1  1   1  0 |
//  B^T = | 0   1  -5/2  1/2  1  0 |   G = |  -1/3   1/3  -1/3 |   A^T = | 0  1 -1 1/2 -2  0 |
//        | 0  -2   -1    2   1  0 |       | -16/15 -8/15 -4/15|         | 0  1  1 1/4  4  0 |
//        | 0  1/2  -1  -1/2  1  0 |       |  1/15 -2/15  4/15 |         | 0  1 -1 1/8 -8  1 |
//        | 0   1  -3/2  -2  3/2 1 |       |    0     0     1  |
//
// Row p of A holds the powers of the point p, row p of G the same over the product of p's differences to the others,
// row p of B^T the coefficients of the polynomial that vanishes at all other points. The gradient of the taps is the
// transposed formula, g' = G^T [(A y') . (B^T d)].
//
// Rounding errors grow by what the coefficients amplify and cancel again: for 512 channels of normal data the result is
// off by 2.1e-6 in relative norm, where the definition in float32 is off by 2.4e-7 and the usual points 0, 1, -1, 2, -2
// by 3.2e-6. S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, arXiv:1509.09308;
// B. Barabasz et al. on points and errors, arXiv:1803.10986.
#pragma once

#include "../common/simd.h"

namespace convops {
namespace CONVOPS_ISA {

// Outputs and taps of a tile along one axis, and the points that it is evaluated at.
constexpr int kWinogradOutputs = 4;
constexpr int kWinogradTaps = 3;
constexpr int kWinogradPoints = kWinogradOutputs + kWinogradTaps - 1;

// Each is a matrix, applied to a line of scalars or vectors T; terms that rows share are computed once.

// B^T: pixels to points.
struct WinogradInput {
  static constexpr int inputs = kWinogradPoints, outputs = kWinogradPoints;

  template <typename T>
  static CONVOPS_INLINE void apply(const T (&d)[6], T (&v)[6]) {
    const T even = d[4] - d[2], odd = d[3] - d[1];
    const T plus = even + d[3] * 1.5f, minus = odd + d[2] * 1.5f;
    v[0] = (d[0] - d[2]) + (even + odd * 1.5f);
    v[1] = plus + minus;
    v[2] = plus - minus;
    v[3] = even + odd * 2.0f;
    v[4] = even - odd * 0.5f;
    v[5] = (d[5] - d[3]) + (even * 1.5f - odd);
  }
};

// G: taps to points.
struct WinogradWeight {
  static constexpr int inputs = kWinogradTaps, outputs = kWinogradPoints;

  template <typename T>
  static CONVOPS_INLINE void apply(const T (&g)[3], T (&u)[6]) {
    const T even = (g[0] + g[2]) * (1.0f / 3), odd = g[1] * (1.0f / 3);
    u[0] = g[0];
    u[1] = odd + even;
    u[2] = odd - even;
    u[3] = (g[0] * 4.0f + g[1] * 2.0f + g[2]) * (-4.0f / 15);
    u[4] = (g[0] - g[1] * 2.0f + g[2] * 4.0f) * (1.0f / 15);
    u[5] = g[2];
  }
};

// A^T: points to outputs.
struct WinogradOutput {
  static constexpr int inputs = kWinogradPoints, outputs = kWinogradOutputs;

  template <typename T>
  static CONVOPS_INLINE void apply(const T (&m)[6], T (&y)[4]) {
    const T even = m[1] + m[2], odd = m[1] - m[2];
    y[0] = (m[0] + even) + (m[3] + m[4]);
    y[1] = odd + (m[3] * 0.5f - m[4] * 2.0f);
    y[2] = even + (m[3] * 0.25f + m[4] * 4.0f);
    y[3] = (odd + m[5]) + (m[3] * 0.125f - m[4] * 8.0f);
  }
};

// A: gradients of outputs to points.
struct WinogradGradOutput {
  static constexpr int inputs = kWinogradOutputs, outputs = kWinogradPoints;

  template <typename T>
  static CONVOPS_INLINE void apply(const T (&y)[4], T (&m)[6]) {
    const T even = y[0] + y[2], odd = y[1] + y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = (y[0] + y[2] * 0.25f) + (y[1] + y[3] * 0.25f) * 0.5f;
    m[4] = (y[0] + y[2] * 4.0f) - (y[1] + y[3] * 4.0f) * 2.0f;
    m[5] = y[3];
  }
};

// G^T: points to gradients of taps.
struct WinogradGradWeight {
  static constexpr int inputs = kWinogradPoints, outputs = kWinogradTaps;

  template <typename T>
  static CONVOPS_INLINE void apply(const T (&u)[6], T (&g)[3]) {
    const T even = (u[1] + u[2]) * (1.0f / 3), odd = (u[1] - u[2]) * (1.0f / 3);
    const T half = u[3] * (-4.0f / 15), minus_two = u[4] * (1.0f / 15);
    g[0] = (u[0] + odd) + (half * 4.0f + minus_two);
    g[1] = even + (half * 2.0f - minus_two * 2.0f);
    g[2] = (odd + u[5]) + (half + minus_two * 4.0f);
  }
};

// The transform along both axes: load(row, column) of a tile to store(row, column, value).
template <typename Transform, typename T, typename Load, typename Store>
CONVOPS_INLINE void transform_tile(const Load& load, const Store& store) {
  constexpr int from = Transform::inputs, to = Transform::outputs;
  T between[to][from];
#pragma GCC unroll 6
  for (int column = 0; column < from; ++column) {
    T line[from], result[to];
#pragma GCC unroll 6
    for (int row = 0; row < from; ++row) line[row] = load(row, column);
    Transform::template apply<T>(line, result);
#pragma GCC unroll 6
    for (int row = 0; row < to; ++row) between[row][column] = result[row];
  }
#pragma GCC unroll 6
  for (int row = 0; row < to; ++row) {
    T result[to];
    Transform::template apply<T>(between[row], result);
#pragma GCC unroll 6
    for (int column = 0; column < to; ++column) store(row, column, result[column]);
  }
}

}  // namespace CONVOPS_ISA
}  // namespace convops
