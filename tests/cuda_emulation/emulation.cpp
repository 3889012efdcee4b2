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

#include "emulated_tensor_core.h"
#include "memory.h"

dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace convops {
// The dynamic shared memory of every kernel, which declares it `extern`.
thread_local __align__(128) unsigned char shared_storage[163 * 1024];
}  // namespace convops

namespace emulation {

std::string under_test;

namespace {

std::mt19937 random_bits;  // the same in every run
constexpr int kPoison = 0xff;

enum class State { ready, at_block_barrier, at_warp_barrier, returned };

struct Copy {
  void* to;
  const void* from;
  bool valid;

  void operator()() const { valid ? std::memcpy(to, from, 16) : std::memset(to, 0, 16); }
};

struct Fiber {
  jmp_buf context;
  bool started = false;
  State state = State::returned;
  unsigned exchanges = 0;
  std::deque<std::vector<Copy>> copies;  // in groups; the last one is open
};

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
    fibers[i].copies.assign(1, {});
  }
  for (;;) {
    std::shuffle(order.begin(), order.end(), random_bits);
    bool ran = false, waits = false;
    for (const unsigned i : order) {
      if (fibers[i].state == State::ready) resume(i), ran = true;
    }
    for (const unsigned i : order) waits = waits || fibers[i].state != State::returned;
    if (!waits) break;
    if (!ran) report("threads wait at barriers that the others never reach");
    for (unsigned i = 0; i < blockDim.x; i += 32) {
      release(i, std::min(i + 32, blockDim.x), State::at_warp_barrier);
    }
    release(0, blockDim.x, State::at_block_barrier);
  }
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
  const Copy copy{shared, global, valid};
  if (random_below(2) == 0) {
    copy();
  } else {
    current().copies.back().push_back(copy);
  }
}

void copy_async_commit() {
  current().copies.emplace_back();
}

void copy_async_wait(int pending) {
  auto& copies = current().copies;
  for (; copies.size() > static_cast<size_t>(pending) + 1; copies.pop_front()) {
    for (const Copy& copy : copies.front()) copy();
  }
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
