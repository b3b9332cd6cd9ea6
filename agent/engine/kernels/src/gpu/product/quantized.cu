// Products of quantized weights with rows, in the bits of the CPU's (`matmul/plain.rs`), whatever rows are beside a row: dot products
// of a block of 32 numbers are whole numbers, and each output adds its blocks up one after the other. Rows are rounded as on the CPU
// (`quantize.rs`).
//
// The tensor cores take the dot products: 16 outputs by 8 rows by 32 numbers at a time. Which numbers of a block are together does
// not matter to whole numbers, so lane t of four has the block's words 2t and 2t+1, which panels keep in one line.
#include "panels.cuh"

constexpr uint32_t EVERYONE = 0xffffffffu;

enum Format { Q4_0, Q5_0, Q8_0, Q4K, Q5K, Q6K };

__host__ __device__ constexpr bool is_super(Format format) { return format == Q4K || format == Q5K || format == Q6K; }
__host__ __device__ constexpr bool has_minima(Format format) { return format == Q4K || format == Q5K; }
// Halves of a block have scales of their own.
__host__ __device__ constexpr bool has_halves(Format format) { return format == Q6K; }
__host__ __device__ constexpr int unit_blocks(Format format) { return is_super(format) ? 8 : 2; }
__host__ __device__ constexpr int scale_lines(Format format) { return is_super(format) ? 5 : 1; }
__host__ __device__ constexpr int quant_lines(Format format) {
    return format == Q8_0 ? 8 : format == Q6K ? 6 : format == Q5_0 || format == Q5K ? 5 : 4;
}
__host__ __device__ constexpr int unit_lines(Format format) {
    return scale_lines(format) + unit_blocks(format) * quant_lines(format);
}
__host__ __device__ constexpr int offset(Format format) {
    return format == Q4_0 ? 8 : format == Q5_0 ? 16 : format == Q8_0 ? 128 : format == Q6K ? 32 : 0;
}

// What a block of a row is taken times: its scale, that times the sum of its quants, and the sums of both halves of them.
struct alignas(16) RowBlock {
    float scale, taken;
    int sums[2];
};

// A block of eight rows in eight bits: what lanes read together lies together. Rows come as `[tiles][blocks]` of these; those behind
// the last row, and what a row's blocks have behind its numbers, are zero.
struct Tile {
    uint32_t words[ROWS_AT_ONCE][8];
    RowBlock rows[ROWS_AT_ONCE];
};

// A warp rounds a block of a row. The largest number becomes 127.
extern "C" __global__ void round_rows(const float* x, Tile* out, int count, int columns, int blocks) {
    const size_t index = (size_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32, row = (int)(index / blocks), block = (int)(index % blocks);
    if (row >= (count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * ROWS_AT_ONCE) return;
    const int column = block * 32 + lane;
    const float number = row < count && column < columns ? x[(size_t)row * columns + column] : 0.0f;
    // By their bits, so that what is not a number is the largest and shows in the result.
    uint32_t largest = __float_as_uint(number) & 0x7fffffffu;
    for (int apart = 16; apart > 0; apart /= 2) largest = max(largest, __shfl_xor_sync(EVERYONE, largest, apart));
    const float most = __uint_as_float(largest);
    const float scale = __fdiv_rn(most, 127.0f), inverse = most == 0.0f ? 0.0f : __fdiv_rn(127.0f, most);
    const uint32_t quant = __float_as_uint(__fadd_rn(__fmul_rn(number, inverse), 12582912.0f)) & 0xffu;
    uint32_t word = quant << (8 * (lane % 4));
    word |= __shfl_xor_sync(EVERYONE, word, 1);
    word |= __shfl_xor_sync(EVERYONE, word, 2);
    int sum = (int)(signed char)quant;
    for (int apart = 8; apart > 0; apart /= 2) sum += __shfl_xor_sync(EVERYONE, sum, apart);
    const int other = __shfl_xor_sync(EVERYONE, sum, 16);
    Tile& tile = out[(size_t)(row / ROWS_AT_ONCE) * blocks + block];
    if (lane % 4 == 0) tile.words[row % ROWS_AT_ONCE][lane / 4] = word;
    if (lane == 0) tile.rows[row % ROWS_AT_ONCE] = {scale, __fmul_rn(scale, (float)(sum + other)), {sum, other}};
}

// sums[16 outputs][8 rows] += weights[16][32] rows[32][8]; lane 4g+t has outputs g and g+8 of rows 2t and 2t+1, and of the weights
// words t and t+4 of outputs g and g+8, of the rows words t and t+4 of row g (PTX ISA, `mma.m16n8k32`).
__device__ __forceinline__ void multiply(int sums[4], const uint32_t weights[4], const uint32_t rows[2]) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "r"(rows[0]), "r"(rows[1]));
#else
    on_host::multiply(sums, weights, rows);
#endif
}

// What a lane has of a block of weights: outputs g and g+8, words 2t and 2t+1 of each; and the scales of these outputs.
template <Format F>
struct Weights {
    uint32_t quants[4];
    float scales[has_halves(F) ? 2 : 1][2];
    float minima[2];

    __device__ __forceinline__ void load(const uint32_t* panel, int block) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, in_unit = block % unit_blocks(F);
        const uint32_t* unit = panel + (size_t)(block / unit_blocks(F)) * unit_lines(F) * PANEL_ROWS;
        const uint32_t* lines = unit + (scale_lines(F) + in_unit * quant_lines(F)) * PANEL_ROWS;
        for (int of = 0; of < 2; of++) {
            const int row = g + 8 * of;
            if constexpr (F == Q8_0) {
                quants[of] = lines[2 * t * PANEL_ROWS + row];
                quants[2 + of] = lines[(2 * t + 1) * PANEL_ROWS + row];
            } else {
                const uint32_t both = lines[t * PANEL_ROWS + row];
                quants[of] = both & 0x0f0f0f0fu;
                quants[2 + of] = both >> 4 & 0x0f0f0f0fu;
            }
            if constexpr (F == Q5_0 || F == Q5K) {
                const uint32_t high = lines[4 * PANEL_ROWS + row] >> (2 * t);
                quants[of] |= (high & 0x01010101u) << 4;
                quants[2 + of] |= (high >> 1 & 0x01010101u) << 4;
            }
            if constexpr (F == Q6K) {
                const uint32_t high = lines[(4 + t / 2) * PANEL_ROWS + row] >> (4 * (t % 2));
                quants[of] |= (high & 0x03030303u) << 4;
                quants[2 + of] |= (high >> 2 & 0x03030303u) << 4;
            }
            const uint16_t* halves = (const uint16_t*)unit;
            if constexpr (!is_super(F)) {
                scales[0][of] = half_bits(halves[in_unit * PANEL_ROWS + row]);
            } else if constexpr (F == Q6K) {
                const signed char* bytes = (const signed char*)(unit + PANEL_ROWS);
                const float scale = half_bits(halves[row]);
                for (int half = 0; half < 2; half++)
                    scales[half][of] = scale * (float)bytes[(2 * in_unit + half) * PANEL_ROWS + row];
            } else {
                const unsigned char* bytes = (const unsigned char*)(unit + PANEL_ROWS);
                scales[0][of] = half_bits(halves[row]) * (float)bytes[in_unit * PANEL_ROWS + row];
                minima[of] = half_bits(halves[PANEL_ROWS + row]) * (float)bytes[(8 + in_unit) * PANEL_ROWS + row];
            }
        }
    }
};

// What a block adds to an output: a product, or two where it has halves, or a minimum that is taken off.
template <bool TWO>
struct alignas(8) Products {
    float dot, scale;
};
template <>
struct alignas(16) Products<true> {
    float dot, scale;
    float other, by;
};
template <Format F>
using Term = Products<has_minima(F) || has_halves(F)>;

// Writes an output of a panel and a tile: number `at / 32` of those that lane `at % 32` has.
__device__ __forceinline__ void put(float* out, float sum, int panel, int tile, int at, int outputs, int count) {
    const int lane = at % 32, of = at / 32;
    const int row = tile * ROWS_AT_ONCE + 2 * (lane % 4) + of % 2, output = panel * PANEL_ROWS + lane / 4 + 8 * (of / 2);
    if (row < count && output < outputs) out[(size_t)row * outputs + output] = sum;
}

template <Format F>
__device__ __forceinline__ float add(float sum, const Term<F>& term) {
    sum = __fmaf_rn(term.dot, term.scale, sum);
    if constexpr (has_minima(F) || has_halves(F)) sum = __fmaf_rn(term.other, term.by, sum);
    return sum;
}

// The terms of a block for outputs g and g+8 of rows 2t and 2t+1.
template <Format F>
__device__ __forceinline__ void terms(Term<F> out[4], const Weights<F>& weights, const Tile& tile) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t words[2] = {tile.words[g][2 * t], tile.words[g][2 * t + 1]};
    const RowBlock rows[2] = {tile.rows[2 * t], tile.rows[2 * t + 1]};
    int dots[4];
    if constexpr (has_halves(F)) {
        // Words 0 to 3 are of the first half: lanes 0 and 1 of four have them.
        for (int half = 0; half < 2; half++) {
            uint32_t quants[4];
            for (int at = 0; at < 4; at++) quants[at] = t / 2 == half ? weights.quants[at] : 0;
            for (int at = 0; at < 4; at++) dots[at] = -offset(F) * rows[at % 2].sums[half];
            multiply(dots, quants, words);
            for (int at = 0; at < 4; at++) {
                const float scale = __fmul_rn(weights.scales[half][at / 2], rows[at % 2].scale);
                (half ? out[at].other : out[at].dot) = (float)dots[at];
                (half ? out[at].by : out[at].scale) = scale;
            }
        }
    } else {
        for (int at = 0; at < 4; at++) dots[at] = -offset(F) * (rows[at % 2].sums[0] + rows[at % 2].sums[1]);
        multiply(dots, weights.quants, words);
        for (int at = 0; at < 4; at++) {
            out[at].dot = (float)dots[at];
            out[at].scale = __fmul_rn(weights.scales[0][at / 2], rows[at % 2].scale);
            if constexpr (has_minima(F)) {
                out[at].other = -weights.minima[at / 2];
                out[at].by = rows[at % 2].taken;
            }
        }
    }
}

// For a few rows, which wait for the memory: a thread block has a panel, its warps a block of weights each at a time. What these
// give goes through shared memory to the threads that have an output each, and add it up in order.
template <Format F, int TILES>
__device__ __forceinline__ void multiply_few(const uint32_t* lines, const Tile* rounded, float* out, int outputs, int count,
                                             int columns, int blocks) {
    // Two, so that one is written while the other is read.
    __shared__ Term<F> shared[2][WARPS][OUTPUTS_AT_ONCE];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int used = (columns + 31) / 32, first = blockIdx.y * TILES;
    const int panel_lines = (used + unit_blocks(F) - 1) / unit_blocks(F) * unit_lines(F);
    const uint32_t* panel = lines + (size_t)blockIdx.x * panel_lines * PANEL_ROWS;
    const int last = (count - 1) / ROWS_AT_ONCE;
    const Tile* tiles[TILES];
    for (int tile = 0; tile < TILES; tile++) tiles[tile] = rounded + (size_t)min(first + tile, last) * blocks;
    // Half the threads have the outputs of even tiles, the others those of odd ones.
    const int group = thread / OUTPUTS_AT_ONCE, mine = thread % OUTPUTS_AT_ONCE;
    float sums[(TILES + 1) / 2];
    for (int tile = 0; tile < (TILES + 1) / 2; tile++) sums[tile] = 0;
    Weights<F> weights, next;
    if (warp < used) next.load(panel, warp);
    int turn = 0;
    for (int base = 0; base < used; base += WARPS) {
        const int block = base + warp, there = min(WARPS, used - base);
        weights = next;
        if (block + WARPS < used) next.load(panel, block + WARPS);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++, turn++) {
            Term<F>(*const place)[OUTPUTS_AT_ONCE] = shared[turn % 2];
            if (block < used) {
                Term<F> all[4];
                terms<F>(all, weights, tiles[tile][block]);
                for (int at = 0; at < 4; at++) place[warp][at * 32 + lane] = all[at];
            }
            // The turn after the next writes here again: by then everyone has come to the next one's barrier.
            __syncthreads();
            if (group == tile % 2)
                for (int of = 0; of < there; of++) sums[tile / 2] = add<F>(sums[tile / 2], place[of][mine]);
        }
    }
    for (int tile = group; tile < TILES; tile += 2) put(out, sums[tile / 2], blockIdx.x, first + tile, mine, outputs, count);
}

// For many rows, which wait for the arithmetic: a warp has a panel, and goes through it alone.
template <Format F, int TILES>
__device__ __forceinline__ void multiply_many(const uint32_t* lines, const Tile* rounded, float* out, int outputs, int count,
                                              int columns, int blocks) {
    const int lane = threadIdx.x % 32, used = (columns + 31) / 32, first = blockIdx.x * TILES;
    const int index = blockIdx.y * WARPS + threadIdx.x / 32;
    if (index * PANEL_ROWS >= outputs) return;
    const int panel_lines = (used + unit_blocks(F) - 1) / unit_blocks(F) * unit_lines(F);
    const uint32_t* panel = lines + (size_t)index * panel_lines * PANEL_ROWS;
    const int last = (count - 1) / ROWS_AT_ONCE;
    const Tile* tiles[TILES];
    for (int tile = 0; tile < TILES; tile++) tiles[tile] = rounded + (size_t)min(first + tile, last) * blocks;
    float sums[TILES][4];
    for (int tile = 0; tile < TILES; tile++)
        for (int at = 0; at < 4; at++) sums[tile][at] = 0;
    Weights<F> weights, next;
    next.load(panel, 0);
    for (int block = 0; block < used; block++) {
        weights = next;
        if (block + 1 < used) next.load(panel, block + 1);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            Term<F> all[4];
            terms<F>(all, weights, tiles[tile][block]);
            for (int at = 0; at < 4; at++) sums[tile][at] = add<F>(sums[tile][at], all[at]);
        }
    }
    for (int tile = 0; tile < TILES; tile++)
        for (int at = 0; at < 4; at++) put(out, sums[tile][at], index, first + tile, at * 32 + lane, outputs, count);
}

#define QUANTIZED(F, KIND, TILES)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) multiply_##F##_##KIND##_##TILES(                                   \
        const uint32_t* lines, const Tile* rounded, float* out, int outputs, int count, int columns, int blocks) {           \
        multiply_##KIND<F, TILES>(lines, rounded, out, outputs, count, columns, blocks);                                     \
    }
#define FEW_AND_MANY(F) \
    QUANTIZED(F, few, 1) \
    QUANTIZED(F, few, 2) \
    QUANTIZED(F, few, 4) \
    QUANTIZED(F, many, 4)
FEW_AND_MANY(Q4_0)
FEW_AND_MANY(Q5_0)
FEW_AND_MANY(Q8_0)
FEW_AND_MANY(Q4K)
FEW_AND_MANY(Q5K)
FEW_AND_MANY(Q6K)
