// Weights in the CPU's panels (`repack.rs`): lines of a word for each of 16 outputs.
#pragma once
#include "../halves.cuh"

constexpr int PANEL_ROWS = 16;
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * 32;
// Rows that the tensor cores take at a time.
constexpr int ROWS_AT_ONCE = 8;
constexpr int OUTPUTS_AT_ONCE = PANEL_ROWS * ROWS_AT_ONCE;
