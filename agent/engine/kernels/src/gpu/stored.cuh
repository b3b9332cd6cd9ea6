// Keys and values in blocks of 16 tokens, [block][keys, values][kv head][token][number], as 16-bit floats, as bfloat16, or as bytes with a
// scale of each token behind them.
#pragma once
#include "halves.cuh"

constexpr int BLOCK_TOKENS = 16;
constexpr float LARGEST_BYTE = 127.0f;

enum Cache { F16, BF16, INT8 };

// The keys or values of a head in a block.
template <Cache C>
struct Stored {
    static constexpr int NUMBER_BYTES = C == INT8 ? 1 : 2;
    unsigned char* bytes;
    int dim;

    __device__ __forceinline__ Stored(const unsigned char* store, size_t block, int is_value, int kv_heads, int head, int dim)
        : bytes((unsigned char*)store + ((block * 2 + is_value) * kv_heads + head) * size_bytes(dim)), dim(dim) {}

    static __device__ __forceinline__ size_t size_bytes(int dim) {
        return (size_t)BLOCK_TOKENS * (dim * NUMBER_BYTES + (C == INT8 ? sizeof(__half) : 0));
    }

    __device__ __forceinline__ unsigned char* number(int token, int at) const {
        return bytes + (token * dim + at) * NUMBER_BYTES;
    }

    // What a token's bytes are taken times.
    __device__ __forceinline__ __half& scale(int token) const {
        return ((__half*)(bytes + (size_t)BLOCK_TOKENS * dim))[token];
    }

    // Two numbers of a word, or of half of it, without the scale.
    static __device__ __forceinline__ float2 pair(uint32_t word) {
        if constexpr (C == F16) return {half_bits(word & 0xffffu), half_bits(word >> 16)};
        if constexpr (C == BF16) return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
        return {(float)(signed char)word, (float)(signed char)(word >> 8)};
    }

    // Numbers `at` and the next, which is even.
    __device__ __forceinline__ float2 two(int token, int at) const {
        const unsigned char* from = number(token, at);
        if constexpr (C == INT8) return pair(*(const uint16_t*)from);
        else return pair(*(const uint32_t*)from);
    }

    // Eight from `at` on, which is a multiple of them.
    __device__ __forceinline__ void eight(int token, int at, float2 numbers[4]) const {
        const unsigned char* from = number(token, at);
        if constexpr (C == INT8) {
            const uint2 packed = *(const uint2*)from;
            numbers[0] = pair(packed.x);
            numbers[1] = pair(packed.x >> 16);
            numbers[2] = pair(packed.y);
            numbers[3] = pair(packed.y >> 16);
        } else {
            const uint4 packed = *(const uint4*)from;
            numbers[0] = pair(packed.x);
            numbers[1] = pair(packed.y);
            numbers[2] = pair(packed.z);
            numbers[3] = pair(packed.w);
        }
    }

    __device__ __forceinline__ void put(int token, int at, float value, float scale) const {
        unsigned char* to = number(token, at);
        if constexpr (C == F16) *(__half*)to = __float2half_rn(value);
        if constexpr (C == BF16) *(uint16_t*)to = bfloat16_bits(value);
        if constexpr (C == INT8) {
            const float units = scale == 0.0f ? 0.0f : roundf(__fdiv_rn(value, scale));
            *to = (unsigned char)(int)fminf(fmaxf(units, -LARGEST_BYTE), LARGEST_BYTE);
        }
    }
};
