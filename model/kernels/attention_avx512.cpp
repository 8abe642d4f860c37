// `packed_attention.h` and `tile_attention.h` in bfloat16 for processors that multiply pairs of them (AVX-512 BF16).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#pragma GCC target("arch=x86-64-v4,avx512bf16")  // below all that other files share

#include "packed_attention.h"
#include "tile_attention.h"

namespace {

typedef uint16_t Pairs __attribute__((vector_size(64)));

struct PairsOfBfloat16 {
    using Number = bfloat16;
    static constexpr int STEP = 2, WIDE = 2 * LANES, ACROSS = 2;

    static INLINE Words load_row(const bfloat16* from) {
        Words words;
        std::memcpy(&words, from, sizeof words);
        return words;
    }
    static INLINE Vector add(Vector sum, Words row, const bfloat16* factors) {
        int32_t pair;
        std::memcpy(&pair, factors, sizeof pair);
        return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)row, (__m512bh)_mm512_set1_epi32(pair));
    }
    static INLINE void store_weights(Vector weights, bfloat16* to) {
        const __m256bh narrow = _mm512_cvtneps_pbh((__m512)weights);
        std::memcpy(to, &narrow, sizeof narrow);
    }

    static INLINE void lay_out_row(const bfloat16* from, int64_t d, int64_t wide, bfloat16* to) {
        std::memcpy(to, from, d * sizeof *from);
        std::memset(to + d, 0, (wide - d) * sizeof *to);
    }
    // So many numbers, at most a vector full, and noughts behind them.
    static INLINE Words load_some(const bfloat16* from, int64_t count) {
        if (count >= WIDE) return load_row(from);
        bfloat16 some[WIDE] = {};
        if (count > 0) std::memcpy(some, from, count * sizeof *from);
        return load_row(some);
    }
    template <class At>
    static INLINE void lay_out_keys(const At& at, int64_t d, const LaidOut<PairsOfBfloat16>& t) {
        for (int64_t k = 0; k < t.num_keys; k += LANES)
            for (int64_t i = 0; i < t.wide; i += WIDE) {
                Words rows[LANES];
                for (int n = 0; n < LANES; ++n)
                    rows[n] = load_some(at(lesser(k + n, t.count - 1), i), k + n < t.count ? d - i : 0);
                exchange<1>(rows);
                exchange<2>(rows);
                exchange<4>(rows);
                exchange<8>(rows);
                std::memcpy(t.keys + k * t.wide + i * LANES, rows, sizeof rows);
            }
    }
    template <class At>
    static INLINE void lay_out_values(const At& at, int64_t d, const LaidOut<PairsOfBfloat16>& t) {
        Pairs low, high;
        for (int j = 0; j < WIDE; ++j) low[j] = j / 2 + j % 2 * WIDE, high[j] = low[j] + LANES;
        for (int64_t k = 0; k < t.num_keys; k += 2)
            for (int64_t i = 0; i < t.wide; i += WIDE) {
                const int64_t last = t.count - 1;
                const Pairs even = (Pairs)load_some(at(lesser(k, last), i), k <= last ? d - i : 0);
                const Pairs odd = (Pairs)load_some(at(lesser(k + 1, last), i), k < last ? d - i : 0);
                const Pairs both[2] = {__builtin_shuffle(even, odd, low), __builtin_shuffle(even, odd, high)};
                std::memcpy(t.values + k * t.wide + 2 * i, both, sizeof both);
            }
    }
};

void attend_text(const PackedAttention& a, int64_t text, int64_t group, float* space) {
    attend_text<PairsOfBfloat16, bfloat16>(a, text, group, space);
}

void attend_tile(const DecodeAttention& a, const Tile& tile, float* space) {
    attend_tile<PairsOfBfloat16, bfloat16, bfloat16>(a, tile, space);
}

}  // namespace

extern const AttendText attend_text_avx512_bf16;
extern const AttendTile attend_tile_avx512_bf16;
const AttendText attend_text_avx512_bf16 = attend_text;
const AttendTile attend_tile_avx512_bf16 = attend_tile;

#endif
