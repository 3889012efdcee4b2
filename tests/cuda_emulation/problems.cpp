// Random problems for every CUDA algorithm of an operator, compared with plain loops in double.
//
//   problems OPERATOR SEED COUNT [ALGORITHM]
//
// Operands are small integers, so that sums of products are exact in every dtype and order and a result must be the
// rounded exact one to the last bit; only the quotients of averages may differ.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "../../cuda/common/dtype.cuh"
#include "memory.h"

using namespace convops;

namespace {

std::mt19937_64 random_bits;

int64_t below(int64_t end) {
  return static_cast<int64_t>(random_bits() % static_cast<uint64_t>(end));
}
int64_t between(int64_t first, int64_t last) {
  return first + below(last - first + 1);
}
bool chance(int percent) {
  return below(100) < percent;
}
template <typename T>
T pick(std::initializer_list<T> values) {
  return values.begin()[below(static_cast<int64_t>(values.size()))];
}
std::array<int64_t, 2> pair(const std::function<int64_t()>& draw) {
  const int64_t first = draw();
  return {first, chance(60) ? first : draw()};
}

[[noreturn]] void mismatch(const std::string& what) {
  std::fprintf(stderr, "%s\n  in %s\n", what.c_str(), emulation::under_test.c_str());
  std::exit(1);
}

// A dense tensor in the emulated GPU's memory, and what was written to it. Mostly it lies where torch would allocate
// it, else where a slice may.
struct Tensor {
  Tensor(DType dtype, int64_t numel)
      : dtype(dtype),
        values(static_cast<size_t>(numel)),
        memory(static_cast<size_t>(numel * element_size(dtype)), chance(75) ? 16 : size_t(element_size(dtype))) {}

  int64_t numel() const { return static_cast<int64_t>(values.size()); }
  void* data() const { return memory.data(); }
  double operator[](int64_t i) const { return values[i]; }

  void set(int64_t i, double value) {
    values[i] = value;
    dispatch_all("problems", dtype, [&](auto tag) { convert<typename decltype(tag)::type>(i, value); });
  }
  void fill(int64_t least, int64_t most) {
    for (int64_t i = 0; i < numel(); ++i) {
      set(i, static_cast<double>(between(dtype == DType::uint8 ? std::max<int64_t>(0, least) : least, most)));
    }
  }
  // Whether it holds these values as its dtype rounds them, or within a relative tolerance.
  void expect(const char* name, const std::vector<double>& wanted, double tolerance = 0) {
    dispatch_all("problems", dtype, [&](auto tag) {
      using scalar_t = typename decltype(tag)::type;
      for (int64_t i = 0; i < numel(); ++i) {
        const auto got = static_cast<double>(comparable(static_cast<const scalar_t*>(data())[i]));
        double want = wanted[i];
        if (tolerance == 0) want = static_cast<double>(comparable(convert<scalar_t>(i, want)));
        if (got == want || (got != got && want != want) || std::abs(got - want) <= tolerance * std::abs(want)) continue;
        mismatch(
            std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(got) + ", not " +
            std::to_string(want));
      }
    });
  }

  DType dtype;
  std::vector<double> values;
  emulation::Memory memory;

 private:
  // Half types are made from float32: no double of these tests needs two roundings.
  template <typename scalar_t>
  scalar_t convert(int64_t i, double value) {
    using narrow_t = std::conditional_t<std::is_arithmetic_v<scalar_t>, double, float>;
    return static_cast<scalar_t*>(data())[i] = static_cast<scalar_t>(static_cast<narrow_t>(value));
  }
};

// Calls visit(a, b, c, d) for all indices below the sizes, the last the fastest.
template <typename Visit>
void over(const std::array<int64_t, 4>& sizes, const Visit& visit) {
  std::array<int64_t, 4> i{};
  for (int64_t left = sizes[0] * sizes[1] * sizes[2] * sizes[3]; left > 0; --left) {
    visit(i[0], i[1], i[2], i[3]);
    for (int digit = 3; digit >= 0 && ++i[digit] == sizes[digit]; --digit) i[digit] = 0;
  }
}

struct Image {
  bool channels_last;
  int64_t C, H, W;

  int64_t at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return channels_last ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
  }
};

constexpr const char* kDTypes[] = {"float32", "float64", "bfloat16", "float16", "uint8",
                                   "int8",    "int16",   "int32",    "int64"};

std::ostream& operator<<(std::ostream& to, const Axis& axis) {
  return to << "(input " << axis.input << " kernel " << axis.kernel << " output " << axis.output << " stride "
            << axis.stride << " dilation " << axis.dilation << " pads " << axis.pad_lower << ' ' << axis.pad_upper
            << ' ' << (axis.adaptive ? "adaptive" : kBorderNames[static_cast<int>(axis.border)]) << ')';
}

// How often each algorithm was compared, by pass; the one to run alone, if any.
std::map<std::string, int> compared;
std::string_view only;

// The algorithms that are to run the problem.
template <typename Problem, typename Arguments>
std::vector<Algorithm<Problem, Arguments>> chosen(
    std::span<const Algorithm<Problem, Arguments>> algorithms, const Problem& problem) {
  std::vector<Algorithm<Problem, Arguments>> chosen;
  for (const auto& algorithm : algorithms) {
    if ((only.empty() || only == algorithm.name) && algorithm.supports(problem)) chosen.push_back(algorithm);
  }
  return chosen;
}

template <typename Problem, typename Arguments>
void run(
    const Algorithm<Problem, Arguments>& algorithm, const Problem& problem, Arguments arguments, const char* pass,
    const std::string& about) {
  emulation::under_test =
      std::string(algorithm.name) + " " + pass + " " + kDTypes[static_cast<int>(problem.dtype)] + " " + about;
  const int64_t bytes = algorithm.workspace == nullptr ? 0 : algorithm.workspace(problem);
  const emulation::Memory workspace(static_cast<size_t>(bytes), 256);
  arguments.workspace = bytes > 0 ? workspace.data() : nullptr;
  ++compared[std::string(algorithm.name) + " " + pass];
  algorithm.run(problem, arguments);
}

// --- conv2d

struct Axes {
  std::array<int64_t, 2> size, kernel, stride, dilation;
  std::array<int64_t, 4> pads;
};

Axes random_axes(bool pooling) {
  Axes axes{};
  axes.kernel = chance(40) ? std::array<int64_t, 2>{pick({1, 2, 3, 5, 7}), 0}
                           : pair([] { return between(1, chance(10) ? 14 : 6); });
  if (axes.kernel[1] == 0) axes.kernel[1] = axes.kernel[0];
  axes.size = pair([] {
    return chance(3)    ? between(100, 300)
           : chance(10) ? between(40, 75)
           : chance(30) ? pick({7, 8, 14, 16, 28, 32})
                        : between(1, 30);
  });
  axes.stride = pair([] { return chance(50) ? 1 : between(1, 4); });
  axes.dilation = pair([] { return chance(70) ? 1 : between(1, 3); });
  for (int i = 0; i < 4; ++i) {
    const int64_t extent = (axes.kernel[i / 2] - 1) * axes.dilation[i / 2] + 1;
    axes.pads[i] = chance(30) ? 0 : chance(50) ? extent / 2 : below(pooling ? extent / 2 + 1 : extent + 2);
  }
  // Steps that no 32-bit index follows, taken by no more than two taps.
  if (chance(3)) {
    const int i = static_cast<int>(below(2));
    axes.kernel[i] = 2, axes.dilation[i] = int64_t{1} << 28;
    axes.pads[2 * i] = axes.dilation[i] / 2, axes.pads[2 * i + 1] = axes.dilation[i] / 2;
  }
  return axes;
}

Conv2dProblem random_conv2d() {
  for (;;) {
    Axes axes = random_axes(false);
    if (chance(4)) axes.kernel = {between(20, 31), between(20, 31)}, axes.size = {28, 28}, axes.pads = {15, 15, 15, 14};
    int64_t groups = 1, C = between(1, 20), K = between(1, 20);
    if (chance(only == "few_channels" ? 100 : 8)) {
      C = between(1, 4), K = chance(10) ? between(65, 140) : between(1, 70);
      axes.size = pair([] { return chance(10) ? between(3, 8) : between(8, 60); });
      // Windows that leave room for small tiles only: more of them than blocks.
      if (chance(10)) {
        const int64_t dilation = between(60, 100);
        axes = {{between(250, 300), 300}, {2, 2}, {1, 1}, {dilation, dilation}, {50, dilation / 2, 50, 50}};
        C = between(3, 4), K = between(1, 2);
      }
    } else if (only == "implicit_gemm_wgmma") {
      // Lines of 64 channels, whole or not; groups where they are whole.
      const auto channels = [] {
        return chance(30) ? between(1, 40) : chance(50) ? 8 * between(1, 20) : 64 * between(1, 4);
      };
      groups = chance(20) ? between(2, 3) : 1;
      C = groups * (chance(50) && groups > 1 ? 64 : channels());
      K = groups * (chance(50) && groups > 1 ? 64 : channels());
      if (chance(50)) axes.stride = {1, 1};
      // Residues that are rows of one product.
      if (chance(20)) {
        groups = 1, C = between(1, 5), K = channels();
        axes.dilation = {1, 1}, axes.stride = {between(1, 4), between(2, 3)};
      }
    } else if (chance(40)) {
      groups = chance(50) ? between(1, 20) : 8 * between(1, 6);
      C = groups, K = groups * (chance(75) ? 1 : between(2, 3));
    } else if (chance(30)) {
      groups = between(2, 4), C = groups * between(1, 9), K = groups * between(1, 9);
    } else if (chance(65)) {
      C = 8 * between(1, 9), K = chance(20) ? 136 : 8 * between(1, 12);
    }
    const bool channels_last = chance(50);
    const bool wgmma = only == "implicit_gemm_wgmma";
    const Border border = wgmma || chance(75) ? Border::zeros : static_cast<Border>(between(1, 4));
    const auto pass = static_cast<Conv2dPass>(chance(90) ? below(3) : between(3, 4));
    // Images are written where there are some, a gradient of the weight always.
    const int64_t N = pass == Conv2dPass::grad_weight && chance(5) ? 0 : between(1, 3);
    try {
      const Conv2dGeometry geometry = make_conv2d_geometry(
          "problems", {N, C, axes.size[0], axes.size[1]}, {K, C / groups, axes.kernel[0], axes.kernel[1]}, axes.stride,
          axes.pads, axes.dilation, groups, border, channels_last, chance(75) == channels_last);
      const double products =
          static_cast<double>(geometry.output_numel()) * C / groups * axes.kernel[0] * axes.kernel[1];
      if (products > (wgmma && chance(20) ? 3e7 : 3e6) || (pass == Conv2dPass::grad_input && border != Border::zeros) ||
          (pass == Conv2dPass::fold && geometry.h.padded() * geometry.w.padded() > 5000)) {
        continue;
      }
      return {pass, static_cast<DType>(wgmma ? between(2, 3) : below(4)), geometry, chance(50)};
    } catch (const std::runtime_error&) {
      // A kernel larger than the padded image, or more padding than its border has to show.
    }
  }
}

void check_conv2d() {
  const Conv2dProblem problem = random_conv2d();
  emulation::compute_capability = only == "implicit_gemm_wgmma" || chance(50) ? 9 : 8;
  if (chosen(conv2d_cuda_algorithms(), problem).empty()) return;
  const Conv2dGeometry& g = problem.geometry;
  const bool folds = problem.pass == Conv2dPass::fold;
  const Image in{g.channels_last, g.C, g.h.input, g.w.input};
  const Image out = folds ? Image{g.channels_last, g.C, g.h.padded(), g.w.padded()}
                          : Image{g.channels_last, g.K, g.h.output, g.w.output};
  const int64_t per_group = g.C / g.groups, filters = g.K / g.groups;
  const Image filter{g.weight_channels_last, per_group, g.h.kernel, g.w.kernel};
  const int64_t biases = problem.pass == Conv2dPass::grad_input || folds ? g.C : g.K;

  Tensor input(problem.dtype, g.input_numel()), weight(problem.dtype, g.weight_numel());
  Tensor output(problem.dtype, g.N * out.C * out.H * out.W), bias(problem.dtype, biases);
  input.fill(-3, 3), weight.fill(-2, 2), output.fill(-3, 3), bias.fill(-3, 3);
  const bool biased = chance(50) && problem.pass != Conv2dPass::grad_weight;
  // A pixel that is no number reaches exactly what reads it; the last one lies beside what is not there.
  Tensor& pixels = problem.pass == Conv2dPass::grad_input ? output : input;
  if (pixels.numel() > 0 && chance(50)) {
    pixels.set(
        chance(70) ? pixels.numel() - 1 : below(pixels.numel()),
        chance(50) ? std::nan("") : std::numeric_limits<double>::infinity());
  }

  std::vector<double> x(input.numel()), y(output.numel()), f(weight.numel()), b(bias.numel());
  if (is_contraction(problem.pass)) {
    over({g.N, g.h.output, g.w.output, g.h.kernel * g.w.kernel}, [&](int64_t n, int64_t p, int64_t q, int64_t tap) {
      const int64_t r = tap / g.w.kernel, s = tap % g.w.kernel;
      const int64_t h = g.h.pixel(g.h.start(p) + r * g.h.dilation), w = g.w.pixel(g.w.start(q) + s * g.w.dilation);
      if (h < 0 || w < 0) return;
      over({1, 1, g.K, per_group}, [&](int64_t, int64_t, int64_t k, int64_t c) {
        const int64_t i = in.at(n, k / filters * per_group + c, h, w), j = filter.at(k, c, r, s);
        const int64_t o = out.at(n, k, p, q);
        if (problem.pass == Conv2dPass::forward) y[o] += input[i] * weight[j];
        if (problem.pass == Conv2dPass::grad_input) x[i] += output[o] * weight[j];
        if (problem.pass == Conv2dPass::grad_weight) f[j] += input[i] * output[o];
      });
    });
  } else {
    over({g.N, out.C, out.H, out.W}, [&](int64_t n, int64_t c, int64_t i, int64_t j) {
      const double value = output[out.at(n, c, i, j)];
      if (!folds) return void(b[c] += value);
      const int64_t h = g.h.pixel(i - g.h.pad_lower), w = g.w.pixel(j - g.w.pad_lower);
      if (h >= 0 && w >= 0) x[in.at(n, c, h, w)] += value;
    });
  }
  if (biased) {
    const bool forward = problem.pass == Conv2dPass::forward;
    const Image& to = forward ? out : in;
    over({g.N, to.C, to.H, to.W}, [&](int64_t n, int64_t c, int64_t h, int64_t w) {
      if (problem.pass != Conv2dPass::grad_bias) (forward ? y : x)[to.at(n, c, h, w)] += bias[c];
    });
  }

  std::ostringstream about;
  about << "N " << g.N << " C " << g.C << " K " << g.K << " groups " << g.groups << " h " << g.h << " w " << g.w
        << (g.channels_last ? " channels_last" : "") << (g.weight_channels_last ? " weight channels_last" : "")
        << (biased ? " bias" : "") << (problem.allow_tf32 ? " tf32" : "");
  constexpr const char* kPasses[] = {"forward", "grad_input", "grad_weight", "grad_bias", "fold"};
  const int pass = static_cast<int>(problem.pass);
  for (const Conv2dAlgorithm& algorithm : chosen(conv2d_cuda_algorithms(), problem)) {
    // A product of each group fills little of a tile, whose rest is as slow: some such problems do.
    if (g.groups > 4 && std::string_view(algorithm.name).starts_with("implicit_gemm") && chance(85)) continue;
    Tensor result(
        problem.dtype, std::array{output.numel(), input.numel(), weight.numel(), bias.numel(), input.numel()}[pass]);
    Conv2dArguments arguments{
        .input = input.data(),
        .weight = weight.data(),
        .output = output.data(),
        .bias = biased ? bias.data() : nullptr};
    void** const written[] = {
        &arguments.output, &arguments.input, &arguments.weight, &arguments.bias, &arguments.input};
    *written[pass] = result.data();
    run(algorithm, problem, arguments, kPasses[pass], about.str());
    result.expect("result", *std::array{&y, &x, &f, &b, &x}[pass]);
  }
}

// --- pooling

Pool2dGeometry random_pool2d() {
  for (;;) {
    const Axes axes = random_axes(true);
    const int64_t C = chance(50) ? 8 * between(1, 5) : between(1, 12);
    const std::array<int64_t, 4> size{between(1, 3), C, axes.size[0], axes.size[1]};
    try {
      if (chance(20))
        return make_adaptive_pool2d_geometry("problems", size, pair([] { return between(1, 9); }), chance(50));
      if (chance(10)) return make_pool2d_geometry("problems", size, axes.size, {1, 1}, {}, {1, 1}, false, chance(50));
      return make_pool2d_geometry(
          "problems", size, axes.kernel, axes.stride, axes.pads, axes.dilation, chance(30), chance(50));
    } catch (const std::runtime_error&) {
    }
  }
}

std::string about_pool2d(const Pool2dGeometry& g) {
  std::ostringstream about;
  about << "N " << g.N << " C " << g.C << " h " << g.h << " w " << g.w << (g.channels_last ? " channels_last" : "");
  return about.str();
}

// Calls visit(output, n, c, p, q) for every window.
void for_each_window(
    const Pool2dGeometry& g, const std::function<void(int64_t, int64_t, int64_t, int64_t, int64_t)>& visit) {
  over({g.N, g.C, g.h.output, g.w.output}, [&](int64_t n, int64_t c, int64_t p, int64_t q) {
    visit(g.output_at(n, c, p, q), n, c, p, q);
  });
}
// Calls visit(tap, h, w) for the taps of a window inside the input, in row-major order.
template <typename Visit>
void for_each_tap(const Pool2dGeometry& g, int64_t p, int64_t q, const Visit& visit) {
  for (int64_t r = g.h.first_tap(p); r < g.h.last_tap(p); ++r)
    for (int64_t s = g.w.first_tap(q); s < g.w.last_tap(q); ++s) {
      visit(r * g.w.kernel + s, g.h.start(p) + r * g.h.dilation, g.w.start(q) + s * g.w.dilation);
    }
}

void check_max_pool2d() {
  const Pool2dGeometry g = random_pool2d();
  const auto pass = static_cast<MaxPool2dPass>(below(5));
  const bool forward = pass <= MaxPool2dPass::forward_with_offsets;
  const MaxPool2dProblem problem{pass, static_cast<DType>(below(forward ? 9 : 4)), g};
  const bool floating = is_floating(problem.dtype);
  const DType offset_dtype = g.taps() <= kMaxByteTaps ? DType::uint8 : DType::int32;
  const double infinity = std::numeric_limits<double>::infinity();
  Tensor input(problem.dtype, g.input_numel()), output(problem.dtype, g.output_numel());
  Tensor offsets(offset_dtype, g.output_numel());
  input.fill(-3, 3), output.fill(-3, 3);
  if (floating && forward) {
    const bool low = chance(30);
    for (int64_t i = 0; i < input.numel(); ++i) {
      if (low || chance(3)) input.set(i, chance(4) ? std::nan("") : -infinity);
    }
  }

  double lowest_value = 0;
  dispatch_all("problems", problem.dtype, [&](auto tag) {
    lowest_value = static_cast<double>(comparable(lowest<typename decltype(tag)::type>()));
  });
  std::vector<double> x(input.numel()), y(output.numel()), taps(output.numel()), indices(output.numel());
  for_each_window(g, [&](int64_t o, int64_t n, int64_t c, int64_t p, int64_t q) {
    double most = lowest_value;
    int64_t best = g.h.first_tap(p) * g.w.kernel + g.w.first_tap(q);
    for_each_tap(g, p, q, [&](int64_t tap, int64_t h, int64_t w) {
      const double value = input[g.input_at(n, c, h, w)];
      // The first of equal numbers stays, the last of several NaNs.
      if (value > most || value != value) most = value, best = tap;
    });
    y[o] = most, taps[o] = static_cast<double>(best);
  });
  if (!forward) {
    // Any offset is safe; one that is no tap of the window inside the image names nothing.
    for (int64_t i = 0; i < offsets.numel(); ++i)
      offsets.set(i, chance(10) ? static_cast<double>(below(256)) : taps[i]);
    std::fill(y.begin(), y.end(), 0.0);
    for_each_window(g, [&](int64_t o, int64_t n, int64_t c, int64_t p, int64_t q) {
      const int64_t named = static_cast<int64_t>(offsets[o]), r = named / g.w.kernel, s = named % g.w.kernel;
      indices[o] = static_cast<double>((g.h.start(p) + r * g.h.dilation) * g.w.input + g.w.start(q) + s * g.w.dilation);
      for_each_tap(g, p, q, [&](int64_t tap, int64_t h, int64_t w) {
        if (tap != named) return;
        x[g.input_at(n, c, h, w)] += output[o];
        y[o] = input[g.input_at(n, c, h, w)];
      });
    });
  }
  constexpr const char* kPasses[] = {"forward", "forward_with_offsets", "grad_input", "gather", "indices"};
  for (const MaxPool2dAlgorithm& algorithm : chosen(max_pool2d_cuda_algorithms(), problem)) {
    Tensor values(problem.dtype, pass == MaxPool2dPass::grad_input ? input.numel() : output.numel());
    Tensor named(offset_dtype, output.numel()), pixels(DType::int64, output.numel());
    MaxPool2dArguments arguments{
        .input = pass == MaxPool2dPass::grad_input ? values.data() : input.data(),
        .output = pass == MaxPool2dPass::grad_input ? output.data() : values.data(),
        .offsets = forward ? named.data() : offsets.data(),
        .indices = static_cast<int64_t*>(pixels.data())};
    run(algorithm, problem, arguments, kPasses[static_cast<int>(pass)], about_pool2d(g));
    if (pass == MaxPool2dPass::indices) {
      pixels.expect("indices", indices);
    } else {
      values.expect("result", pass == MaxPool2dPass::grad_input ? x : y);
    }
    if (pass == MaxPool2dPass::forward_with_offsets) named.expect("offsets", taps);
  }
}

void check_avg_pool2d() {
  const Pool2dGeometry g = random_pool2d();
  const auto pass = static_cast<AvgPool2dPass>(below(2));
  const AvgPool2dProblem problem{
      pass,
      static_cast<DType>(below(4)),
      g,
      // An adaptive window has no padding to count.
      {chance(50) && !g.h.adaptive && !g.w.adaptive, chance(20) ? pick({-3, 2, 7}) : 0}};
  Tensor input(problem.dtype, g.input_numel()), output(problem.dtype, g.output_numel());
  // Of one sign: what a gradient sums up must not cancel, or its rounding errors are not small beside it.
  input.fill(1, 7), output.fill(1, 7);
  std::vector<double> x(input.numel()), y(output.numel());
  for_each_window(g, [&](int64_t o, int64_t n, int64_t c, int64_t p, int64_t q) {
    const auto divisor = static_cast<double>(problem.divisor.at(g, p, q));
    double sum = 0;
    for_each_tap(g, p, q, [&](int64_t, int64_t h, int64_t w) {
      sum += input[g.input_at(n, c, h, w)];
      x[g.input_at(n, c, h, w)] += output[o] / divisor;
    });
    y[o] = sum / divisor;
  });
  const bool forward = pass == AvgPool2dPass::forward;
  // One rounding to the dtype, and in sums of quotients one of float32 for each of up to some hundred.
  const double tolerance = std::array{4e-6, 1e-13, 4e-3, 5e-4}[static_cast<int>(problem.dtype)];
  for (const AvgPool2dAlgorithm& algorithm : chosen(avg_pool2d_cuda_algorithms(), problem)) {
    Tensor result(problem.dtype, forward ? output.numel() : input.numel());
    AvgPool2dArguments arguments{
        .input = forward ? input.data() : result.data(), .output = forward ? result.data() : output.data()};
    run(algorithm, problem, arguments, forward ? "forward" : "grad_input", about_pool2d(g));
    result.expect("result", forward ? y : x, tolerance);
  }
}

void check_max_unpool2d() {
  const MaxUnpool2dGeometry g{between(1, 3), between(1, 10), between(1, 60), between(1, 90), chance(50)};
  const auto pass = static_cast<MaxUnpool2dPass>(below(3));
  const MaxUnpool2dProblem problem{pass, static_cast<DType>(below(pass == MaxUnpool2dPass::scatter_add ? 4 : 9)), g};
  const Image pooled_image{g.channels_last, g.C, 1, g.pooled}, image_image{g.channels_last, g.C, 1, g.pixels};
  Tensor pooled(problem.dtype, g.pooled_numel()), image(problem.dtype, g.numel());
  Tensor indices(DType::int64, g.pooled_numel());
  pooled.fill(-3, 3), image.fill(-3, 3);
  for (int64_t i = 0; i < indices.numel(); ++i) indices.set(i, static_cast<double>(below(g.pixels)));
  const bool bad = chance(10);
  if (bad) indices.set(below(indices.numel()), pick({-1.0, static_cast<double>(g.pixels), -1e18, 1e18}));
  std::vector<double> scattered(image.numel()), added(image.numel()), gathered(pooled.numel());
  over({bad ? 0 : g.N, g.C, 1, g.pooled}, [&](int64_t n, int64_t c, int64_t, int64_t i) {
    const int64_t from = pooled_image.at(n, c, 0, i);
    const int64_t to = image_image.at(n, c, 0, static_cast<int64_t>(indices[from]));
    scattered[to] = pooled[from], added[to] += pooled[from], gathered[from] = image[to];
  });
  constexpr const char* kPasses[] = {"scatter", "scatter_add", "gather"};
  const bool gathers = pass == MaxUnpool2dPass::gather;
  for (const MaxUnpool2dAlgorithm& algorithm : chosen(max_unpool2d_cuda_algorithms(), problem)) {
    Tensor result(problem.dtype, gathers ? pooled.numel() : image.numel());
    const MaxUnpool2dArguments arguments{
        .pooled = gathers ? result.data() : pooled.data(),
        .image = gathers ? image.data() : result.data(),
        .indices = static_cast<const int64_t*>(indices.data())};
    std::ostringstream about;
    about << "N " << g.N << " C " << g.C << " pooled " << g.pooled << " pixels " << g.pixels;
    bool thrown = false;
    try {
      run(algorithm, problem, arguments, kPasses[static_cast<int>(pass)], about.str());
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    if (thrown != bad) mismatch(bad ? "a bad index was taken" : "a good index was refused");
    if (!bad) result.expect("result", gathers ? gathered : pass == MaxUnpool2dPass::scatter ? scattered : added);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::fprintf(stderr, "usage: %s OPERATOR SEED COUNT [ALGORITHM]\n", argv[0]), 2;
  const std::map<std::string, void (*)()> checks{
      {"conv2d", check_conv2d},
      {"max_pool2d", check_max_pool2d},
      {"avg_pool2d", check_avg_pool2d},
      {"max_unpool2d", check_max_unpool2d}};
  const auto check = checks.find(argv[1]);
  if (check == checks.end()) return std::fprintf(stderr, "unknown operator %s\n", argv[1]), 2;
  if (argc > 4) only = argv[4];
  random_bits.seed(std::strtoull(argv[2], nullptr, 10));
  for (long i = std::strtol(argv[3], nullptr, 10); i > 0; --i) check->second();
  for (const auto& [what, times] : compared) std::printf("%s %d\n", what.c_str(), times);
}
