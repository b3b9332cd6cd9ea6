// Weights in the CPU's panels (`repack.rs`): lines of a word for each of 16 outputs.
#pragma once
#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <stdint.h>
#endif

constexpr int PANEL_ROWS = 16;
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * 32;
// Rows that the tensor cores take at a time.
constexpr int ROWS_AT_ONCE = 8;
constexpr int OUTPUTS_AT_ONCE = PANEL_ROWS * ROWS_AT_ONCE;

__device__ __forceinline__ float half_bits(uint32_t bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }
