// From a convolution problem to the launch of the implicit matrix product with the right tile and accesses.
#pragma once

#include "gemm_kernel.cuh"
#include "gemm_pack.cuh"

namespace convops {

template <Access kA, Access kB>
struct AccessPair {};

template <typename... Pairs>
struct AccessPairs {};

// Launches the first pair of the list that both operands allow (gather is always allowed); false where there is none.
template <template <typename, int, bool> typename Engine, typename scalar_t, int kColumns>
bool launch_gemm(
    Access, Access, const Conv2dGemm&, const Conv2dGemmPlan&, const Conv2dGemmPointers&, void*, AccessPairs<>) {
  return false;
}
template <
    template <typename, int, bool> typename Engine, typename scalar_t, int kColumns, Access kA, Access kB,
    typename... Others>
bool launch_gemm(
    Access a, Access b, const Conv2dGemm& gemm, const Conv2dGemmPlan& plan, const Conv2dGemmPointers& pointers,
    void* stream, AccessPairs<AccessPair<kA, kB>, Others...>) {
  if ((kA != Access::gather && kA != a) || (kB != Access::gather && kB != b)) {
    return launch_gemm<Engine, scalar_t, kColumns>(a, b, gemm, plan, pointers, stream, AccessPairs<Others...>());
  }
  using EngineOfPair = Engine<scalar_t, kColumns, kA == Access::gather || kB == Access::gather>;
  const auto kernel = gemm.a.border == Border::zeros ? conv2d_implicit_gemm_kernel<EngineOfPair, kA, kB, false>
                                                     : conv2d_implicit_gemm_kernel<EngineOfPair, kA, kB, true>;
  launch(
      "conv2d", kernel, plan.blocks(gemm), EngineOfPair::kThreads, gemm_shared_bytes<EngineOfPair>(), stream, gemm,
      plan, pointers);
  return true;
}

// Engine<scalar_t, columns, gathers> is TensorCoreEngine or SimtEngine; the pairs are the accesses worth a kernel of
// their own.
template <template <typename, int, bool> typename Engine, typename scalar_t, typename WidePairs, typename NarrowPairs>
void run_gemm(const GemmWork& work, const Conv2dArguments& arguments) {
  const Conv2dGemm& gemm = work.gemm;
  Conv2dGemmPointers pointers = gemm_pointers(work.pass, arguments);
  unsigned char* const workspace = static_cast<unsigned char*>(arguments.workspace);
  const PackedOperands packed = pack_operands(
      work.packing, work.element_bytes, pointers.a, pointers.b, workspace + work.a_begin(), workspace + work.b_begin(),
      arguments.stream);
  pointers.a = packed.a, pointers.b = packed.b;
  const Access a = access_of(gemm.a, pointers.a, sizeof(scalar_t)), b = access_of(gemm.b, pointers.b, sizeof(scalar_t));
  Conv2dGemmPlan plan = work.plan;
  plan.vector_store = plan.vector_store && is_aligned(pointers.d);
  if (!plan.wide ||
      !launch_gemm<Engine, scalar_t, kWideColumns>(a, b, gemm, plan, pointers, arguments.stream, WidePairs())) {
    plan.tile_columns(false);
    launch_gemm<Engine, scalar_t, kNarrowColumns>(a, b, gemm, plan, pointers, arguments.stream, NarrowPairs());
  }
  if (plan.slices > 1) {
    launch(
        "conv2d", conv2d_implicit_gemm_reduce_kernel<scalar_t>, blocks_for(gemm.groups * plan.rows * plan.columns),
        kBlockThreads, 0, arguments.stream, gemm, plan, pointers);
  }
}

}  // namespace convops
