// The kernels of `floats.cu` as functions that run them on a CPU.
#include "cuda.h"
// Types of the same name are in the other's.
namespace floats {
#include "../product/floats.cu"
}
using namespace floats;

using Kernel = void (*)(const uint32_t*, const Tile*, float*, int, int, int, int);

#define OF_FORMAT(F) {multiply_##F##_1_1, multiply_##F##_1_2, multiply_##F##_1_4, multiply_##F##_1_8, multiply_##F##_4_8}
static const Kernel KERNELS[][5] = {OF_FORMAT(F32), OF_FORMAT(F16), OF_FORMAT(BF16)};

extern "C" void split_rows_on_host(unsigned x, unsigned y, const float* rows, Tile* out, int count, int columns, int blocks) {
    on_host::launch({x, y, 1}, THREADS, [=] { split_rows(rows, out, count, columns, blocks); });
}

extern "C" void multiply_floats_on_host(unsigned x, unsigned y, unsigned format, unsigned kernel, const uint32_t* lines,
                                        const Tile* rows, float* out, int outputs, int count, int columns, int blocks) {
    const Kernel run = KERNELS[format][kernel];
    on_host::launch({x, y, 1}, THREADS, [=] { run(lines, rows, out, outputs, count, columns, blocks); });
}
