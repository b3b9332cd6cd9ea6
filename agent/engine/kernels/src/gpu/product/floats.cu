// Products of weights in floating point with rows, the same bits for a row whatever rows are beside it: each output is added up in one
// order. The tensor cores take 16 outputs by 8 rows by 16 numbers of bfloat16 at a time. A number is the sum of two of these, the
// nearest to it and the nearest to what is left, which is exact for weights of 16 bits and keeps 16 bits of others; what the second
// parts of two numbers give is below that, and left out.
//
// Which numbers of a block are together does not matter as long as weights and rows agree: lane t of four has the block's columns
// 4t to 4t+3. Which outputs are, neither: lanes g of eight have the panel's outputs 2g and 2g+1, whose weights lie side by side.
#include "panels.cuh"

enum Format { F32, F16, BF16 };

// Numbers of a row that the tensor cores take at a time.
constexpr int BLOCK = 16;
constexpr int WORDS = BLOCK / 2;

__host__ __device__ constexpr int line_columns(Format format) { return format == F32 ? 1 : 2; }

// A block of eight rows as sums of two numbers of bfloat16, two columns to a word. Rows come as `[tiles][blocks]` of these; those
// behind the last row, and what a row's blocks have behind its numbers, are zero.
struct alignas(16) Tile {
    uint32_t nearest[ROWS_AT_ONCE][WORDS];
    uint32_t rest[ROWS_AT_ONCE][WORDS];
};

// The numbers of bfloat16 that are nearest to two, the even one of two as near.
__device__ __forceinline__ uint32_t nearest(float low, float high) {
#ifdef __CUDACC__
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return bfloat16_bits(low) | (uint32_t)bfloat16_bits(high) << 16;
#endif
}

__device__ __forceinline__ void split(float low, float high, uint32_t& most, uint32_t& rest) {
    most = nearest(low, high);
    rest = nearest(__fsub_rn(low, __uint_as_float(most << 16)), __fsub_rn(high, __uint_as_float(most & 0xffff0000u)));
}

// A thread splits two numbers of a row.
extern "C" __global__ void split_rows(const float* x, Tile* out, int count, int columns, int blocks) {
    const size_t index = (size_t)blockIdx.x * THREADS + threadIdx.x, of_row = (size_t)blocks * WORDS;
    const int row = (int)(index / of_row), word = (int)(index % of_row), column = 2 * word;
    if (row >= (count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * ROWS_AT_ONCE) return;
    const float* numbers = x + (size_t)row * columns;
    const float low = row < count && column < columns ? numbers[column] : 0.0f;
    const float high = row < count && column + 1 < columns ? numbers[column + 1] : 0.0f;
    Tile& tile = out[(size_t)(row / ROWS_AT_ONCE) * blocks + word / WORDS];
    split(low, high, tile.nearest[row % ROWS_AT_ONCE][word % WORDS], tile.rest[row % ROWS_AT_ONCE][word % WORDS]);
}

// sums[16 outputs][8 rows] += weights[16][16] rows[16][8]; lane 4g+t has outputs g and g+8 of rows 2t and 2t+1, and of the weights
// words t and t+4 of outputs g and g+8, of the rows words t and t+4 of row g (PTX ISA, `mma.m16n8k16`).
__device__ __forceinline__ void multiply(float sums[4], const uint32_t weights[4], const uint32_t rows[2]) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "r"(rows[0]), "r"(rows[1]));
#else
    on_host::multiply(sums, weights, rows);
#endif
}

// What a lane has of a block of weights, as the panel has it: of columns 4t to 4t+3, outputs 2g and 2g+1.
template <Format F>
struct Stored {
    static constexpr int LINES = BLOCK / line_columns(F) / 4;
    uint32_t words[LINES][2];

    __device__ __forceinline__ void load(const uint32_t* panel, int block, int panel_lines) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first = (block * 4 + t) * LINES;
        for (int at = 0; at < LINES; at++) {
            const uint32_t* line = panel + (size_t)(first + at) * PANEL_ROWS;
            uint2 both = {0, 0};
            if (first + at < panel_lines) {
                // A line of two columns has all outputs of the first, and then those of the second.
                if constexpr (F == F32) both = *(const uint2*)(line + 2 * g);
                else both = {line[g], line[PANEL_ROWS / 2 + g]};
            }
            words[at][0] = both.x;
            words[at][1] = both.y;
        }
    }
};

// The same as the tensor cores take it: words t and t+4 of outputs 2g and 2g+1.
template <Format F>
struct Weights {
    uint32_t most[4], rest[F == BF16 ? 1 : 4];

    __device__ __forceinline__ explicit Weights(const Stored<F>& stored) {
        for (int at = 0; at < 4; at++) {
            const int word = at / 2, output = at % 2;
            if constexpr (F == F32) {
                const uint32_t low = stored.words[2 * word][output], high = stored.words[2 * word + 1][output];
                split(__uint_as_float(low), __uint_as_float(high), most[at], rest[at]);
            } else {
                const uint32_t low = stored.words[word][0], high = stored.words[word][1];
                const uint32_t both = output == 0 ? (low & 0xffffu) | high << 16 : low >> 16 | (high & 0xffff0000u);
                if constexpr (F == BF16) most[at] = both;
                else split(half_bits(both & 0xffffu), half_bits(both >> 16), most[at], rest[at]);
            }
        }
    }
};

// `rows` of the tile are read, the others taken for zero.
template <Format F>
__device__ __forceinline__ void add(float sums[4], const Weights<F>& weights, const Tile& tile, int rows) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint2 most = {0, 0}, rest = {0, 0};
    if (g < rows) {
        most = *(const uint2*)&tile.nearest[g][2 * t];
        rest = *(const uint2*)&tile.rest[g][2 * t];
    }
    const uint32_t most_words[2] = {most.x, most.y}, rest_words[2] = {rest.x, rest.y};
    multiply(sums, weights.most, most_words);
    multiply(sums, weights.most, rest_words);
    if constexpr (F != BF16) multiply(sums, weights.rest, most_words);
}

// A thread block has some panels and tiles, and each of its warps every eighth block of numbers, so that even one panel has many
// readers. What the warps have is added up in their order.
template <Format F, int PANELS, int TILES>
__device__ __forceinline__ void multiply_floats(const uint32_t* lines, const Tile* rows, float* out, int outputs, int count,
                                                int columns, int blocks) {
    constexpr int AT_ONCE = THREADS / OUTPUTS_AT_ONCE;
    // Blocks that are asked for ahead: few rows wait for the memory, many have no registers left.
    constexpr int AHEAD = PANELS == 1 ? 4 : 1;
    __shared__ float parts[AT_ONCE][WARPS][OUTPUTS_AT_ONCE];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int first_panel = blockIdx.y * PANELS, first_tile = blockIdx.x * TILES;
    const int last_panel = (outputs - 1) / PANEL_ROWS, last_tile = (count - 1) / ROWS_AT_ONCE;
    const int panel_lines = (columns + line_columns(F) - 1) / line_columns(F);
    const uint32_t* panels[PANELS];
    for (int at = 0; at < PANELS; at++)
        panels[at] = lines + (size_t)min(first_panel + at, last_panel) * panel_lines * PANEL_ROWS;
    const Tile* tiles[TILES];
    for (int at = 0; at < TILES; at++) tiles[at] = rows + (size_t)min(first_tile + at, last_tile) * blocks;
    float sums[PANELS][TILES][4];
    for (int panel = 0; panel < PANELS; panel++)
        for (int tile = 0; tile < TILES; tile++)
            for (int at = 0; at < 4; at++) sums[panel][tile][at] = 0;
    // A tile alone has the one row of a sequence that is decoded, most of the time.
    const int tile_rows = TILES == 1 ? count - first_tile * ROWS_AT_ONCE : ROWS_AT_ONCE;
    Stored<F> stored[AHEAD][PANELS];
    for (int at = 0; at < AHEAD; at++)
        for (int panel = 0; panel < PANELS; panel++)
            if (warp + at * WARPS < blocks) stored[at][panel].load(panels[panel], warp + at * WARPS, panel_lines);
    for (int first = warp; first < blocks; first += AHEAD * WARPS) {
#pragma unroll
        for (int at = 0; at < AHEAD; at++) {
            const int block = first + at * WARPS, later = block + AHEAD * WARPS;
            if (block >= blocks) break;
            Stored<F> now[PANELS];
            for (int panel = 0; panel < PANELS; panel++) {
                now[panel] = stored[at][panel];
                if (later < blocks) stored[at][panel].load(panels[panel], later, panel_lines);
            }
#pragma unroll
            for (int panel = 0; panel < PANELS; panel++) {
                const Weights<F> weights(now[panel]);
#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
                    add<F>(sums[panel][tile], weights, tiles[tile][block], tile_rows);
            }
        }
    }
    // Half of the threads have one pair of panel and tile, the others the next; neighbours have outputs side by side.
    const int group = thread / OUTPUTS_AT_ONCE, mine = thread % OUTPUTS_AT_ONCE;
    const int output = mine % PANEL_ROWS, row = mine / PANEL_ROWS;
    const int from = (output % 2 * 2 + row % 2) * 32 + output / 2 * 4 + row / 2;
#pragma unroll
    for (int first = 0; first < PANELS * TILES; first += AT_ONCE) {
        // By then everyone has read what was here before.
        if (first > 0) __syncthreads();
#pragma unroll
        for (int of = 0; of < AT_ONCE && first + of < PANELS * TILES; of++)
            for (int at = 0; at < 4; at++)
                parts[of][warp][at * 32 + lane] = sums[(first + of) / TILES][(first + of) % TILES][at];
        __syncthreads();
        if (first + group >= PANELS * TILES) continue;
        float sum = 0;
        for (int of = 0; of < WARPS; of++) sum = __fadd_rn(sum, parts[group][of][from]);
        const int to_row = (first_tile + (first + group) % TILES) * ROWS_AT_ONCE + row;
        const int to_output = (first_panel + (first + group) / TILES) * PANEL_ROWS + output;
        if (to_row < count && to_output < outputs) out[(size_t)to_row * outputs + to_output] = sum;
    }
}

#define FLOATS(F, PANELS, TILES)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) multiply_##F##_##PANELS##_##TILES(                                 \
        const uint32_t* lines, const Tile* rows, float* out, int outputs, int count, int columns, int blocks) {              \
        multiply_floats<F, PANELS, TILES>(lines, rows, out, outputs, count, columns, blocks);                                \
    }
#define FEW_AND_MANY(F) \
    FLOATS(F, 1, 1) \
    FLOATS(F, 1, 2) \
    FLOATS(F, 1, 4) \
    FLOATS(F, 1, 8) \
    FLOATS(F, 4, 8)
FEW_AND_MANY(F32)
FEW_AND_MANY(F16)
FEW_AND_MANY(BF16)
