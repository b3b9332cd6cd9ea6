// As much of CUDA as `product.cu` needs, on a CPU: a thread is a context of its own, and all of a block's take turns, each running
// until it waits for others. Warps go ahead of each other at random, as far as they may. Slow, and the same in the bits.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(threads)

using std::max;
using std::min;

struct dim3 {
    unsigned x, y;
};

namespace on_host {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr unsigned LANES = 32;

// Those who wait for each other: `there` of `members` have come, for the time `turn`.
struct Meeting {
    unsigned members = 0, there = 0, turn = 0;
};

struct Warp {
    Meeting meeting;
    uint32_t words[LANES];
    uint32_t weights[LANES][4], rows[LANES][2];
};

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    dim3 index;
    Warp* warp;
    bool ended;
};

inline ucontext_t scheduler;
inline Thread* current;
inline dim3 block;
inline Meeting whole_block;
inline const std::function<void()>* kernel;

inline void meet(Meeting& meeting) {
    const unsigned turn = meeting.turn;
    if (++meeting.there == meeting.members) {
        meeting.there = 0;
        meeting.turn++;
    }
    while (meeting.turn == turn) swapcontext(&current->context, &scheduler);
}

inline void leave(Meeting& meeting) {
    meeting.members--;
    if (meeting.there > 0 && meeting.there == meeting.members) {
        meeting.there = 0;
        meeting.turn++;
    }
}

inline void run_thread() {
    (*kernel)();
    current->ended = true;
    leave(current->warp->meeting);
    leave(whole_block);
}

// Runs a kernel for every thread of every block, one block after the other.
inline void launch(dim3 grid, unsigned threads, const std::function<void()>& run) {
    kernel = &run;
    std::minstd_rand order;
    std::vector<Thread> all(threads);
    std::vector<Warp> warps(threads / LANES);
    for (Thread& thread : all) thread.stack = std::make_unique<char[]>(STACK_BYTES);
    for (block.y = 0; block.y < grid.y; block.y++) {
        for (block.x = 0; block.x < grid.x; block.x++) {
            whole_block = {threads, 0, 0};
            for (Warp& warp : warps) warp.meeting = {LANES, 0, 0};
            for (unsigned at = 0; at < threads; at++) {
                Thread& thread = all[at];
                thread.index = {at, 0};
                thread.warp = &warps[at / LANES];
                thread.ended = false;
                getcontext(&thread.context);
                thread.context.uc_stack.ss_sp = thread.stack.get();
                thread.context.uc_stack.ss_size = STACK_BYTES;
                thread.context.uc_link = &scheduler;
                makecontext(&thread.context, run_thread, 0);
            }
            for (size_t running = threads; running > 0;) {
                const unsigned warp = (unsigned)(order() % warps.size());
                for (unsigned lane = 0; lane < LANES; lane++) {
                    current = &all[warp * LANES + lane];
                    if (current->ended) continue;
                    swapcontext(&scheduler, &current->context);
                    running -= current->ended;
                }
            }
        }
    }
}

inline unsigned lane() { return current->index.x % LANES; }

// `mma.m16n8k32` of unsigned by signed bytes, by the PTX ISA's table of which lane has what.
inline void multiply(int sums[4], const uint32_t weights[4], const uint32_t rows[2]) {
    Warp& warp = *current->warp;
    memcpy(warp.weights[lane()], weights, sizeof(warp.weights[0]));
    memcpy(warp.rows[lane()], rows, sizeof(warp.rows[0]));
    meet(warp.meeting);
    const unsigned g = lane() / 4, t = lane() % 4;
    for (unsigned at = 0; at < 4; at++) {
        const unsigned output = g + 8 * (at / 2), row = 2 * t + at % 2;
        for (unsigned k = 0; k < 32; k++) {
            const unsigned of = k % 16 / 4, half = k / 16, byte = k % 4;
            const uint32_t weight = warp.weights[output % 8 * 4 + of][output / 8 + 2 * half];
            const uint32_t number = warp.rows[row * 4 + of][half];
            sums[at] += (int)(uint8_t)(weight >> (8 * byte)) * (int)(int8_t)(number >> (8 * byte));
        }
    }
    meet(warp.meeting);
}

template <typename T>
T exchange(T value, int apart) {
    static_assert(sizeof(T) == sizeof(uint32_t));
    Warp& warp = *current->warp;
    memcpy(&warp.words[lane()], &value, sizeof(value));
    meet(warp.meeting);
    memcpy(&value, &warp.words[lane() ^ apart], sizeof(value));
    meet(warp.meeting);
    return value;
}

}  // namespace on_host

#define threadIdx (on_host::current->index)
#define blockIdx (on_host::block)

inline void __syncthreads() { on_host::meet(on_host::whole_block); }

template <typename T>
T __shfl_xor_sync(uint32_t, T value, int apart) {
    return on_host::exchange(value, apart);
}

inline float __uint_as_float(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof(number));
    return number;
}
inline uint32_t __float_as_uint(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof(bits));
    return bits;
}
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

inline unsigned short __ushort_as_half(unsigned short bits) { return bits; }
inline float __half2float(unsigned short half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const float sign = half >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf((float)(mantissa + 1024), exponent - 25) : ldexpf((float)mantissa, -24));
}
