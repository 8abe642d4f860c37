// What the kernels share: numbers of both dtypes, vectors of them, and rows shared out among threads.
#pragma once

#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINED __attribute__((always_inline))
#define INLINE inline INLINED

namespace {

struct bfloat16 {
    uint16_t bits;
};

INLINE float widened(float x) { return x; }

INLINE float widened(bfloat16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

INLINE void narrow(float x, float* to) { *to = x; }

INLINE void narrow(float x, bfloat16* to) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    to->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Sixteen numbers, in as many registers as the processor needs for them.
typedef float Vector __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t HalfWords __attribute__((vector_size(32)));
typedef float Half __attribute__((vector_size(32)));
typedef float Quarter __attribute__((vector_size(16)));
constexpr int LANES = 16;

INLINE Vector load(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

INLINE Vector load(const bfloat16* from) {
    HalfWords bits;
    std::memcpy(&bits, from, sizeof bits);
    Words wide = __builtin_convertvector(bits, Words) << 16;
    Vector v;
    std::memcpy(&v, &wide, sizeof v);
    return v;
}

INLINE void store(Vector v, float* to) { std::memcpy(to, &v, sizeof v); }

INLINE void store(Vector v, bfloat16* to) {
    Words bits;
    std::memcpy(&bits, &v, sizeof bits);
    const HalfWords half = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, HalfWords);
    std::memcpy(to, &half, sizeof half);
}

INLINE Quarter folded(Vector v) {
    Half a, b;
    std::memcpy(&a, &v, sizeof a);
    std::memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof a, sizeof b);
    a += b;
    Quarter c, d;
    std::memcpy(&c, &a, sizeof c);
    std::memcpy(&d, reinterpret_cast<const char*>(&a) + sizeof c, sizeof d);
    return c + d;
}

INLINE float sum_of(Vector v) {
    const Quarter four = folded(v);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

INLINE float largest_of(Vector v) {
    Half a, b;
    std::memcpy(&a, &v, sizeof a);
    std::memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof a, sizeof b);
    a = a > b ? a : b;
    Quarter c, d;
    std::memcpy(&c, &a, sizeof c);
    std::memcpy(&d, reinterpret_cast<const char*>(&a) + sizeof c, sizeof d);
    c = c > d ? c : d;
    const float x = c[0] > c[1] ? c[0] : c[1], y = c[2] > c[3] ? c[2] : c[3];
    return x > y ? x : y;
}

// The sum of each: four at once take little more than half of the additions and moves of four one by one.
INLINE Quarter sums_of(Vector a, Vector b, Vector c, Vector d) {
    const Quarter p = folded(a), q = folded(b), r = folded(c), s = folded(d);
    typedef int32_t Places __attribute__((vector_size(16)));
    const Quarter x = __builtin_shuffle(p, q, Places{0, 1, 4, 5}) + __builtin_shuffle(p, q, Places{2, 3, 6, 7});
    const Quarter y = __builtin_shuffle(r, s, Places{0, 1, 4, 5}) + __builtin_shuffle(r, s, Places{2, 3, 6, 7});
    return __builtin_shuffle(x, y, Places{0, 2, 4, 6}) + __builtin_shuffle(x, y, Places{1, 3, 5, 7});
}

INLINE float power_of_two(float exponent) {
    const int32_t bits = (static_cast<int32_t>(exponent) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

INLINE Vector power_of_two(Vector exponent) {
    typedef int32_t Whole __attribute__((vector_size(64)));
    const Whole bits = (__builtin_convertvector(exponent, Whole) + 127) << 23;
    Vector power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

// e**x for x <= 88 after Cephes' expf: 2**n times a polynomial of what is left. What is below the smallest normal
// number is nought, minus infinity among it. Without branches or calls, so that loops over it use vectors.
template <typename Number>
INLINE Number exponential(Number x) {
    constexpr float shift = 12582912.0f;  // so large that a float holds no places behind the point beside it
    const Number nought{}, least = nought - 87.0f;
    const Number clamped = x < least ? least : x;
    const Number n = (clamped * 1.44269504f + shift) - shift;
    const Number r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    Number p = nought + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return x < least ? nought : p * power_of_two(n);
}

// Rows and columns of sixteen vectors of sixteen words change places, first within pairs, then of pairs and so on.
template <int STEP>
INLINE void exchange(Words (&rows)[LANES]) {
    Words own, other;
    for (uint32_t j = 0; j < LANES; ++j) {
        own[j] = j & STEP ? LANES + j - STEP : j;
        other[j] = j & STEP ? LANES + j : j + STEP;
    }
    for (int i = 0; i < LANES; ++i) {
        if (i & STEP) continue;
        const Words low = rows[i], high = rows[i + STEP];
        rows[i] = __builtin_shuffle(low, high, own);
        rows[i + STEP] = __builtin_shuffle(low, high, other);
    }
}

// Calls body(first row, row after the last) on each of so many threads, for its share.
template <typename Body>
void share_rows(int64_t num_rows, int32_t num_threads, const Body& body) {
    if (num_threads <= 1) {
        body(0, num_rows);
        return;
    }
#pragma omp parallel num_threads(num_threads)
    {
        const int64_t count = omp_get_num_threads(), own = omp_get_thread_num();
        body(num_rows * own / count, num_rows * (own + 1) / count);
    }
}

}  // namespace
