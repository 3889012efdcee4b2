// What CPU kernels need of the machine: threads, aligned scratch memory, huge pages, and the instruction set.
// Free of torch.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "checks.h"

namespace convops {

using RangeFunction = void (*)(int64_t begin, int64_t end, void* context);

// Runs ranges of [0, count) on torch's thread pool; `work` is what the whole costs, in elements touched or multiplied.
// Too little of it is not worth waking a thread for.
void parallel_ranges(int64_t count, int64_t work, RangeFunction function, void* context);
int64_t thread_count();

// body(begin, end) over [0, count); the ranges depend on the number of threads, so the result of an item must not
// depend on which range it falls in.
template <typename Body>
inline void parallel_for(int64_t count, int64_t work, const Body& body) {
  parallel_ranges(
      count, work, [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<Body*>(&body));
}

// The size of a core's L2 cache, as far as the system tells.
int64_t l2_cache_bytes();

// Asks for transparent huge pages where a fresh output is large: page faults, not arithmetic, bound the memory-bound
// kernels (a 51 MB gradient takes 11 ms to touch in 4 KB pages, 5 ms in 2 MB pages). A hint: failure is harmless.
void advise_huge_pages(void* data, int64_t bytes);

// Uninitialised scratch memory of one task, aligned to a cache line.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64))) {
    if (data_ == nullptr) fail("torch_convops", "out of memory: a workspace of ", count * sizeof(T), " bytes");
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

// Instruction sets that the kernels are compiled for, least first; on other processors than x86-64 only baseline. amx
// is avx512 with bfloat16, its tiles and its rounding, which a few kernels use.
enum class Isa : int32_t { baseline, avx2, avx512, amx };
const char* isa_name(Isa isa);
// The best one that this processor has, or the lesser one that TORCH_CONVOPS_ISA names.
Isa cpu_isa();

// Declares a kernel's variants, one per instruction set, and defines `name` as a call of the one that fits this
// processor. Kernel files (*_kernels.cpp) define it in the namespace CONVOPS_ISA.
#define CONVOPS_DECLARE_KERNEL(isa, name, Problem, Arguments) \
  namespace isa {                                             \
  void name(const Problem&, const Arguments&);                \
  }
#ifdef __x86_64__
#define CONVOPS_CPU_KERNEL(name, Problem, Arguments) CONVOPS_CPU_KERNEL_UP_TO(avx512, name, Problem, Arguments)
// The same with the last instruction set that it is compiled for, avx512 or amx.
#define CONVOPS_CPU_KERNEL_UP_TO(most, name, Problem, Arguments)         \
  CONVOPS_DECLARE_KERNEL(baseline, name, Problem, Arguments)             \
  CONVOPS_DECLARE_KERNEL(avx2, name, Problem, Arguments)                 \
  CONVOPS_DECLARE_KERNEL(avx512, name, Problem, Arguments)               \
  CONVOPS_DECLARE_KERNEL(most, name, Problem, Arguments)                 \
  static void name(const Problem& problem, const Arguments& arguments) { \
    switch (cpu_isa()) {                                                 \
      case Isa::amx: return most::name(problem, arguments);              \
      case Isa::avx512: return avx512::name(problem, arguments);         \
      case Isa::avx2: return avx2::name(problem, arguments);             \
      default: return baseline::name(problem, arguments);                \
    }                                                                    \
  }
#else
#define CONVOPS_CPU_KERNEL(name, Problem, Arguments)         \
  CONVOPS_DECLARE_KERNEL(baseline, name, Problem, Arguments) \
  using baseline::name;
#define CONVOPS_CPU_KERNEL_UP_TO(most, name, Problem, Arguments) CONVOPS_CPU_KERNEL(name, Problem, Arguments)
#endif

}  // namespace convops
