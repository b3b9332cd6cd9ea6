// The kernels of `quantized.cu` as functions that run them on a CPU.
#include "cuda.h"
// Types of the same name are in the other's.
namespace quantized {
#include "../product/quantized.cu"
}
using namespace quantized;

using Kernel = void (*)(const uint32_t*, const Tile*, float*, int, int, int, int);

#define OF_FORMAT(F) {multiply_##F##_few_1, multiply_##F##_few_2, multiply_##F##_few_4, multiply_##F##_many_4}
static const Kernel KERNELS[][4] = {OF_FORMAT(Q4_0), OF_FORMAT(Q5_0), OF_FORMAT(Q8_0),
                                    OF_FORMAT(Q4K),  OF_FORMAT(Q5K),  OF_FORMAT(Q6K)};

extern "C" void round_rows_on_host(unsigned x, unsigned y, const float* rows, Tile* out, int count, int columns, int blocks) {
    on_host::launch({x, y, 1}, THREADS, [=] { round_rows(rows, out, count, columns, blocks); });
}

extern "C" void multiply_quantized_on_host(unsigned x, unsigned y, unsigned format, unsigned kernel, const uint32_t* lines,
                                           const Tile* rounded, float* out, int outputs, int count, int columns, int blocks) {
    const Kernel run = KERNELS[format][kernel];
    on_host::launch({x, y, 1}, THREADS, [=] { run(lines, rounded, out, outputs, count, columns, blocks); });
}
