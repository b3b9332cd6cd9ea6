// The kernels of `step.cu` as functions that run them on a CPU.
#include "cuda.h"
#include "../step.cu"

extern "C" void turn_queries_on_host(unsigned x, const float* queries, const float* bias, const float* norm, const float* angles,
                                     float* out, int rows, int heads, int dim, int neighbours, float eps, float scale) {
    on_host::launch({x, 1, 1}, THREADS,
                    [=] { turn_queries(queries, bias, norm, angles, out, rows, heads, dim, neighbours, eps, scale); });
}

// By cache and, for attention, heads together.
static const decltype(&store_keys_values_F16) STORE_KERNELS[] = {store_keys_values_F16, store_keys_values_BF16,
                                                                 store_keys_values_INT8};
#define OF_HEADS(C) {attend_##C##_1, attend_##C##_2, attend_##C##_4, attend_##C##_8}
static const decltype(&attend_F16_1) ATTEND_KERNELS[][4] = {OF_HEADS(F16), OF_HEADS(BF16), OF_HEADS(INT8)};

extern "C" void store_keys_values_on_host(unsigned x, unsigned cache, unsigned char* store, const float* keys, const float* values,
                                          const float* key_bias, const float* value_bias, const float* norm,
                                          const float* angles, const uint32_t* table, const uint32_t* places, int rows,
                                          int kv_heads, int dim, int neighbours, float eps) {
    const auto kernel = STORE_KERNELS[cache];
    on_host::launch({x, 1, 1}, THREADS, [=] {
        kernel(store, keys, values, key_bias, value_bias, norm, angles, table, places, rows, kv_heads, dim, neighbours, eps);
    });
}

extern "C" void attend_on_host(unsigned x, unsigned y, unsigned z, unsigned cache, unsigned together, const float* queries,
                               const unsigned char* store, const uint32_t* table, const uint32_t* places, float* out,
                               float* parts, float* statistics, int heads, int kv_heads, int dim, int window, int part) {
    const auto kernel = ATTEND_KERNELS[cache][together == 1 ? 0 : together == 2 ? 1 : together == 4 ? 2 : 3];
    on_host::launch({x, y, z}, THREADS, [=] {
        kernel(queries, store, table, places, out, parts, statistics, heads, kv_heads, dim, window, part);
    });
}

extern "C" void join_parts_on_host(unsigned x, unsigned y, const float* parts, const float* statistics, float* out, int heads,
                                   int dim, int splits) {
    on_host::launch({x, y, 1}, THREADS, [=] { join_parts(parts, statistics, out, heads, dim, splits); });
}

extern "C" void gate_on_host(unsigned x, const float* gates, const float* ups, float* out, size_t numbers, int gelu) {
    on_host::launch({x, 1, 1}, THREADS, [=] { gate(gates, ups, out, numbers, gelu); });
}

extern "C" void join_residual_on_host(unsigned x, const float* hidden, const float* output, const float* post, const float* next,
                                      float* out, int rows, int width, float eps) {
    on_host::launch({x, 1, 1}, THREADS, [=] { join_residual(hidden, output, post, next, out, rows, width, eps); });
}
