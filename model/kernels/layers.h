// What stands between a layer's products, as `layers.cpp` computes it; the Python side has what each means.
#pragma once

#include <cstdint>

extern "C" {

void rms_norm(const void* x, const void* update, const void* weight, void* sum, void* out, int64_t num_rows,
              int64_t size, float eps, float offset, int32_t is_bfloat16, int32_t num_threads);

void rotate(void* x, const void* cosine, const void* sine, int64_t num_rows, int64_t heads, int64_t d,
            int64_t row_stride, int32_t is_bfloat16, int32_t num_threads);

void write_cache(const void* key, const void* value, void* cache, const int64_t* blocks, const int64_t* offsets,
                 int64_t num_rows, int64_t kv, int64_t d, int64_t key_stride, int64_t value_stride,
                 int64_t page_stride, int64_t cache_is_bfloat16, int32_t is_bfloat16, int32_t num_threads);

void silu_gate(const void* gate, const void* up, void* out, int64_t num_rows, int64_t width, int64_t gate_stride,
               int64_t up_stride, int32_t is_bfloat16, int32_t num_threads);

void gelu_tanh_gate(const void* gate, const void* up, void* out, int64_t num_rows, int64_t width,
                    int64_t gate_stride, int64_t up_stride, int32_t is_bfloat16, int32_t num_threads);

}  // extern "C"
