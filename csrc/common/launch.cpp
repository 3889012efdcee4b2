#include "stable.h"

#ifdef CONVOPS_CUDA
#include <dlfcn.h>
#endif

namespace convops {

#ifdef CONVOPS_CUDA
namespace {

using CurrentStream = AOTITorchError (*)(int32_t device_index, void** stream);

// The one function needed from torch's CUDA half, found at run time: linked, the library would not load in a CPU-only
// torch; as a weak symbol it stays null, because torch loads that half outside the scope in which symbols are looked
// up.
CurrentStream current_cuda_stream() {
  static const auto function = [] {
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch_cuda == nullptr
               ? nullptr
               : reinterpret_cast<CurrentStream>(dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream"));
  }();
  CONVOPS_CHECK(
      function != nullptr, "torch_convops",
      "this torch has CUDA tensors but no libtorch_cuda.so to ask for their stream");
  return function;
}

}  // namespace
#endif

Launch::Launch(const Tensor& on) : on(on) {
#ifdef CONVOPS_CUDA
  if (on.is_cuda()) {
    device_guard = new torch::stable::accelerator::DeviceGuard(on.get_device_index());
    STABLE_TORCH_ERROR_CODE_CHECK(current_cuda_stream()(on.get_device_index(), &stream));
  }
#endif
}

Launch::~Launch() {
#ifdef CONVOPS_CUDA
  delete static_cast<torch::stable::accelerator::DeviceGuard*>(device_guard);
#endif
}

}  // namespace convops
