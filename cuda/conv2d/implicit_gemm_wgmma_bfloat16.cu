#include "wgmma_launch.cuh"

namespace convops {

void implicit_gemm_wgmma_bfloat16(
    const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dArguments& arguments) {
  run_wgmma<__nv_bfloat16>(problem, plan, arguments);
}

}  // namespace convops
