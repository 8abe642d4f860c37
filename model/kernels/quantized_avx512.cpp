// `quantized.h` for processors with AVX-512 and its instructions for neural networks (VNNI).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#pragma GCC target("arch=x86-64-v4,avx512vnni")  // below all that other files share

#include "quantized.h"

namespace {

struct Avx512 {
    static constexpr int ROWS = 6;
    static INLINE Ints dot(Ints sums, Words bytes, int32_t codes) {
        return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)bytes, _mm512_set1_epi32(codes));
    }
};

}  // namespace

extern const QuantizedKernels quantized_avx512;
const QuantizedKernels quantized_avx512{quantize<Avx512>, multiply<Avx512>};

#endif
