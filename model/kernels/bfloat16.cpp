// `bfloat16.h`: whether this processor has such products, and the calls from Python.
#include "bfloat16.h"

#include <omp.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_PAIRS
extern const Bfloat16Kernels bfloat16_avx512;
#endif

const Bfloat16Kernels* bfloat16_kernels() {
#ifdef HAS_PAIRS
    const bool has_pairs = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
                           __builtin_cpu_supports("avx512bf16");
    if (has_pairs && !__builtin_cpu_supports("amx-bf16")) return &bfloat16_avx512;
#endif
    return nullptr;
}

extern "C" int32_t has_bfloat16_linear() { return bfloat16_kernels() != nullptr; }

extern "C" void lay_out_bfloat16(const void* weight, void* to, int64_t out_features, int64_t in, int64_t stride,
                                 int32_t, int32_t num_threads) {
    const int64_t num_panels = (out_features + Bfloat16Linear::PANEL - 1) / Bfloat16Linear::PANEL;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        const int64_t count = omp_get_num_threads(), own = omp_get_thread_num();
        bfloat16_kernels()->lay_out(static_cast<const uint16_t*>(weight), stride, out_features, in,
                                    static_cast<uint16_t*>(to), num_panels * own / count,
                                    num_panels * (own + 1) / count);
    }
}

extern "C" void bfloat16_linear(const void* x, const void* weight, const void* bias, void* out, int64_t num_rows,
                                int64_t in, int64_t out_features, int64_t x_stride, int32_t, int32_t num_threads) {
    const Bfloat16Linear a{
        static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(weight), static_cast<const uint16_t*>(bias),
        static_cast<uint16_t*>(out),     num_rows,                             in,
        out_features,                    x_stride,
    };
    const int64_t num_tasks = a.num_tasks();
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        const int64_t count = omp_get_num_threads(), own = omp_get_thread_num();
        bfloat16_kernels()->multiply(a, num_tasks * own / count, num_tasks * (own + 1) / count);
    }
}
