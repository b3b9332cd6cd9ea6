// As much of CUDA as our kernels need, on a CPU: a thread is a context of its own, and all of a block's take turns, each running
// until it waits for others. Warps and their lanes go ahead of each other at random, as far as they may. Slow, and the same in the bits
// where a kernel leaves nothing to the compiler.
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
#define __shared__ static thread_local
#define __forceinline__ inline
#define __launch_bounds__(threads)

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
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

inline thread_local ucontext_t scheduler;
inline thread_local Thread* current;
inline thread_local dim3 grid, block;
inline thread_local Meeting whole_block;
inline thread_local const std::function<void()>* kernel;
// Waits that are over.
inline thread_local uint64_t steps;

inline void meet(Meeting& meeting) {
    const unsigned turn = meeting.turn;
    if (++meeting.there == meeting.members) {
        meeting.there = 0;
        meeting.turn++;
    }
    while (meeting.turn == turn) swapcontext(&current->context, &scheduler);
    steps++;
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

// Lets each thread of a warp run until it waits; how many ended.
inline unsigned run_warp(Thread* lanes, unsigned first) {
    unsigned ended = 0;
    for (unsigned at = 0; at < LANES; at++) {
        current = &lanes[(first + at) % LANES];
        if (current->ended) continue;
        swapcontext(&scheduler, &current->context);
        ended += current->ended;
    }
    return ended;
}

inline void run_block(std::vector<Thread>& all, std::vector<Warp>& warps, std::minstd_rand& order) {
    const unsigned threads = (unsigned)all.size();
    whole_block = {threads, 0, 0};
    for (Warp& warp : warps) warp.meeting = {LANES, 0, 0};
    for (unsigned at = 0; at < threads; at++) {
        Thread& thread = all[at];
        thread.index = {at, 0, 0};
        thread.warp = &warps[at / LANES];
        thread.ended = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = STACK_BYTES;
        thread.context.uc_link = &scheduler;
        makecontext(&thread.context, run_thread, 0);
    }
    for (unsigned running = threads; running > 0;) {
        Thread* lanes = &all[order() % warps.size() * LANES];
        // A warp that gets ahead of the others gets far ahead.
        uint64_t before = steps - 1;
        for (unsigned turns = 1u << order() % 7; turns > 0 && steps != before; turns--) {
            before = steps;
            running -= run_warp(lanes, (unsigned)(order() % LANES));
        }
    }
}

// Runs a kernel for every thread of every block, one block after the other.
inline void launch(dim3 blocks, unsigned threads, const std::function<void()>& run) {
    kernel = &run;
    grid = blocks;
    std::minstd_rand order;
    std::vector<Thread> all(threads);
    std::vector<Warp> warps(threads / LANES);
    for (Thread& thread : all) thread.stack = std::make_unique<char[]>(STACK_BYTES);
    for (unsigned at = 0; at < grid.x * grid.y * grid.z; at++) {
        block = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
        run_block(all, warps, order);
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

// `mma.m16n8k16` of numbers of bfloat16, by the PTX ISA's table, added up one after the other.
inline void multiply(float sums[4], const uint32_t weights[4], const uint32_t rows[2]) {
    Warp& warp = *current->warp;
    memcpy(warp.weights[lane()], weights, sizeof(warp.weights[0]));
    memcpy(warp.rows[lane()], rows, sizeof(warp.rows[0]));
    meet(warp.meeting);
    const unsigned g = lane() / 4, t = lane() % 4;
    const auto number = [](uint32_t word, unsigned of) {
        const uint32_t bits = of ? word & 0xffff0000u : word << 16;
        float value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    };
    for (unsigned at = 0; at < 4; at++) {
        const unsigned output = g + 8 * (at / 2), row = 2 * t + at % 2;
        for (unsigned k = 0; k < 16; k++) {
            const unsigned of = k % 8 / 2, half = k / 8;
            const uint32_t weight = warp.weights[output % 8 * 4 + of][output / 8 + 2 * half];
            sums[at] = fmaf(number(weight, k % 2), number(warp.rows[row * 4 + of][half], k % 2), sums[at]);
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
#define gridDim (on_host::grid)

inline void __syncthreads() { on_host::meet(on_host::whole_block); }
inline void __syncwarp() { on_host::meet(on_host::current->warp->meeting); }

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
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

inline float rsqrtf(float number) { return 1.0f / sqrtf(number); }

struct alignas(8) float2 {
    float x, y;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct __half {
    uint16_t bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline float __half2float(__half half) {
    const int exponent = half.bits >> 10 & 31, mantissa = half.bits & 1023;
    const float sign = half.bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf((float)(mantissa + 1024), exponent - 25) : ldexpf((float)mantissa, -24));
}
// To the nearest, and to the even one of two; what rounds up to 2048 units has the next exponent by itself.
inline __half __float2half_rn(float number) {
    const uint16_t sign = (uint16_t)(__float_as_uint(number) >> 16 & 0x8000u);
    if (number != number) return {(uint16_t)(sign | 0x7fffu)};
    const float size = fabsf(number);
    if (size >= 65520.0f) return {(uint16_t)(sign | 0x7c00u)};
    const int exponent = size < 0x1p-14f ? -14 : ilogbf(size);
    const unsigned units = (unsigned)lrintf(ldexpf(size, 10 - exponent));
    return {(uint16_t)(sign | (((unsigned)(exponent + 14) << 10) + units))};
}
