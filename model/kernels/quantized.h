// Products with quantized weights: rows are quantized to signed bytes, multiplied with unsigned ones, and scaled.
//
// Compiled once for each kind of processor, which differ in `dot` alone. Sums are integers, so that a row has the same
// bits however many stand beside it.
#pragma once

#include "vectors.h"

// The largest number of a row, NaN left out, and the first place that it has.
struct Largest {
    float number;
    int32_t place;
};

// y [rows, out] = x [rows, in] times w plus bias [out] or null. Numbers of x, y and bias are float32 or bfloat16.
//
// Weights lie in panels of 64 outputs, of which each 64 bytes are 4 inputs of 16 outputs. With a `group` of 0 a byte is
// w / scale + 128, and there is one scale an output, float32 [panels, 64]. Otherwise it is two numbers of four bits, the
// low one for the four inputs before the high one's: scale * bits + least, bfloat16 [panels, groups, 2, 64].
// `padded` is `in` filled up to whole groups, or to four. `codes`, `scales` and `sums` are room for the quantized rows.
// With `largest` nothing is written to `out`.
struct QuantizedLinear {
    const void* x;
    const uint8_t* weight;
    const void *weight_scales, *bias;
    void* out;
    int8_t* codes;   // [rows, padded]
    float* scales;   // [rows]
    int32_t* sums;   // [rows, groups], of codes
    int64_t num_rows, in, padded, out_features, x_stride, group, num_groups, num_panels;
    bool is_bfloat16;
    Largest* largest;  // [rows], a thread's own, or null
};

// One for each kind of processor. Rows [first, last) and tasks [first, last); a task is a panel with up to CHUNK
// rows, each with as many, as threads share tasks by their number.
struct QuantizedKernels {
    void (*quantize)(const QuantizedLinear&, int64_t, int64_t);
    void (*multiply)(const QuantizedLinear&, int64_t, int64_t);
};

// `level` 0 is the best that the processor has; more leave out so many, as far as there are others.
const QuantizedKernels& kernels_for(int64_t level);

namespace {

typedef int32_t Ints __attribute__((vector_size(64)));
constexpr int64_t PANEL = 64, VECTORS = PANEL / LANES, CHUNK = 48;
constexpr int64_t KEPT = 1 << 19;  // bytes of panels that stay in a core's second cache while rows pass by
constexpr int64_t AHEAD = 4096;  // bytes that memory takes about as long to bring as they take to multiply

INLINE Words load_words(const uint8_t* from) {
    Words w;
    std::memcpy(&w, from, sizeof w);
    return w;
}

INLINE int32_t four(const int8_t* from) {
    int32_t x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

// To whole numbers up to 127 times the row's scale, ties to even. A row with a NaN or an infinity has the scale NaN.
template <typename T>
INLINE void quantize_row(const QuantizedLinear& a, int64_t row) {
    const T* x = static_cast<const T*>(a.x) + row * a.x_stride;
    int8_t* codes = a.codes + row * a.padded;
    int32_t most = 0;  // the bits of absolute values are ordered as they are, infinity and NaN behind them
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < a.in; ++i) {
        const float number = widened(x[i]);
        int32_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float largest;
    std::memcpy(&largest, &most, sizeof largest);
    const bool is_finite = most < 0x7f800000, is_nought = largest < 1e-35f;
    const float inverse = !is_finite || is_nought ? 0.0f : 127.0f / largest;
    a.scales[row] = is_finite ? (is_nought ? 0.0f : largest / 127.0f) : __builtin_nanf("");
    const int64_t size = a.group > 0 ? a.group : a.padded;
    for (int64_t group = 0; group < a.num_groups; ++group) {
        const int64_t first = group * size, end = first + size, stop = end < a.in ? end : a.in;
        int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = first; i < stop; ++i) {
            const float moved = (is_finite ? widened(x[i]) : 0.0f) * inverse + 12582912.0f;
            int32_t code;
            std::memcpy(&code, &moved, sizeof code);
            code -= 0x4b400000;
            codes[i] = static_cast<int8_t>(code);
            sum += code;
        }
        for (int64_t i = stop; i < end; ++i) codes[i] = 0;
        a.sums[row * a.num_groups + group] = sum;
    }
}

// A row's outputs of a panel pass by in the order of the panels, so that the first of equal ones stays.
template <typename T>
INLINE void note_largest(const QuantizedLinear& a, int64_t panel, int64_t row, const Vector (&y)[VECTORS]) {
    const int64_t first = panel * PANEL, count = a.out_features - first < PANEL ? a.out_features - first : PANEL;
    const T* bias = a.bias == nullptr ? nullptr : static_cast<const T*>(a.bias) + first;
    float numbers[PANEL], most = -__builtin_inff();
    std::memcpy(numbers, y, sizeof numbers);
    T kept[PANEL];
    for (int64_t i = 0; i < count; ++i) narrow(bias == nullptr ? numbers[i] : numbers[i] + widened(bias[i]), kept + i);
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; ++i) most = widened(kept[i]) > most ? widened(kept[i]) : most;
    Largest& largest = a.largest[row];
    if (!(most > largest.number)) return;
    int64_t place = 0;
    while (widened(kept[place]) != most) ++place;
    largest = {most, static_cast<int32_t>(first + place)};
}

template <typename T>
INLINE void finish(const QuantizedLinear& a, int64_t panel, int64_t row, const Vector (&y)[VECTORS]) {
    if (a.largest != nullptr) return note_largest<T>(a, panel, row, y);
    const int64_t first = panel * PANEL, count = a.out_features - first;
    T* out = static_cast<T*>(a.out) + row * a.out_features + first;
    const T* bias = a.bias == nullptr ? nullptr : static_cast<const T*>(a.bias) + first;
    if (count >= PANEL) {
        for (int64_t v = 0; v < VECTORS; ++v)
            store(bias == nullptr ? y[v] : y[v] + load(bias + v * LANES), out + v * LANES);
        return;
    }
    float numbers[PANEL];
    std::memcpy(numbers, y, sizeof numbers);
    for (int64_t i = 0; i < count; ++i) narrow(bias == nullptr ? numbers[i] : numbers[i] + widened(bias[i]), out + i);
}

// Asks for where R rows of a panel will be written: of many outputs each row is pages from the next, and a store that
// has to wait for its line holds up all behind it.
template <typename T, int R>
INLINE void fetch_outputs(const QuantizedLinear& a, int64_t panel, int64_t row) {
    if (a.largest != nullptr) return;
    for (int r = 0; r < R; ++r) {
        const T* out = static_cast<const T*>(a.out) + (row + r) * a.out_features + panel * PANEL;
        for (int64_t i = 0; i < PANEL; i += 64 / sizeof(T)) __builtin_prefetch(out + i, 1);
    }
}

template <class Processor, typename T, int R>
INLINE void multiply_bytes(const QuantizedLinear& a, int64_t panel, int64_t row) {
    fetch_outputs<T, R>(a, panel, row);
    Ints sums[R][VECTORS] = {};
    const uint8_t* w = a.weight + panel * PANEL * a.padded;
    const int8_t* x = a.codes + row * a.padded;
    for (int64_t k = 0; k < a.padded; k += 4, w += 4 * PANEL) {
        for (int64_t v = 0; v < VECTORS; ++v) {
            __builtin_prefetch(w + AHEAD + v * 64);
            const Words bytes = load_words(w + v * 64);
            for (int r = 0; r < R; ++r) sums[r][v] = Processor::dot(sums[r][v], bytes, four(x + r * a.padded + k));
        }
    }
    const float* scales = static_cast<const float*>(a.weight_scales) + panel * PANEL;
    for (int r = 0; r < R; ++r) {
        Vector y[VECTORS];
        for (int64_t v = 0; v < VECTORS; ++v) {
            const Ints exact = sums[r][v] - 128 * a.sums[row + r];
            y[v] = __builtin_convertvector(exact, Vector) * (load(scales + v * LANES) * a.scales[row + r]);
        }
        finish<T>(a, panel, row + r, y);
    }
}

template <class Processor, typename T, int R>
INLINE void multiply_nibbles(const QuantizedLinear& a, int64_t panel, int64_t row) {
    fetch_outputs<T, R>(a, panel, row);
    Vector y[R][VECTORS] = {};
    const uint8_t* w = a.weight + panel * PANEL * a.padded / 2;
    const bfloat16* scales = static_cast<const bfloat16*>(a.weight_scales) + panel * a.num_groups * 2 * PANEL;
    for (int64_t group = 0; group < a.num_groups; ++group, scales += 2 * PANEL) {
        Ints sums[R][VECTORS] = {};
        const int8_t* x = a.codes + row * a.padded + group * a.group;
        for (int64_t k = 0; k < a.group; k += 8, w += 4 * PANEL) {
            for (int64_t v = 0; v < VECTORS; ++v) {
                __builtin_prefetch(w + AHEAD + v * 64);
                const Words bytes = load_words(w + v * 64), low = bytes & 0x0f0f0f0f, high = (bytes >> 4) & 0x0f0f0f0f;
                for (int r = 0; r < R; ++r) {
                    const int8_t* eight = x + r * a.padded + k;
                    sums[r][v] = Processor::dot(sums[r][v], low, four(eight));
                    sums[r][v] = Processor::dot(sums[r][v], high, four(eight + 4));
                }
            }
        }
        for (int64_t v = 0; v < VECTORS; ++v) {
            const Vector scale = load(scales + v * LANES), least = load(scales + PANEL + v * LANES);
            for (int r = 0; r < R; ++r) {
                const float sum = static_cast<float>(a.sums[(row + r) * a.num_groups + group]);
                y[r][v] += least * sum + scale * __builtin_convertvector(sums[r][v], Vector);
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int64_t v = 0; v < VECTORS; ++v) y[r][v] *= a.scales[row + r];
        finish<T>(a, panel, row + r, y[r]);
    }
}

// Rows [row, last), R at once, what is left by fewer.
template <class Processor, typename T, int R>
INLINE void multiply_rows(const QuantizedLinear& a, int64_t panel, int64_t row, int64_t last) {
    for (; row + R <= last; row += R) {
        if (a.group > 0)
            multiply_nibbles<Processor, T, R>(a, panel, row);
        else
            multiply_bytes<Processor, T, R>(a, panel, row);
    }
    if constexpr (R > 1) multiply_rows<Processor, T, R - 1>(a, panel, row, last);
}

template <class Processor>
void quantize(const QuantizedLinear& a, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) a.is_bfloat16 ? quantize_row<bfloat16>(a, row) : quantize_row<float>(a, row);
}

template <class Processor>
void multiply(const QuantizedLinear& a, int64_t first, int64_t last) {
    const int64_t num_chunks = (a.num_rows + CHUNK - 1) / CHUNK, size = PANEL * a.padded / (a.group > 0 ? 2 : 1);
    const int64_t together = KEPT > size ? KEPT / size : 1;
    for (int64_t task = first; task < last; ++task) {
        const int64_t start = task / (together * num_chunks) * together, left = a.num_panels - start;
        const int64_t count = together < left ? together : left, place = task - start * num_chunks;
        const int64_t panel = start + place % count, chunk = place / count;
        const int64_t row = a.num_rows * chunk / num_chunks, end = a.num_rows * (chunk + 1) / num_chunks;
        if (a.is_bfloat16)
            multiply_rows<Processor, bfloat16, Processor::ROWS>(a, panel, row, end);
        else
            multiply_rows<Processor, float, Processor::ROWS>(a, panel, row, end);
    }
}

}  // namespace
