// What a step computes on a GPU beside its matrix products. Activations are 32-bit floats in rows; keys and values are in blocks of
// 16 tokens, [block][keys, values][kv head][token][number], behind bytes with a scale of each token. What a row gives does not depend on
// the rows beside it. Each op has a plain twin of each kernel, and says what its arguments are.
#include "stored.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;
// Pairs of numbers of a head that a lane has.
constexpr int MOST_PAIRS = 4;
constexpr int MOST_HEAD_DIM = 2 * 32 * MOST_PAIRS;
// Tokens whose scores are in shared memory at a time.
constexpr int TILE = 64;
constexpr float NOTHING_SEEN = -1e30f;

__device__ __forceinline__ float warp_sum(float x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

__device__ float block_sum(float x) {
    __shared__ float sums[WARPS];
    __syncthreads();
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < WARPS; warp++) total += sums[warp];
    return total;
}

struct Head {
    float first[MOST_PAIRS], second[MOST_PAIRS];
};

__device__ __forceinline__ int place_in_head(int pair, int half, int second, int neighbours) {
    return neighbours ? 2 * pair + second : pair + second * half;
}

// A warp reads a head, adds the bias, norms it and turns its pairs, as far as these are there.
__device__ Head turned(const float* x, const float* bias, const float* norm, const float* angles, int dim, int neighbours,
                       float eps) {
    const int lane = threadIdx.x % 32, half = dim / 2;
    Head head;
    float squares = 0;
    for (int index = 0; index < MOST_PAIRS; index++) {
        const int pair = lane + 32 * index;
        float a = 0, b = 0;
        if (pair < half) {
            const int at = place_in_head(pair, half, 0, neighbours), next = place_in_head(pair, half, 1, neighbours);
            a = x[at] + (bias ? bias[at] : 0.0f);
            b = x[next] + (bias ? bias[next] : 0.0f);
        }
        squares += a * a + b * b;
        head.first[index] = a;
        head.second[index] = b;
    }
    const float scale = norm ? rsqrtf(warp_sum(squares) / dim + eps) : 1.0f;
    for (int index = 0; index < MOST_PAIRS; index++) {
        const int pair = lane + 32 * index;
        if (pair >= half) continue;
        float a = head.first[index], b = head.second[index];
        if (norm) {
            a *= scale * norm[place_in_head(pair, half, 0, neighbours)];
            b *= scale * norm[place_in_head(pair, half, 1, neighbours)];
        }
        if (angles) {
            const float cos = angles[pair], sin = angles[half + pair];
            head.first[index] = a * cos - b * sin;
            head.second[index] = b * cos + a * sin;
        } else {
            head.first[index] = a;
            head.second[index] = b;
        }
    }
    return head;
}

extern "C" __global__ void turn_queries(const float* x, const float* bias, const float* norm, const float* angles,
                                        float* out, int rows, int heads, int dim, int neighbours, float eps, float scale) {
    const int unit = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, half = dim / 2;
    if (unit >= rows * heads) return;
    const int row = unit / heads, head = unit % heads;
    const Head all = turned(x + (size_t)unit * dim, bias ? bias + head * dim : nullptr, norm,
                            angles + (size_t)row * dim, dim, neighbours, eps);
    for (int index = 0; index < MOST_PAIRS; index++) {
        const int pair = lane + 32 * index;
        if (pair >= half) continue;
        out[(size_t)unit * dim + place_in_head(pair, half, 0, neighbours)] = all.first[index] * scale;
        out[(size_t)unit * dim + place_in_head(pair, half, 1, neighbours)] = all.second[index] * scale;
    }
}

template <Cache C>
__device__ __forceinline__ void store_keys_values(unsigned char* store, const float* keys, const float* values,
                                                  const float* key_bias, const float* value_bias, const float* norm,
                                                  const float* angles, const uint32_t* table, const uint32_t* places, int rows,
                                                  int kv_heads, int dim, int neighbours, float eps) {
    const int unit = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, half = dim / 2;
    if (unit >= rows * kv_heads * 2) return;
    const int row = unit / (2 * kv_heads), is_value = unit / kv_heads % 2, head = unit % kv_heads;
    const float* bias = is_value ? value_bias : key_bias;
    const float* x = (is_value ? values : keys) + ((size_t)row * kv_heads + head) * dim;
    const Head all = turned(x, bias ? bias + head * dim : nullptr, is_value ? nullptr : norm,
                            is_value ? nullptr : angles + (size_t)row * dim, dim, neighbours, eps);
    const uint32_t position = places[2 * row + 1];
    const int token = position % BLOCK_TOKENS;
    const Stored<C> to(store, table[places[2 * row] + position / BLOCK_TOKENS], is_value, kv_heads, head, dim);
    float scale = 1;
    if constexpr (C == INT8) {
        // By their bits, so that what is not a number is the largest and shows in what is read.
        uint32_t largest = 0;
        for (int index = 0; index < MOST_PAIRS; index++) {
            if (lane + 32 * index >= half) continue;
            largest = max(largest, __float_as_uint(all.first[index]) & 0x7fffffffu);
            largest = max(largest, __float_as_uint(all.second[index]) & 0x7fffffffu);
        }
        for (int offset = 16; offset > 0; offset /= 2)
            largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
        const __half rounded = __float2half_rn(__fdiv_rn(__uint_as_float(largest), LARGEST_BYTE));
        if (lane == 0) to.scale(token) = rounded;
        scale = __half2float(rounded);
    }
    for (int index = 0; index < MOST_PAIRS; index++) {
        const int pair = lane + 32 * index;
        if (pair >= half) continue;
        to.put(token, place_in_head(pair, half, 0, neighbours), all.first[index], scale);
        to.put(token, place_in_head(pair, half, 1, neighbours), all.second[index], scale);
    }
}

// A row of queries against a part of what it sees, for G heads that share their keys. Parts begin at multiples of `part`
// tokens of the sequence, so that sums do not depend on what else is in the step.
template <Cache C, int G>
__device__ void attend(const float* queries, const unsigned char* store, const uint32_t* table, const uint32_t* places,
                       float* out, float* parts, float* statistics, int heads, int kv_heads, int dim, int window, int part) {
    __shared__ float shared[G * MOST_HEAD_DIM];  // queries [G][dim]; in the end sums [lines][G][dim], which are no more
    __shared__ float weights[G][TILE];
    __shared__ float peaks[G], totals[G], shrinks[G];
    const int row = blockIdx.x, splits = gridDim.z, split = blockIdx.z;
    const int group = heads / kv_heads, chunks = (group + G - 1) / G;
    const int kv_head = blockIdx.y / chunks, chunk = blockIdx.y % chunks;
    const int first_head = kv_head * group + chunk * G, count = min(G, group - chunk * G);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const uint32_t* blocks = table + places[2 * row];
    const int end = places[2 * row + 1] + 1;
    const int from = max(window ? end - window : 0, split * part), to = min(end, (split + 1) * part);
    const size_t partial = ((size_t)row * splits + split) * heads + first_head;
    if (from >= to) {
        for (int head = thread; head < count; head += THREADS) {
            statistics[2 * (partial + head)] = NOTHING_SEEN;
            statistics[2 * (partial + head) + 1] = 0;
        }
        return;
    }
    for (int at = thread; at < G * dim; at += THREADS)
        shared[at] = at / dim < count ? queries[((size_t)row * heads + first_head) * dim + at] : 0.0f;
    if (thread < G) {
        peaks[thread] = NOTHING_SEEN;
        totals[thread] = 0;
    }
    const int pairs = dim / 2, lines = THREADS / pairs, line = thread / pairs, pair = thread % pairs;
    float sums[G][2];
    for (int head = 0; head < G; head++) sums[head][0] = sums[head][1] = 0;
    __syncthreads();
    for (int base = from / BLOCK_TOKENS * BLOCK_TOKENS; base < to; base += TILE) {
        // Eight lanes have a token.
        for (int turn = 0; turn < TILE / BLOCK_TOKENS; turn++) {
            const int in_tile = turn * BLOCK_TOKENS + warp * 4 + lane / 8, token = base + in_tile, eighth = lane % 8;
            const bool seen = token >= from && token < to;
            float scores[G];
            for (int head = 0; head < G; head++) scores[head] = 0;
            if (seen) {
                const Stored<C> keys(store, blocks[token / BLOCK_TOKENS], 0, kv_heads, kv_head, dim);
                for (int eight = eighth; eight < dim / 8; eight += 8) {
                    float2 numbers[4];
                    keys.eight(token % BLOCK_TOKENS, eight * 8, numbers);
                    for (int two = 0; two < 4; two++) {
                        for (int head = 0; head < G; head++) {
                            const float* query = shared + head * dim + eight * 8 + two * 2;
                            scores[head] += numbers[two].x * query[0] + numbers[two].y * query[1];
                        }
                    }
                }
                if constexpr (C == INT8) {
                    const float scale = __half2float(keys.scale(token % BLOCK_TOKENS));
                    for (int head = 0; head < G; head++) scores[head] *= scale;
                }
            }
            for (int head = 0; head < G; head++) {
                float score = scores[head];
                for (int offset = 4; offset > 0; offset /= 2) score += __shfl_xor_sync(0xffffffffu, score, offset);
                if (eighth == 0) weights[head][in_tile] = seen ? score : -INFINITY;
            }
        }
        __syncthreads();
        for (int head = warp; head < G; head += WARPS) {
            const float one = weights[head][lane], other = weights[head][lane + 32];
            const float before = peaks[head], peak = fmaxf(before, warp_max(fmaxf(one, other)));
            const float a = expf(one - peak), b = expf(other - peak), total = warp_sum(a + b);
            weights[head][lane] = a;
            weights[head][lane + 32] = b;
            __syncwarp();
            if (lane == 0) {
                const float shrink = expf(before - peak);
                shrinks[head] = shrink;
                totals[head] = totals[head] * shrink + total;
                peaks[head] = peak;
            }
        }
        __syncthreads();
        if (line < lines) {
            for (int head = 0; head < G; head++) {
                sums[head][0] *= shrinks[head];
                sums[head][1] *= shrinks[head];
            }
            // What is not seen may hold anything, even what is not a number.
            const int least = max(from - base, 0), most = min(to - base, TILE);
            for (int in_tile = least + line; in_tile < most; in_tile += lines) {
                const int token = base + in_tile;
                const Stored<C> values(store, blocks[token / BLOCK_TOKENS], 1, kv_heads, kv_head, dim);
                float2 numbers = values.two(token % BLOCK_TOKENS, 2 * pair);
                if constexpr (C == INT8) {
                    const float scale = __half2float(values.scale(token % BLOCK_TOKENS));
                    numbers = {numbers.x * scale, numbers.y * scale};
                }
                for (int head = 0; head < G; head++) {
                    sums[head][0] += weights[head][in_tile] * numbers.x;
                    sums[head][1] += weights[head][in_tile] * numbers.y;
                }
            }
        }
        __syncthreads();
    }
    if (line < lines) {
        for (int head = 0; head < G; head++) {
            float* sum = shared + ((size_t)line * G + head) * dim + 2 * pair;
            sum[0] = sums[head][0];
            sum[1] = sums[head][1];
        }
    }
    __syncthreads();
    for (int at = thread; at < count * dim; at += THREADS) {
        float sum = 0;
        for (int of = 0; of < lines; of++) sum += shared[of * G * dim + at];
        if (splits == 1)
            out[((size_t)row * heads + first_head) * dim + at] = sum / totals[at / dim];
        else
            parts[partial * dim + at] = sum;
    }
    if (splits > 1 && thread < count) {
        statistics[2 * (partial + thread)] = peaks[thread];
        statistics[2 * (partial + thread) + 1] = totals[thread];
    }
}

#define ATTEND(C, G)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_##C##_##G(                                             \
        const float* queries, const unsigned char* store, const uint32_t* table, const uint32_t* places, float* out,    \
        float* parts, float* statistics, int heads, int kv_heads, int dim, int window, int part) {                      \
        attend<C, G>(queries, store, table, places, out, parts, statistics, heads, kv_heads, dim, window, part);        \
    }
#define OF_CACHE(C)                                                                                                     \
    extern "C" __global__ void store_keys_values_##C(                                                                   \
        unsigned char* store, const float* keys, const float* values, const float* key_bias, const float* value_bias,   \
        const float* norm, const float* angles, const uint32_t* table, const uint32_t* places, int rows, int kv_heads,  \
        int dim, int neighbours, float eps) {                                                                           \
        store_keys_values<C>(store, keys, values, key_bias, value_bias, norm, angles, table, places, rows, kv_heads,    \
                             dim, neighbours, eps);                                                                     \
    }                                                                                                                   \
    ATTEND(C, 1)                                                                                                        \
    ATTEND(C, 2)                                                                                                        \
    ATTEND(C, 4)                                                                                                        \
    ATTEND(C, 8)
OF_CACHE(F16)
OF_CACHE(BF16)
OF_CACHE(INT8)

// Joins the parts of a row and head.
extern "C" __global__ void join_parts(const float* parts, const float* statistics, float* out, int heads, int dim,
                                      int splits) {
    const int row = blockIdx.x, head = blockIdx.y;
    const size_t first = (size_t)row * splits * heads + head;
    float peak = NOTHING_SEEN;
    for (int split = 0; split < splits; split++) peak = fmaxf(peak, statistics[2 * (first + (size_t)split * heads)]);
    for (int at = threadIdx.x; at < dim; at += THREADS) {
        float sum = 0, total = 0;
        for (int split = 0; split < splits; split++) {
            const size_t part = first + (size_t)split * heads;
            if (statistics[2 * part + 1] == 0) continue;
            const float weight = expf(statistics[2 * part] - peak);
            total += weight * statistics[2 * part + 1];
            sum += weight * parts[part * dim + at];
        }
        out[((size_t)row * heads + head) * dim + at] = sum / total;
    }
}

extern "C" __global__ void gate(const float* gates, const float* ups, float* out, size_t numbers, int gelu) {
    const size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= numbers) return;
    const float x = gates[at];
    const float activated =
        gelu ? 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))) : x / (1.0f + expf(-x));
    out[at] = activated * ups[at];
}

// A block's output, normed where `post` is there, joins the residual stream; `out` gets that, and behind all rows of it
// the same normed for the next block.
extern "C" __global__ void join_residual(const float* hidden, const float* output, const float* post, const float* next,
                                         float* out, int rows, int width, float eps) {
    const size_t row = blockIdx.x;
    const float *x = hidden + row * width, *y = output + row * width;
    float *joined = out + row * width, *normed = joined + (size_t)rows * width;
    float scale = 1;
    if (post) {
        float squares = 0;
        for (int at = threadIdx.x; at < width; at += THREADS) squares += y[at] * y[at];
        scale = rsqrtf(block_sum(squares) / width + eps);
    }
    float squares = 0;
    for (int at = threadIdx.x; at < width; at += THREADS) {
        const float sum = x[at] + (post ? y[at] * scale * post[at] : y[at]);
        joined[at] = sum;
        squares += sum * sum;
    }
    scale = rsqrtf(block_sum(squares) / width + eps);
    for (int at = threadIdx.x; at < width; at += THREADS) normed[at] = joined[at] * scale * next[at];
}
