// Buffers that a kernel cannot leave unseen.
#pragma once

#include <cstddef>
#include <string>

namespace emulation {

// The problem that reports name.
extern std::string under_test;

// Every byte is 0xff at first, which is NaN in each floating type.
class Memory {
 public:
  Memory(size_t bytes, size_t alignment);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* data() const { return first; }

 private:
  unsigned char *base, *first;
  size_t mapped, size;
};

}  // namespace emulation
