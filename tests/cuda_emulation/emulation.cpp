// A GPU on one CPU thread. Each thread of a block is a fiber that runs until it waits at a barrier or returns; between
// barriers the threads of a block run in a random order, as do the blocks, so that a missing barrier shows as a wrong
// result. Shared memory starts as NaN. Memory of a GPU (memory.h) ends at pages that may not be touched.
#include <link.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "emulated_hopper.h"
#include "emulated_tensor_core.h"
#include "memory.h"

dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace convops {
// The dynamic shared memory of every kernel, which declares it `extern`.
thread_local __align__(1024) unsigned char shared_storage[emulation::kMostShared];
}  // namespace convops

namespace emulation {

std::string under_test;
int compute_capability = 9;

namespace {

std::mt19937 random_bits;  // the same in every run
constexpr int kPoison = 0xff;

enum class State { ready, at_block_barrier, at_warp_barrier, at_named_barrier, at_phase, returned };

// Work that a thread has started and not yet waited for, in groups; the last one is open.
class Pending {
 public:
  void clear() { groups_.assign(1, {}); }
  bool empty() const { return groups_.size() == 1 && groups_.back().empty(); }
  void start(std::function<void()> work) { groups_.back().push_back(std::move(work)); }
  void commit() { groups_.emplace_back(); }
  void wait(int pending) {
    for (; groups_.size() > static_cast<size_t>(pending) + 1; groups_.pop_front()) {
      for (const auto& work : groups_.front()) work();
    }
  }

 private:
  std::deque<std::vector<std::function<void()>>> groups_;
};

struct Fiber {
  jmp_buf context;
  bool started = false;
  State state = State::returned;
  unsigned exchanges = 0;
  Pending copies, products;
  int number = 0;                    // of the named barrier it waits at
  const Barrier* barrier = nullptr;  // whose phase it waits for
  unsigned parity = 0;
};

struct NamedBarrier {
  int threads = 0, arrived = 0;
};
NamedBarrier named_barriers[16];
std::vector<std::function<void()>> transfers;  // of TMA, on their way

std::vector<Fiber> fibers(1024);
jmp_buf scheduler;
ucontext_t entry;
const Launch* launched = nullptr;
alignas(16) unsigned char rooms[32][2][32 * kExchangeBytes];

Fiber& current() {
  return fibers[threadIdx.x];
}

void give_way(State state) {
  Fiber& fiber = current();
  fiber.state = state;
  if (_setjmp(fiber.context) == 0) _longjmp(scheduler, 1);
}

// A fiber serves one thread after another.
void serve() {
  for (;;) {
    launched->call(launched->arguments);
    give_way(State::returned);
  }
}

// Runs thread `index` on to its next barrier.
void resume(unsigned index) {
  threadIdx.x = index;
  Fiber& fiber = fibers[index];
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.context, 1);
  fiber.started = true;
  // With a page below the stack that ends the process rather than write to a neighbour's.
  constexpr size_t kStack = 256 * 1024, kPage = 4096;
  char* stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (stack == MAP_FAILED) report("no memory for the stack of a thread");
  mprotect(stack, kPage, PROT_NONE);
  getcontext(&entry);
  entry.uc_stack = {.ss_sp = stack, .ss_flags = 0, .ss_size = kStack};
  makecontext(&entry, serve, 0);
  setcontext(&entry);
}

// Lets threads [first, end) go on if each that has not returned waits at such a barrier.
void release(unsigned first, unsigned end, State barrier) {
  for (unsigned i = first; i < end; ++i) {
    if (fibers[i].state != barrier && fibers[i].state != State::returned) return;
  }
  for (unsigned i = first; i < end; ++i) {
    if (fibers[i].state == barrier) fibers[i].state = State::ready;
  }
}

void run_block() {
  // The program's segment of thread_local variables is its shared memory, static and dynamic.
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type == PT_TLS) {
            std::memset(info->dlpi_tls_data, kPoison, info->dlpi_phdr[i].p_memsz);
          }
        }
        return 1;  // the program comes first
      },
      nullptr);
  std::vector<unsigned> order(blockDim.x);
  std::iota(order.begin(), order.end(), 0u);
  for (const unsigned i : order) {
    fibers[i].state = State::ready;
    fibers[i].exchanges = 0;
    fibers[i].copies.clear();
    fibers[i].products.clear();
  }
  for (NamedBarrier& barrier : named_barriers) barrier = {};
  for (;;) {
    std::shuffle(order.begin(), order.end(), random_bits);
    bool ran = false, waits = false;
    for (const unsigned i : order) {
      if (fibers[i].state == State::ready) resume(i), ran = true;
    }
    for (const unsigned i : order) waits = waits || fibers[i].state != State::returned;
    if (!waits) break;
    if (!ran && transfers.empty()) report("threads wait at barriers that the others never reach");
    // Copies end in any order; one at least where all wait.
    std::shuffle(transfers.begin(), transfers.end(), random_bits);
    for (size_t left = transfers.size(); left > 0 && (random_below(2) == 0 || !ran); --left, ran = true) {
      transfers.back()();
      transfers.pop_back();
    }
    for (Fiber& fiber : fibers) {
      if (fiber.state == State::at_phase && fiber.barrier->parity != fiber.parity) fiber.state = State::ready;
    }
    for (unsigned i = 0; i < blockDim.x; i += 32) {
      release(i, std::min(i + 32, blockDim.x), State::at_warp_barrier);
    }
    release(0, blockDim.x, State::at_block_barrier);
  }
  if (!transfers.empty()) report("a copy that nobody waits for");
  for (const unsigned char* byte = convops::shared_storage + launched->shared_bytes;
       byte < std::end(convops::shared_storage); ++byte) {
    if (*byte != kPoison) report("a write past the dynamic shared memory that the launch asked for");
  }
}

// Not a signal that is handled and returned from: what faulted would fault again.
void on_signal(int signal) {
  report(
      signal == SIGILL ? "undefined behaviour: a misaligned access, an index past an array or an overflow"
                       : "an access outside of every buffer");
}

}  // namespace

void report(const char* fault) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n  by thread %u of block %u, in %s\n", fault, threadIdx.x, blockIdx.x, under_test.c_str());
  _exit(1);
}

int random_below(int end) {
  return static_cast<int>(random_bits() % static_cast<unsigned>(end));
}

void wait_for_block() {
  give_way(State::at_block_barrier);
}

void wait_for_warp() {
  give_way(State::at_warp_barrier);
}

unsigned char* exchange_room() {
  return rooms[threadIdx.x / 32][current().exchanges++ % 2];
}

size_t& shared_limit(const void* kernel) {
  static std::map<const void*, size_t> limits;
  return limits.try_emplace(kernel, 48 * 1024).first->second;
}

void run(const Launch& launch) {
  static const bool listening = [] {
    for (const int fault : {SIGSEGV, SIGBUS, SIGILL}) std::signal(fault, on_signal);
    return true;
  }();
  static_cast<void>(listening);
  launched = &launch;
  gridDim = launch.grid, blockDim = launch.block;
  std::vector<unsigned> order(launch.grid.x);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), random_bits);
  for (const unsigned block : order) {
    blockIdx.x = block;
    run_block();
  }
}

void copy_async(void* shared, const void* global, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0)) {
    report("cp.async between addresses not of 16 bytes");
  }
  const auto copy = [=] { valid ? std::memcpy(shared, global, 16) : std::memset(shared, 0, 16); };
  if (random_below(2) == 0) {
    copy();
  } else {
    current().copies.start(copy);
  }
}

void copy_async_commit() {
  current().copies.commit();
}

void copy_async_wait(int pending) {
  current().copies.wait(pending);
}

// --- emulated_hopper.h

// Static variables first, as where the linker of a GPU puts them, and the dynamic ones at their alignment only.
constexpr uint32_t kFirstAddress = 0x400 + 128;

uint32_t shared_address(const void* shared) {
  return kFirstAddress + static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - convops::shared_storage);
}

unsigned char* shared_pointer(uint32_t address) {
  if (address < kFirstAddress || address - kFirstAddress >= launched->shared_bytes) {
    report("an address outside of the dynamic shared memory");
  }
  return convops::shared_storage + (address - kFirstAddress);
}

namespace {

void end_phase_if_complete(Barrier* barrier) {
  if (barrier->left > 0 || barrier->bytes != 0) return;
  barrier->left = barrier->arrivals;
  barrier->parity ^= 1;
}

}  // namespace

void barrier_init(Barrier* barrier, int arrivals) {
  const auto count = static_cast<int16_t>(arrivals);
  *barrier = {count, count, 0, 0};
}

void barrier_arrive(Barrier* barrier, int bytes) {
  if (barrier->left < 1) report("an arrival at a barrier that expects none");
  barrier->bytes += bytes;
  --barrier->left;
  end_phase_if_complete(barrier);
}

void barrier_wait(Barrier* barrier, int parity) {
  if (barrier->arrivals < 1) report("a barrier that nobody has initialized");
  if (barrier->parity != static_cast<unsigned>(parity)) return;
  current().barrier = barrier;
  current().parity = static_cast<unsigned>(parity);
  give_way(State::at_phase);
}

void named_barrier(int number, int threads, bool waits) {
  NamedBarrier& barrier = named_barriers[number];
  if (barrier.arrived > 0 && barrier.threads != threads) report("threads count differently at a barrier");
  barrier.threads = threads;
  const bool last = ++barrier.arrived == threads;
  if (last) {
    barrier.arrived = 0;
    for (Fiber& fiber : fibers) {
      if (fiber.state == State::at_named_barrier && fiber.number == number) fiber.state = State::ready;
    }
  } else if (waits) {
    current().number = number;
    give_way(State::at_named_barrier);
  }
}

void copy_tile(void* shared, const CUtensorMap& map, Barrier* barrier, const int32_t* at, const uint16_t* offsets) {
  if (shared_address(shared) % 1024 != 0) report("a tile that is not on a multiple of the swizzle's 1024 bytes");
  if (map.windows != (offsets != nullptr)) report("a copy in the other mode than its tensor map's");
  if (at[0] % 8 != 0) report("a line that starts inside 16 bytes");
  struct Tile {
    CUtensorMap map;
    int64_t at[4];
    int64_t offsets[2];
  };
  Tile tile{map, {at[0], at[1], at[2], map.rank == 4 ? at[3] : 0}, {0, 0}};
  if (map.windows) tile.offsets[0] = offsets[0], tile.offsets[1] = offsets[1];
  if (tile.offsets[0] > 255 || tile.offsets[1] > 255) report("an offset of more than 255 pixels in a window");
  transfers.push_back([tile, barrier, to = static_cast<unsigned char*>(shared)] {
    const CUtensorMap& map = tile.map;
    int line = 0;
    const auto write_line = [&](const int64_t (&place)[4]) {
      bool inside = true;
      for (uint32_t axis = 1; axis < map.rank; ++axis) {
        inside = inside && place[axis] >= 0 && place[axis] < static_cast<int64_t>(map.sizes[axis]);
      }
      for (int i = 0; i < 64; ++i) {
        const int64_t x = place[0] + i;
        uint16_t bits = 0;
        if (inside && x >= 0 && x < static_cast<int64_t>(map.sizes[0])) {
          const unsigned char* from = map.data + x * 2;
          for (uint32_t axis = 1; axis < map.rank; ++axis) from += place[axis] * static_cast<int64_t>(map.steps[axis]);
          std::memcpy(&bits, from, 2);
        }
        std::memcpy(to + line * 128 + ((i / 8 ^ line % 8) * 16 + i % 8 * 2), &bits, 2);
      }
      ++line;
    };
    if (!map.windows) {
      for (uint32_t z = 0; z < map.box[2] * map.box[3]; ++z) {
        for (uint32_t y = 0; y < map.box[1]; ++y) {
          write_line({tile.at[0], tile.at[1] + y, tile.at[2] + z % map.box[2], tile.at[3] + z / map.box[2]});
        }
      }
    } else {
      int64_t w = tile.at[1], h = tile.at[2], n = tile.at[3];
      for (uint32_t i = 0; i < map.lines; ++i) {
        write_line({tile.at[0], w + tile.offsets[0], h + tile.offsets[1], n});
        if ((w += map.strides[1]) < static_cast<int64_t>(map.sizes[1]) + map.upper[0]) continue;
        w = map.lower[0];
        if ((h += map.strides[2]) < static_cast<int64_t>(map.sizes[2]) + map.upper[1]) continue;
        h = map.lower[1];
        ++n;
      }
    }
    barrier->bytes -= line * 128;
    end_phase_if_complete(barrier);
  });
}

void start_product(std::function<void()> product) {
  // In order: one adds to the sums of another.
  if (random_below(2) == 0 && current().products.empty()) {
    product();
  } else {
    current().products.start(std::move(product));
  }
}

void commit_products() {
  current().products.commit();
}

void wait_for_products(int pending) {
  current().products.wait(pending);
}

void* driver_function(const char* name) {
  return std::string(name) == "cuTensorMapEncodeTiled" ? reinterpret_cast<void*>(cuTensorMapEncodeTiled)
                                                       : reinterpret_cast<void*>(cuTensorMapEncodeIm2col);
}

// --- memory.h

Memory::Memory(size_t bytes, size_t alignment) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), pages = (bytes + page - 1) / page * page;
  mapped = pages + 2 * page;
  base = static_cast<unsigned char*>(mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (base == MAP_FAILED) report("no memory for a buffer");
  std::memset(base, kPoison, mapped);
  // Next to one of the two pages that may not be touched: an access beyond the other end is seen half of the time.
  first = base + page;
  if (random_below(2) == 0) first += (pages - bytes) / alignment * alignment;
  size = bytes;
  mprotect(base, page, PROT_NONE);
  mprotect(base + page + pages, page, PROT_NONE);
}

Memory::~Memory() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (const unsigned char* byte = base + page; byte < base + mapped - page; ++byte) {
    if (byte == first) byte += size;
    if (byte < base + mapped - page && *byte != kPoison) report("a write outside of a buffer");
  }
  munmap(base, mapped);
}

}  // namespace emulation

// --- cuda.h

namespace {

// What the driver asks of any tensor.
bool is_tensor(cuuint32_t rank, const void* data, const cuuint64_t* sizes, const cuuint64_t* steps) {
  bool right = reinterpret_cast<uintptr_t>(data) % 16 == 0;
  for (cuuint32_t i = 0; i < rank; ++i) {
    right = right && sizes[i] >= 1 && sizes[i] <= uint64_t{1} << 32;
    if (i > 0) right = right && steps[i - 1] % 16 == 0 && steps[i - 1] < uint64_t{1} << 40;
  }
  return right;
}

}  // namespace

CUresult cuTensorMapEncodeTiled(
    CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data, const cuuint64_t* sizes,
    const cuuint64_t* steps, const cuuint32_t* box, const cuuint32_t* strides, CUtensorMapInterleave,
    CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  if (rank < 3 || rank > 4 || !is_tensor(rank, data, sizes, steps) || box[0] != 64) return CUDA_ERROR_INVALID_VALUE;
  *map = {};
  map->box[3] = 1;
  map->data = static_cast<const unsigned char*>(data);
  map->rank = rank;
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (box[i] < 1 || box[i] > 256 || strides[i] != 1) return CUDA_ERROR_INVALID_VALUE;
    map->sizes[i] = sizes[i], map->box[i] = box[i];
    map->steps[i] = i > 0 ? steps[i - 1] : 2;
  }
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeIm2col(
    CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data, const cuuint64_t* sizes,
    const cuuint64_t* steps, const int* lower, const int* upper, cuuint32_t channels, cuuint32_t lines,
    const cuuint32_t* strides, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
    CUtensorMapFloatOOBfill) {
  if (rank != 4 || !is_tensor(rank, data, sizes, steps) || channels != 64 || lines > 1024) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *map = {};
  map->windows = true;
  map->data = static_cast<const unsigned char*>(data);
  map->rank = rank, map->lines = lines;
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (strides[i] < 1 || strides[i] > 8) return CUDA_ERROR_INVALID_VALUE;
    map->sizes[i] = sizes[i], map->strides[i] = strides[i];
    map->steps[i] = i > 0 ? steps[i - 1] : 2;
  }
  for (int i = 0; i < 2; ++i) {
    const bool fits = lower[i] >= -128 && lower[i] <= 127 && upper[i] >= -128 && upper[i] <= 127;
    if (!fits || static_cast<int64_t>(sizes[i + 1]) + upper[i] <= lower[i]) return CUDA_ERROR_INVALID_VALUE;
    map->lower[i] = lower[i], map->upper[i] = upper[i];
  }
  return CUDA_SUCCESS;
}
