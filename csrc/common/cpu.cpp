#include "cpu.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <string_view>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace convops {

void parallel_ranges(int64_t count, int64_t work, RangeFunction function, void* context) {
  constexpr int64_t kLeastWork = 32768;  // as torch's own kernels
  if (count == 1 || work < 2 * kLeastWork) {
    if (count > 0) function(0, count, context);
    return;
  }
  const int64_t items = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(kLeastWork) * count / work));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, items, function, context));
}

int64_t thread_count() {
  return torch::stable::get_num_threads();
}

void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr int64_t kWorthwhile = 4 << 20;
  constexpr uintptr_t kPage = 4096;
  if (bytes < kWorthwhile) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "baseline";
  }
}

static Isa detect_isa() {
  Isa best = Isa::baseline;
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    best = Isa::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      best = Isa::avx512;
    }
  }
  if (const char* wanted = std::getenv("TORCH_CONVOPS_ISA")) {
    for (const Isa isa : {Isa::baseline, Isa::avx2}) {
      if (isa < best && std::string_view(wanted) == isa_name(isa)) return isa;
    }
  }
#endif
  return best;
}

Isa cpu_isa() {
  static const Isa isa = detect_isa();
  return isa;
}

}  // namespace convops
