// `bfloat16.h` by vdpbf16ps, which adds the products of two pairs to a sum. It takes denormal numbers for noughts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#pragma GCC target("arch=x86-64-v4,avx512bf16,prfchw")  // below all that other files share

#include "bfloat16.h"
#include "vectors.h"

namespace {

constexpr int64_t PANEL = Bfloat16Linear::PANEL, VECTORS = PANEL / LANES, ROWS = Bfloat16Linear::ROWS;
constexpr int64_t STEP = 2 * PANEL;     // numbers of a panel that belong to a pair of inputs
constexpr int64_t LINES = STEP * 2 / 64;  // cache lines that they are
constexpr int64_t BLOCK = 512;          // pairs of inputs that all rows of a chunk pass by: 128 KiB of the second cache
constexpr int64_t AHEAD = 4096;         // bytes that memory takes about as long to bring as they take to multiply

INLINE Words load_words(const uint16_t* from) {
    Words w;
    std::memcpy(&w, from, sizeof w);
    return w;
}

// Part of a product: `steps` pairs of inputs of one panel, and the odd input behind them where there is one.
struct Part {
    const uint16_t *x, *weight;
    int64_t x_stride, steps;
    bool is_odd;
};

template <int R>
INLINE void add(Vector (&sums)[R][VECTORS], const Words (&w)[VECTORS], int r, uint32_t pair) {
    const __m512bh both = (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(pair));
    for (int64_t v = 0; v < VECTORS; ++v)
        sums[r][v] = (Vector)_mm512_dpbf16_ps((__m512)sums[r][v], (__m512bh)w[v], both);
}

// FETCHED lines of what `ahead` points to are fetched with each step.
template <int R, int FETCHED>
INLINE void add_products(const Part& a, const uint16_t* ahead, Vector (&sums)[R][VECTORS]) {
    const uint16_t *x = a.x, *weight = a.weight;
    for (int64_t k = 0; k < a.steps; ++k, x += 2, weight += STEP, ahead += FETCHED * 32) {
        Words w[VECTORS];
        for (int64_t v = 0; v < VECTORS; ++v) w[v] = load_words(weight + v * 2 * LANES);
        for (int64_t line = 0; line < FETCHED; ++line) {
            if (FETCHED == LINES)
                __builtin_prefetch(ahead + line * 32);
            else
                __builtin_prefetch(ahead + line * 32, 0, 2);  // for later: to the second cache
        }
        for (int r = 0; r < R; ++r) {
            uint32_t pair;
            std::memcpy(&pair, x + r * a.x_stride, sizeof pair);
            add<R>(sums, w, r, pair);
        }
    }
    if (!a.is_odd) return;
    Words w[VECTORS];
    for (int64_t v = 0; v < VECTORS; ++v) w[v] = load_words(weight + v * 2 * LANES);
    for (int r = 0; r < R; ++r) add<R>(sums, w, r, x[r * a.x_stride]);
}

template <int R>
INLINE void finish(const Bfloat16Linear& a, int64_t panel, int64_t row, const Vector (&sums)[R][VECTORS]) {
    const int64_t first = panel * PANEL, count = a.out_features - first < PANEL ? a.out_features - first : PANEL;
    for (int64_t v = 0; v * LANES < count; ++v) {
        const int64_t left = count - v * LANES;
        const __mmask16 mask = left < LANES ? (1u << left) - 1 : 0xffff;
        Vector bias{};
        if (a.bias != nullptr) {
            const auto bits = (HalfWords)_mm256_maskz_loadu_epi16(mask, a.bias + first + v * LANES);
            bias = (Vector)(__builtin_convertvector(bits, Words) << 16);
        }
        for (int r = 0; r < R; ++r) {
            const __m256bh y = _mm512_cvtneps_pbh((__m512)(sums[r][v] + bias));
            _mm256_mask_storeu_epi16(a.out + (row + r) * a.out_features + first + v * LANES, mask, (__m256i)y);
        }
    }
}

// A panel's pairs of inputs [first, last), times rows [row, end) of a task.
struct Block {
    int64_t panel, row, end, first, last;
    bool is_read_ahead;  // whether its weights are in the second cache already
    bool is_followed;    // whether the weights behind it are wanted next
};

template <int R>
void multiply_rows(const Bfloat16Linear& a, const Block& b, int64_t row, const uint16_t* ahead, int64_t fetched,
                   float* partial) {
    const int64_t num_steps = a.in / 2 + a.in % 2;
    const bool is_last = b.last == num_steps, is_odd = is_last && a.in % 2 == 1;
    const Part part{
        a.x + row * a.x_stride + 2 * b.first, a.weight + (b.panel * num_steps + b.first) * STEP, a.x_stride,
        b.last - b.first - is_odd, is_odd,
    };
    Vector sums[R][VECTORS] = {};
    float* kept = partial + (row - b.row) * PANEL;
    if (b.first > 0) std::memcpy(sums, kept, sizeof sums);
    for (int r = 0; is_last && r < R; ++r) {  // a core writes to a line that it has, and has to fetch others before
        const uint16_t* out = a.out + (row + r) * a.out_features + b.panel * PANEL;
        __builtin_prefetch(out, 1);
        __builtin_prefetch(out + 32, 1);
        __builtin_prefetch(out + 63, 1);
    }
    switch (fetched) {
        case 0: add_products<R, 0>(part, ahead, sums); break;
        case 1: add_products<R, 1>(part, ahead, sums); break;
        case 2: add_products<R, 2>(part, ahead, sums); break;
        default: add_products<R, LINES>(part, ahead, sums);
    }
    if (is_last)
        finish<R>(a, b.panel, row, sums);
    else
        std::memcpy(kept, sums, sizeof sums);
}

// All rows pass by the weights. What of these is not near yet comes a little before it is used, with the first of
// them; with the others comes what is behind the block.
void multiply_block(const Bfloat16Linear& a, const Block& b, float* partial) {
    const int64_t num_steps = a.in / 2 + a.in % 2, steps = b.last - b.first;
    const uint16_t* weight = a.weight + (b.panel * num_steps + b.first) * STEP;
    const int64_t num_passes = (b.end - b.row + ROWS - 1) / ROWS, own = !b.is_read_ahead || num_passes == 1;
    const int64_t left = num_passes - own, share = left >= 4 ? 1 : left >= 2 ? 2 : LINES;
    for (int64_t pass = 0; pass < num_passes; ++pass) {
        const int64_t row = b.row + pass * ROWS, count = b.end - row < ROWS ? b.end - row : ROWS;
        const uint16_t* ahead = weight + AHEAD / 2;
        int64_t fetched = LINES;
        if (pass >= own) {
            const int64_t before = (pass - own) * share;  // lines of each step that came with other rows
            fetched = b.is_followed && before < LINES ? share : 0;
            ahead = weight + steps * (STEP + before * 32);
        }
        switch (count) {
            case 1: multiply_rows<1>(a, b, row, ahead, fetched, partial); break;
            case 2: multiply_rows<2>(a, b, row, ahead, fetched, partial); break;
            case 3: multiply_rows<3>(a, b, row, ahead, fetched, partial); break;
            case 4: multiply_rows<4>(a, b, row, ahead, fetched, partial); break;
            case 5: multiply_rows<5>(a, b, row, ahead, fetched, partial); break;
            default: multiply_rows<6>(a, b, row, ahead, fetched, partial);
        }
    }
}

void multiply(const Bfloat16Linear& a, int64_t first, int64_t last) {
    const int64_t num_steps = a.in / 2 + a.in % 2, num_blocks = (num_steps + BLOCK - 1) / BLOCK;
    const int64_t num_panels = a.num_panels(), num_chunks = a.num_chunks();
    const int64_t num_groups = (a.num_rows + ROWS - 1) / ROWS;
    alignas(64) float partial[Bfloat16Linear::MOST_ROWS * PANEL];
    for (int64_t task = first; task < last; ++task) {
        const int64_t chunk = task / num_panels, panel = task % num_panels;
        const int64_t row = num_groups * chunk / num_chunks * ROWS, end = num_groups * (chunk + 1) / num_chunks * ROWS;
        const bool is_followed = task + 1 < last && panel + 1 < num_panels;
        for (int64_t block = 0; block < num_blocks; ++block) {
            const Block b{
                panel, row, end < a.num_rows ? end : a.num_rows, num_steps * block / num_blocks,
                num_steps * (block + 1) / num_blocks, block > 0 || (task > first && panel > 0),
                block + 1 < num_blocks || is_followed,
            };
            multiply_block(a, b, partial);
        }
    }
}

// Sixteen rows of sixteen words and columns change places.
INLINE void turn(Words (&rows)[LANES]) {
    exchange<1>(rows);
    exchange<2>(rows);
    exchange<4>(rows);
    exchange<8>(rows);
}

void lay_out(const uint16_t* weight, int64_t stride, int64_t out_features, int64_t in, uint16_t* to, int64_t first,
             int64_t last) {
    const int64_t num_steps = in / 2 + in % 2;
    for (int64_t output = first * PANEL; output < last * PANEL; output += LANES) {
        uint16_t* panel = to + output / PANEL * num_steps * STEP + output % PANEL * 2;
        for (int64_t k = 0; k < num_steps; k += LANES) {
            const int64_t count = in - 2 * k < 2 * LANES ? in - 2 * k : 2 * LANES;
            const __mmask32 mask = count < 2 * LANES ? (1u << count) - 1 : 0xffffffff;
            Words words[LANES] = {};
            for (int64_t i = 0; i < LANES && output + i < out_features; ++i)
                words[i] = (Words)_mm512_maskz_loadu_epi16(mask, weight + (output + i) * stride + 2 * k);
            turn(words);
            for (int64_t i = 0; i < LANES && k + i < num_steps; ++i)
                std::memcpy(panel + (k + i) * STEP, &words[i], sizeof words[i]);
        }
    }
}

}  // namespace

extern const Bfloat16Kernels bfloat16_avx512;
const Bfloat16Kernels bfloat16_avx512{lay_out, multiply};

#endif
