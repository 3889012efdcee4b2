#include "wgmma_launch.cuh"

namespace convops {

void implicit_gemm_wgmma_float16(
    const Conv2dProblem& problem, const WgmmaPlan& plan, const Conv2dArguments& arguments) {
  run_wgmma<__half>(problem, plan, arguments);
}

}  // namespace convops
