// `quantized.h` for any processor, and the choice among what it was compiled for.
#include "quantized.h"

#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const QuantizedKernels quantized_avx512, quantized_avx2;
#endif

namespace {

struct Portable {
    static constexpr int ROWS = 1;
    static INLINE Ints dot(Ints sums, Words bytes, int32_t codes) {
        for (int i = 0; i < 4; ++i)
            sums += (Ints)((bytes >> (8 * i)) & 255) * static_cast<int8_t>(static_cast<uint32_t>(codes) >> (8 * i));
        return sums;
    }
};

const QuantizedKernels portable{quantize<Portable>, multiply<Portable>};

}  // namespace

const QuantizedKernels& kernels_for(int64_t level) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    const bool has_avx512 = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
                            __builtin_cpu_supports("avx512vnni");
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx512 && level < 1) return quantized_avx512;
    if (has_avx2 && level < 2) return quantized_avx2;
#endif
    return portable;
}

namespace {

// `scratch` has rows * (padded + 4 + 4 * groups) bytes, at least four aligned; `largest` is null or [threads, rows].
void compute(const void* x, const void* weight, const void* weight_scales, const void* bias, void* out, void* scratch,
             int64_t num_rows, int64_t in, int64_t padded, int64_t out_features, int64_t x_stride, int64_t group,
             int64_t level, bool is_bfloat16, int32_t num_threads, Largest* largest) {
    const int64_t num_groups = group > 0 ? padded / group : 1, num_panels = (out_features + PANEL - 1) / PANEL;
    int8_t* codes = static_cast<int8_t*>(scratch);
    float* scales = reinterpret_cast<float*>(codes + num_rows * padded);
    int32_t* sums = reinterpret_cast<int32_t*>(scales + num_rows);
    const QuantizedLinear a{
        x,        static_cast<const uint8_t*>(weight), weight_scales, bias,  out,        codes,      scales, sums,
        num_rows, in, padded, out_features, x_stride, group, num_groups, num_panels, is_bfloat16, nullptr,
    };
    const int64_t num_tasks = num_panels * ((num_rows + CHUNK - 1) / CHUNK);
    const QuantizedKernels& kernels = kernels_for(level);
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        const int64_t count = omp_get_num_threads(), own = omp_get_thread_num();
        QuantizedLinear mine = a;
        if (largest != nullptr) mine.largest = largest + own * num_rows;
        kernels.quantize(mine, num_rows * own / count, num_rows * (own + 1) / count);
#pragma omp barrier
        kernels.multiply(mine, num_tasks * own / count, num_tasks * (own + 1) / count);
    }
}

}  // namespace

extern "C" void quantized_linear(const void* x, const void* weight, const void* weight_scales, const void* bias,
                                 void* out, void* scratch, int64_t num_rows, int64_t in, int64_t padded,
                                 int64_t out_features, int64_t x_stride, int64_t group, int64_t level,
                                 int32_t is_bfloat16, int32_t num_threads) {
    compute(x, weight, weight_scales, bias, out, scratch, num_rows, in, padded, out_features, x_stride, group, level,
            is_bfloat16 != 0, num_threads, nullptr);
}

// To the places [rows] of the largest outputs.
extern "C" void quantized_argmax(const void* x, const void* weight, const void* weight_scales, const void* bias,
                                 void* out, void* scratch, int64_t num_rows, int64_t in, int64_t padded,
                                 int64_t out_features, int64_t x_stride, int64_t group, int64_t level,
                                 int32_t is_bfloat16, int32_t num_threads) {
    std::vector<Largest> largest(num_threads * num_rows, Largest{-__builtin_inff(), 0});
    compute(x, weight, weight_scales, bias, nullptr, scratch, num_rows, in, padded, out_features, x_stride, group,
            level, is_bfloat16 != 0, num_threads, largest.data());
    int64_t* places = static_cast<int64_t*>(out);
    for (int64_t row = 0; row < num_rows; ++row) {
        Largest most = largest[row];
        for (int64_t i = 1; i < num_threads; ++i) {
            const Largest& other = largest[i * num_rows + row];
            if (other.number > most.number) most = other;  // a later thread has later panels
        }
        places[row] = most.place;
    }
}
