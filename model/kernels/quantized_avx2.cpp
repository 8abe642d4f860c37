// `quantized.h` for processors with AVX2.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#pragma GCC target("arch=x86-64-v3")  // below all that other files share

#include "quantized.h"

namespace {

// Products of whole bytes would not fit the 16 bits that pairs of them are summed to; those of half bytes do.
INLINE __m256i dot_half(__m256i sums, __m256i bytes, __m256i codes) {
    const __m256i nibbles = _mm256_set1_epi8(15);
    const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(bytes, nibbles), codes);
    const __m256i high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibbles), codes);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
}

struct Avx2 {
    static constexpr int ROWS = 1;
    static INLINE Ints dot(Ints sums, Words bytes, int32_t codes) {
        const __m256i x = _mm256_set1_epi32(codes);
        __m256i s[2], w[2];
        std::memcpy(s, &sums, sizeof s);
        std::memcpy(w, &bytes, sizeof w);
        for (int i = 0; i < 2; ++i) s[i] = dot_half(s[i], w[i], x);
        std::memcpy(&sums, s, sizeof s);
        return sums;
    }
};

}  // namespace

extern const QuantizedKernels quantized_avx2;
const QuantizedKernels quantized_avx2{quantize<Avx2>, multiply<Avx2>};

#endif
