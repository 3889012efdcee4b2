#include "stable.h"

#ifdef CONVOPS_CUDA
// Weak, so that the same library loads in a CPU-only torch, which lacks these symbols and never calls them.
extern "C" {
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
}
#endif

namespace convops {

Launch::Launch(const Tensor& on) : on(on) {
#ifdef CONVOPS_CUDA
  if (on.is_cuda()) {
    device_guard = new torch::stable::accelerator::DeviceGuard(on.get_device_index());
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  }
#endif
}

Launch::~Launch() {
#ifdef CONVOPS_CUDA
  delete static_cast<torch::stable::accelerator::DeviceGuard*>(device_guard);
#endif
}

}  // namespace convops
