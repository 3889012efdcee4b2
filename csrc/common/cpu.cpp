#include "cpu.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <string_view>

#ifdef __linux__
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __x86_64__
#include <cpuid.h>
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

int64_t l2_cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or -1 where the system does not know
  if (bytes > 0) return bytes;
#endif
  return 1 << 20;
}

int64_t thread_count() {
  return torch::stable::get_num_threads();
}

void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_HUGEPAGE
  // What is smaller glibc keeps in its heap (its largest M_MMAP_THRESHOLD), where pages are used again; and in a
  // virtual machine that reports free pages, a huge page that comes anew may cost the host a millisecond.
  constexpr int64_t kWorthwhile = 32 << 20;
  constexpr uintptr_t kPage = 4096;
  if (bytes < kWorthwhile) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::amx: return "amx";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "baseline";
  }
}

#ifdef __x86_64__
// Whether the processor has tiles of bfloat16, and Linux lets this process use them, which it has to be asked once.
static bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kAvx512Bf16 = 1u << 5, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || (eax & kAvx512Bf16) == 0) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

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
    for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      if (isa <= best && std::string_view(wanted) == isa_name(isa)) return isa;
    }
  }
  if (best == Isa::avx512 && has_amx()) best = Isa::amx;
#endif
  return best;
}

Isa cpu_isa() {
  static const Isa isa = detect_isa();
  return isa;
}

}  // namespace convops
