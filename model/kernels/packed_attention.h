// Attention of many texts that lie end to end: each token looks at all of its own text, both ways.
//
// A text's keys and values of a head are laid out once, so that its bits are the same whatever stands beside it.
#pragma once

#include "laid_out.h"

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

// The queries [first, first + R) of a text, as far as there are so many.
template <class Body, typename T, int R>
INLINE void attend_queries(const PackedAttention& a, const LaidOut<Body>& t, int64_t start, int64_t head,
                           int64_t first) {
    const int64_t count = lesser(R, t.count - first);
    const T* query = static_cast<const T*>(a.query) + (start + first) * a.query_stride + head * a.d;
    for (int64_t r = 0; r < R; ++r)  // the last one again where they are fewer
        Body::lay_out_row(query + lesser(r, count - 1) * a.query_stride, a.d, t.wide, t.queries + r * t.wide);
    int64_t begin = 0, end = t.num_keys;
    if (a.window > 0) {
        begin = greater(0, first - a.window + 1) / LANES * LANES;
        end = lesser(t.num_keys, rounded_up(first + count - 1 + a.window, LANES));
    }
    score<Body, R>(t, begin, end, a.scale);
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
    mix<Body, R>(t, begin, end, [&](int64_t r, int64_t i, Vector sum) INLINED {
        if (r < count) store_part(sum * parts[r], i, a.d, out + r * a.h * a.d);
    });
}

template <class Body, typename T>
INLINE void attend_text(const PackedAttention& a, int64_t text, int64_t group, float* space) {
    const int64_t start = a.starts[text], shared = a.h / a.kv;
    const T* keys = static_cast<const T*>(a.key) + start * a.key_stride + group * a.d;
    const T* values = static_cast<const T*>(a.value) + start * a.value_stride + group * a.d;
    const auto t = lay_out<Body>(
        a.lengths[text], a.d, [&](int64_t k, int64_t i) INLINED { return keys + k * a.key_stride + i; },
        [&](int64_t k, int64_t i) INLINED { return values + k * a.value_stride + i; }, space);
    for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
        int64_t i = 0;
        for (; i + QUERIES / 2 < t.count; i += QUERIES) attend_queries<Body, T, QUERIES>(a, t, start, head, i);
        if (i < t.count) attend_queries<Body, T, QUERIES / 2>(a, t, start, head, i);
    }
}

}  // namespace
