// Keys and values of a head laid out so that sixteen keys, and sixteen numbers of a value, stand in a vector; then
// queries pass by, some at once.
//
// What is added up in which order depends on a query and its keys alone, so that its bits are the same whatever passes
// by beside it. Sums are float32 for all dtypes.
#pragma once

#include "vectors.h"

namespace {

constexpr int QUERIES = 8;  // at once: as many sums as it takes until the first is done

INLINE int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }
INLINE int64_t lesser(int64_t x, int64_t y) { return x < y ? x : y; }
INLINE int64_t greater(int64_t x, int64_t y) { return x > y ? x : y; }

constexpr float NOWHERE = -__builtin_inff();
constexpr int64_t MOST_WIDE = 32;  // what any body fills d up to a multiple of

// The floats that so many keys take.
INLINE int64_t space_for(int64_t length, int64_t d) {
    const int64_t num_keys = rounded_up(length, LANES), wide = rounded_up(d, MOST_WIDE);
    return 2 * num_keys * wide + QUERIES * (wide + 2 * num_keys);
}

// A `Body` says in what: `Number`s, of which `STEP` stand together in a lane; and how many vectors of a row are
// multiplied at once, `ACROSS`.
template <class Body>
struct LaidOut {
    typename Body::Number *keys;    // [blocks of 16 keys, wide / STEP, 16, STEP]
    typename Body::Number *values;  // [keys / STEP, wide, STEP]
    typename Body::Number *queries, *weights;  // [QUERIES, wide] and [QUERIES, keys]
    float* scores;                  // [QUERIES, keys]
    int64_t num_keys, count, wide;  // keys filled up to whole blocks, and without; d filled up to a vector
};

// `key_at` and `value_at` say where the number i of the key or value k lies, as do some behind it.
template <class Body, class KeyAt, class ValueAt>
INLINE LaidOut<Body> lay_out(int64_t count, int64_t d, const KeyAt& key_at, const ValueAt& value_at, float* space) {
    using Number = typename Body::Number;
    LaidOut<Body> t;
    t.count = count;
    t.num_keys = rounded_up(count, LANES);
    t.wide = rounded_up(d, Body::WIDE);
    t.keys = reinterpret_cast<Number*>(space);
    t.values = reinterpret_cast<Number*>(space += t.num_keys * t.wide);
    t.queries = reinterpret_cast<Number*>(space += t.num_keys * t.wide);
    t.weights = reinterpret_cast<Number*>(space += QUERIES * t.wide);
    t.scores = space + QUERIES * t.num_keys;
    Body::lay_out_keys(key_at, d, t);
    Body::lay_out_values(value_at, d, t);
    return t;
}

// Sums of C neighbouring vectors, each `next` behind the one before, over `steps` rows [steps, stride] of them, each
// row times a lane's worth of each of R rows of factors [R, factor_stride].
template <class Body, int R, int C>
INLINE void multiply(const typename Body::Number* rows, int64_t next, int64_t stride,
                     const typename Body::Number* factors, int64_t factor_stride, int64_t steps,
                     Vector (&sums)[C][R]) {
    for (int c = 0; c < C; ++c)
        for (int r = 0; r < R; ++r) sums[c][r] = Vector{};
    for (int64_t i = 0; i < steps; ++i) {
        decltype(Body::load_row(rows)) row[C];
        for (int c = 0; c < C; ++c) row[c] = Body::load_row(rows + c * next + i * stride);
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c)
                sums[c][r] = Body::add(sums[c][r], row[c], factors + r * factor_stride + i * Body::STEP);
    }
}

// Scores of R queries that are laid out and C blocks of keys from `key` on.
template <class Body, int R, int C>
INLINE void score_blocks(const LaidOut<Body>& t, int64_t key, float scale) {
    Vector sums[C][R];
    multiply<Body, R, C>(t.keys + key * t.wide, LANES * t.wide, LANES * Body::STEP, t.queries, t.wide,
                         t.wide / Body::STEP, sums);
    for (int c = 0; c < C; ++c)
        for (int r = 0; r < R; ++r) store(sums[c][r] * scale, t.scores + r * t.num_keys + key + c * LANES);
}

// Of the keys [begin, end), whole blocks.
template <class Body, int R>
INLINE void score(const LaidOut<Body>& t, int64_t begin, int64_t end, float scale) {
    constexpr int C = Body::ACROSS * (R > QUERIES / 2 ? 1 : 2);
    for (; begin + C * LANES <= end; begin += C * LANES) score_blocks<Body, R, C>(t, begin, scale);
    for (; begin < end; begin += LANES) score_blocks<Body, R, 1>(t, begin, scale);
}

// C vectors of the R sums of values of the keys [begin, end) by their weights, from the number i on; each goes to
// put(r, i, sum).
template <class Body, int R, int C, class Put>
INLINE void mix_vectors(const LaidOut<Body>& t, int64_t begin, int64_t end, int64_t i, const Put& put) {
    Vector sums[C][R];
    multiply<Body, R, C>(t.values + (begin * t.wide + i * Body::STEP), LANES * Body::STEP, t.wide * Body::STEP,
                         t.weights + begin, t.num_keys, (end - begin) / Body::STEP, sums);
    for (int c = 0; c < C; ++c)
        for (int r = 0; r < R; ++r) put(r, i + c * LANES, sums[c][r]);
}

template <class Body, int R, class Put>
INLINE void mix(const LaidOut<Body>& t, int64_t begin, int64_t end, const Put& put) {
    constexpr int C = Body::ACROSS * (R > QUERIES / 2 ? 1 : 2);
    int64_t i = 0;
    for (; i + C * LANES <= t.wide; i += C * LANES) mix_vectors<Body, R, C>(t, begin, end, i, put);
    for (; i < t.wide; i += LANES) mix_vectors<Body, R, 1>(t, begin, end, i, put);
}

// The numbers from i on of a row of d.
template <typename T>
INLINE void store_part(Vector y, int64_t i, int64_t d, T* row) {
    if (i + LANES <= d) {
        store(y, row + i);
    } else {
        for (int64_t j = 0; i + j < d; ++j) narrow(y[j], row + i + j);
    }
}

// Where the lane's number is from `first` on and before `last` what it was, elsewhere minus infinity.
INLINE Vector within(Vector scores, int64_t first, int64_t last) {
    const Vector lanes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, nowhere = Vector{} + NOWHERE;
    scores = lanes < static_cast<float>(lesser(last, LANES)) ? scores : nowhere;
    return lanes < static_cast<float>(greater(first, 0)) ? nowhere : scores;
}

// Weights of one query from its scores of the keys [begin, end), whole blocks; it may look at [first, last) of them.
// Returns what is left to multiply by.
template <class Body>
INLINE float soften(float* scores, typename Body::Number* weights, int64_t begin, int64_t first, int64_t last,
                    int64_t end) {
    Vector most = Vector{} + NOWHERE, total{};
    for (int64_t k = begin; k < end; k += LANES) {
        Vector some = load(scores + k);
        if (k < first || k + LANES > last) {
            some = within(some, first - k, last - k);
            store(some, scores + k);
        }
        most = some > most ? some : most;
    }
    const float largest = largest_of(most), zero = largest == NOWHERE ? 0.0f : largest;  // a bias may forbid all
    for (int64_t k = begin; k < end; k += LANES) {
        const Vector some = exponential(load(scores + k) - zero);
        total += some;
        Body::store_weights(some, weights + k);
    }
    const float sum = sum_of(total);
    return sum != 0.0f ? 1.0f / sum : 0.0f;
}

// In float32, for any processor.
struct Wide {
    using Number = float;
    static constexpr int STEP = 1, WIDE = LANES, ACROSS = 1;

    static INLINE Vector load_row(const float* from) { return load(from); }
    static INLINE Vector add(Vector sum, Vector row, const float* factor) { return sum + row * *factor; }
    static INLINE void store_weights(Vector weights, float* to) { store(weights, to); }

    template <typename T>
    static INLINE void lay_out_row(const T* from, int64_t d, int64_t wide, float* to) {
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) to[i] = widened(from[i]);
        for (int64_t i = d; i < wide; ++i) to[i] = 0.0f;
    }
    template <class At>
    static INLINE void lay_out_keys(const At& at, int64_t d, const LaidOut<Wide>& t) {
        for (int64_t k = 0; k < t.num_keys; ++k) {
            float* to = t.keys + k / LANES * LANES * t.wide + k % LANES;
            const int64_t count = k < t.count ? d : 0;
            const auto from = at(lesser(k, t.count - 1), 0);
            for (int64_t i = 0; i < count; ++i) to[i * LANES] = widened(from[i]);
            for (int64_t i = count; i < t.wide; ++i) to[i * LANES] = 0.0f;
        }
    }
    template <class At>
    static INLINE void lay_out_values(const At& at, int64_t d, const LaidOut<Wide>& t) {
        for (int64_t k = 0; k < t.num_keys; ++k)
            lay_out_row(at(lesser(k, t.count - 1), 0), k < t.count ? d : 0, t.wide, t.values + k * t.wide);
    }
};

}  // namespace
