// The kernels of `step.cu` as functions that run them on a CPU.
#include "cuda.h"
#include "../step.cu"

extern "C" void turn_queries_on_host(unsigned x, const float* queries, const float* bias, const float* norm, const float* angles,
                                     float* out, int rows, int heads, int dim, int neighbours, float eps, float scale) {
    on_host::launch({x, 1, 1}, THREADS,
                    [=] { turn_queries(queries, bias, norm, angles, out, rows, heads, dim, neighbours, eps, scale); });
}

extern "C" void store_keys_values_on_host(unsigned x, uint16_t* store, const float* keys, const float* values,
                                          const float* key_bias, const float* value_bias, const float* norm,
                                          const float* angles, const uint32_t* table, const uint32_t* places, int rows,
                                          int kv_heads, int dim, int neighbours, float eps) {
    on_host::launch({x, 1, 1}, THREADS, [=] {
        store_keys_values((__half*)store, keys, values, key_bias, value_bias, norm, angles, table, places, rows, kv_heads, dim,
                          neighbours, eps);
    });
}

extern "C" void attend_on_host(unsigned x, unsigned y, unsigned z, unsigned together, const float* queries,
                               const uint16_t* store, const uint32_t* table, const uint32_t* places, float* out, float* parts,
                               float* statistics, int heads, int kv_heads, int dim, int window, int part) {
    const auto kernel = together == 1 ? attend_1 : together == 2 ? attend_2 : together == 4 ? attend_4 : attend_8;
    on_host::launch({x, y, z}, THREADS, [=] {
        kernel(queries, (const __half*)store, table, places, out, parts, statistics, heads, kv_heads, dim, window, part);
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
