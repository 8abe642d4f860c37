// Attention of many texts that lie end to end: each token looks at all of its own text, both ways.
//
// A text's keys and values of a head are laid out once, so that sixteen keys, and sixteen numbers of a value, stand in
// a vector; then its queries pass by, some at once. What is added up in which order depends on the text alone, so that
// its bits are the same whatever stands beside it. Sums are float32 for all dtypes.
#pragma once

#include "vectors.h"

// Counted in elements: query [tokens, h, d] with `query_stride` from token to token, key and value [tokens, kv, d] with
// strides of their own; out [tokens, h, d]; text i is the `lengths[i]` tokens from `starts[i]` on. `bias` [h, 2 * longest - 1]
// or null is added to the score of a key that stands so far behind the query, from 1 - longest on, and is of the
// tensors' dtype. A `window` over 0 hides keys that stand so far away or further, on either side.
struct PackedAttention {
    const void *query, *key, *value;
    const int64_t *starts, *lengths;
    const void* bias;
    void* out;
    int64_t h, kv, d, query_stride, key_stride, value_stride, longest, window;
    float scale;
};

// One text and the heads that share a key-value head. One for each kind of processor; `space` is a thread's own, from a
// cache line's border on.
typedef void (*AttendText)(const PackedAttention&, int64_t text, int64_t group, float* space);

namespace {

constexpr int QUERIES = 8;  // at once: as many sums as it takes until the first is done

INLINE int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }
INLINE int64_t lesser(int64_t x, int64_t y) { return x < y ? x : y; }
INLINE int64_t greater(int64_t x, int64_t y) { return x > y ? x : y; }

constexpr float NOWHERE = -__builtin_inff();
constexpr int64_t MOST_WIDE = 32;  // what any body fills d up to a multiple of

// The floats that a text of so many tokens takes.
INLINE int64_t space_for(int64_t length, int64_t d) {
    const int64_t num_keys = rounded_up(length, LANES), wide = rounded_up(d, MOST_WIDE);
    return 2 * num_keys * wide + QUERIES * (wide + 2 * num_keys);
}

// One text and head laid out. A `Body` says in what: `Number`s, of which `STEP` stand together in a lane.
template <class Body>
struct LaidOut {
    typename Body::Number *keys;    // [blocks of 16 keys, wide / STEP, 16, STEP]
    typename Body::Number *values;  // [keys / STEP, wide, STEP]
    typename Body::Number *queries, *weights;  // [QUERIES, wide] and [QUERIES, keys]
    float* scores;                  // [QUERIES, keys]
    int64_t num_keys, count, wide;  // keys filled up to whole blocks, and without; d filled up to a vector
};

// R sums: of 16 neighbouring columns over `steps` rows [steps, stride] of vectors, each row times a lane's worth of
// each of R rows of factors [R, factor_stride].
template <class Body, int R>
INLINE void multiply(const typename Body::Number* rows, int64_t stride, const typename Body::Number* factors,
                     int64_t factor_stride, int64_t steps, Vector (&sums)[R]) {
    for (int r = 0; r < R; ++r) sums[r] = Vector{};
    for (int64_t i = 0; i < steps; ++i) {
        const auto row = Body::load_row(rows + i * stride);
        for (int r = 0; r < R; ++r) sums[r] = Body::add(sums[r], row, factors + r * factor_stride + i * Body::STEP);
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

// The queries [first, first + R) of a text, as far as there are so many.
template <class Body, int R>
INLINE void attend_queries(const PackedAttention& a, const LaidOut<Body>& t, int64_t start, int64_t head,
                           int64_t first) {
    using T = typename Body::Element;
    const int64_t count = lesser(R, t.count - first);
    const T* query = static_cast<const T*>(a.query) + (start + first) * a.query_stride + head * a.d;
    for (int64_t r = 0; r < R; ++r)  // the last one again where they are fewer
        Body::lay_out_row(query + lesser(r, count - 1) * a.query_stride, a.d, t.wide, t.queries + r * t.wide);
    int64_t begin = 0, end = t.num_keys;
    if (a.window > 0) {
        begin = greater(0, first - a.window + 1) / LANES * LANES;
        end = lesser(t.num_keys, rounded_up(first + count - 1 + a.window, LANES));
    }
    Vector sums[R];
    for (int64_t k = begin; k < end; k += LANES) {
        multiply<Body, R>(t.keys + k * t.wide, LANES * Body::STEP, t.queries, t.wide, t.wide / Body::STEP, sums);
        for (int r = 0; r < R; ++r) store(sums[r] * a.scale, t.scores + r * t.num_keys + k);
    }
    float parts[R];
    for (int64_t r = 0; r < count; ++r) {
        const int64_t own = first + r;
        int64_t low = 0, high = t.count;
        if (a.window > 0) low = greater(0, own - a.window + 1), high = lesser(t.count, own + a.window);
        float* scores = t.scores + r * t.num_keys;
        if (a.bias != nullptr) {
            const T* bias = static_cast<const T*>(a.bias) + head * (2 * a.longest - 1) + a.longest - 1 - own;
#pragma omp simd
            for (int64_t k = low; k < high; ++k) scores[k] += widened(bias[k]);
        }
        parts[r] = soften<Body>(scores, t.weights + r * t.num_keys, begin, low, high, end);
    }
    T* out = static_cast<T*>(a.out) + ((start + first) * a.h + head) * a.d;
    for (int64_t i = 0; i < a.d; i += LANES) {
        multiply<Body, R>(t.values + (begin * t.wide + i * Body::STEP), t.wide * Body::STEP, t.weights + begin,
                          t.num_keys, (end - begin) / Body::STEP, sums);
        for (int64_t r = 0; r < count; ++r) {
            T* place = out + r * a.h * a.d + i;
            const Vector y = sums[r] * parts[r];
            if (i + LANES <= a.d) {
                store(y, place);
            } else {
                for (int64_t j = 0; i + j < a.d; ++j) narrow(y[j], place + j);
            }
        }
    }
}

template <class Body>
INLINE void attend_text(const PackedAttention& a, int64_t text, int64_t group, float* space) {
    using T = typename Body::Element;
    using Number = typename Body::Number;
    const int64_t start = a.starts[text], shared = a.h / a.kv;
    LaidOut<Body> t;
    t.count = a.lengths[text];
    t.num_keys = rounded_up(t.count, LANES);
    t.wide = rounded_up(a.d, Body::WIDE);
    t.keys = reinterpret_cast<Number*>(space);
    t.values = reinterpret_cast<Number*>(space += t.num_keys * t.wide);
    t.queries = reinterpret_cast<Number*>(space += t.num_keys * t.wide);
    t.weights = reinterpret_cast<Number*>(space += QUERIES * t.wide);
    t.scores = space + QUERIES * t.num_keys;
    Body::lay_out_keys(static_cast<const T*>(a.key) + start * a.key_stride + group * a.d, a.key_stride, a.d, t);
    Body::lay_out_values(static_cast<const T*>(a.value) + start * a.value_stride + group * a.d, a.value_stride, a.d, t);
    for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
        int64_t i = 0;
        for (; i + QUERIES / 2 < t.count; i += QUERIES) attend_queries<Body, QUERIES>(a, t, start, head, i);
        if (i < t.count) attend_queries<Body, QUERIES / 2>(a, t, start, head, i);
    }
}

}  // namespace
