// The kernels of `product.cu` as functions that run them on a CPU.
#include "cuda.h"
#include "../product/product.cu"

using Quantized = void (*)(const uint32_t*, const Tile*, float*, int, int, int, int);
using Floats = void (*)(const uint32_t*, const float*, float*, int, int, int);

#define OF_FORMAT(F) {multiply_##F##_few_1, multiply_##F##_few_2, multiply_##F##_few_4, multiply_##F##_many_4}
static const Quantized QUANTIZED_KERNELS[][4] = {OF_FORMAT(Q4_0), OF_FORMAT(Q5_0), OF_FORMAT(Q8_0),
                                                 OF_FORMAT(Q4K),  OF_FORMAT(Q5K),  OF_FORMAT(Q6K)};
static const Floats FLOAT_KERNELS[] = {multiply_floats_F32, multiply_floats_F16, multiply_floats_BF16};

extern "C" void round_rows_on_host(unsigned x, unsigned y, const float* rows, Tile* out, int count, int columns, int blocks) {
    on_host::launch({x, y, 1}, THREADS, [=] { round_rows(rows, out, count, columns, blocks); });
}

extern "C" void multiply_on_host(unsigned x, unsigned y, unsigned format, unsigned kernel, const uint32_t* lines,
                                 const Tile* rounded, float* out, int outputs, int count, int columns, int blocks) {
    const Quantized run = QUANTIZED_KERNELS[format][kernel];
    on_host::launch({x, y, 1}, THREADS, [=] { run(lines, rounded, out, outputs, count, columns, blocks); });
}

extern "C" void multiply_floats_on_host(unsigned x, unsigned y, unsigned format, const uint32_t* lines, const float* rows,
                                        float* out, int outputs, int count, int columns) {
    const Floats run = FLOAT_KERNELS[format];
    on_host::launch({x, y, 1}, THREADS, [=] { run(lines, rows, out, outputs, count, columns); });
}
