// Numbers of 16 bits by their bits.
#pragma once
#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <stdint.h>
#endif

__device__ __forceinline__ float half_bits(uint32_t bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }

// The nearest bfloat16, the even one of two; what is not a number stays none.
__device__ __forceinline__ uint16_t bfloat16_bits(float number) {
    const uint32_t bits = __float_as_uint(number);
    return (uint16_t)(number != number ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
