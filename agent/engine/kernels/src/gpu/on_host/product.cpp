// The kernels of `product/` as functions that run them on a CPU.
#include "cuda.h"
#include "../product/panels.cuh"
// Types of one are called as those of the other.
namespace quantized {
#include "../product/quantized.cu"
}
namespace floats {
#include "../product/floats.cu"
}

using Kernel = void (*)(const uint32_t*, const void*, float*, int, int, int, int);

#define KERNEL(OF, NAME)                                                                                                       \
    [](const uint32_t* lines, const void* tiles, float* out, int outputs, int count, int columns, int blocks) {                \
        OF::multiply_##NAME(lines, (const OF::Tile*)tiles, out, outputs, count, columns, blocks);                              \
    }
#define QUANTIZED_KERNELS(F)                                                                                                   \
    {KERNEL(quantized, F##_few_1), KERNEL(quantized, F##_few_2), KERNEL(quantized, F##_few_4), KERNEL(quantized, F##_many_4)}
#define FLOATS_KERNELS(F)                                                                                                      \
    {KERNEL(floats, F##_1_1), KERNEL(floats, F##_1_2), KERNEL(floats, F##_1_4), KERNEL(floats, F##_1_8), KERNEL(floats, F##_4_8)}
static const Kernel KERNELS[][5] = {
    FLOATS_KERNELS(F32),     FLOATS_KERNELS(F16),     FLOATS_KERNELS(BF16),   QUANTIZED_KERNELS(Q4_0), QUANTIZED_KERNELS(Q5_0),
    QUANTIZED_KERNELS(Q8_0), QUANTIZED_KERNELS(Q4K), QUANTIZED_KERNELS(Q5K), QUANTIZED_KERNELS(Q6K),
};

extern "C" void make_tiles_on_host(unsigned x, unsigned y, unsigned split, const float* rows, uint32_t* out, int count,
                                   int columns, int blocks) {
    on_host::launch({x, y, 1}, THREADS, [=] {
        if (split) floats::split_rows(rows, (floats::Tile*)out, count, columns, blocks);
        else quantized::round_rows(rows, (quantized::Tile*)out, count, columns, blocks);
    });
}

extern "C" void multiply_tiles_on_host(unsigned x, unsigned y, unsigned format, unsigned kernel, const uint32_t* lines,
                                       const uint32_t* tiles, float* out, int outputs, int count, int columns, int blocks) {
    const Kernel run = KERNELS[format][kernel];
    on_host::launch({x, y, 1}, THREADS, [=] { run(lines, tiles, out, outputs, count, columns, blocks); });
}
