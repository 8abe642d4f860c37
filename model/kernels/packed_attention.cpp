// `packed_attention.h` in float32 for any processor, and the choice of what is faster.
#include "packed_attention.h"

#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_PAIRS
extern const AttendText attend_text_avx512_bf16;
#endif

namespace {

FOR_EACH_PROCESSOR void attend_float32(const PackedAttention& a, int64_t text, int64_t group, float* space) {
    attend_text<Wide, float>(a, text, group, space);
}

FOR_EACH_PROCESSOR void attend_bfloat16(const PackedAttention& a, int64_t text, int64_t group, float* space) {
    attend_text<Wide, bfloat16>(a, text, group, space);
}

// `level` 1 leaves the products of pairs out.
AttendText body_for(bool is_bfloat16, int64_t level) {
#ifdef HAS_PAIRS
    const bool has_pairs = __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
                           __builtin_cpu_supports("avx512bf16");
    if (is_bfloat16 && has_pairs && level < 1) return attend_text_avx512_bf16;
#endif
    return is_bfloat16 ? attend_bfloat16 : attend_float32;
}

}  // namespace

extern "C" void packed_attention(const void* query, const void* key, const void* value, const int64_t* starts,
                                 const int64_t* lengths, const void* bias, void* out, int64_t b, int64_t h,
                                 int64_t kv, int64_t d, int64_t query_stride, int64_t key_stride,
                                 int64_t value_stride, int64_t longest, int64_t window, int64_t level, float scale,
                                 int32_t is_bfloat16, int32_t num_threads) {
    const PackedAttention a{
        query, key, value, starts, lengths, bias, out, h, kv, d, query_stride, key_stride, value_stride,
        longest, window, scale,
    };
    const AttendText attend = body_for(is_bfloat16 != 0, level);
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        std::vector<float> space(space_for(longest, d) + LANES);
        const auto behind = reinterpret_cast<uintptr_t>(space.data()) % sizeof(Vector);
        float* aligned = space.data() + (behind == 0 ? 0 : (sizeof(Vector) - behind) / sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < b * kv; ++i) attend(a, i / kv, i % kv, aligned);
    }
}
