// Attention of single queries over keys and values in a paged cache, read where they lie.
//
// A step has one query for each sequence that decodes and one for each token of a short prompt. Gathering the
// sequences' blocks first, as the plain body does, moves every key and value twice; here each is read where it is.
// Arithmetic is float32 for all dtypes.
//
// Layouts, counted in elements: query [b, h, d] with `query_stride` from row to row; cache [pages, block, kv, 2 d]
// with `page_stride` from page to page, each position's keys and then its values; tables [b, blocks]; out [b, h, d].
// `bias`, float of the cache's dtype, is added to the scores: [b or 1, h or 1, keys] by its strides, or null.

#include <algorithm>
#include <limits>
#include <vector>

#include "vectors.h"

namespace {

struct DecodeAttention {
    const void* query;
    const void* cache;
    const int64_t* tables;
    const int64_t* num_keys;
    const void* bias;
    void* out;
    int64_t b, h, kv, d, block, num_blocks;
    int64_t query_stride, page_stride, bias_row_stride, bias_head_stride;
    int64_t window;
    float scale;
};

struct Room {
    std::vector<float> numbers;
    std::vector<const void*> places;
};

template <typename T, int D>
INLINE Vector products(const Vector* query, const void* place) {
    const T* key = static_cast<const T*>(place);
    Vector sum = query[0] * load(key);
    for (int i = 1; i < D / LANES; ++i) sum += query[i] * load(key + i * LANES);
    return sum;
}

// scores[k] = query . keys[k]. With D the head size is known to the compiler and the query stays in registers.
template <typename T, int D>
INLINE void score(const float* query, const void* const* places, int64_t count, int64_t d, float* scores) {
    if constexpr (D > 0) {
        Vector own[D / LANES];
        for (int i = 0; i < D / LANES; ++i) own[i] = load(query + i * LANES);
        const Vector none = {};
        int64_t k = 0;
        for (; k + 4 <= count; k += 4) {
            const Quarter four =
                sums_of(products<T, D>(own, places[k]), products<T, D>(own, places[k + 1]),
                        products<T, D>(own, places[k + 2]), products<T, D>(own, places[k + 3]));
            std::memcpy(scores + k, &four, sizeof four);
        }
        for (; k < count; ++k) scores[k] = sums_of(products<T, D>(own, places[k]), none, none, none)[0];
    } else {
        for (int64_t k = 0; k < count; ++k) {
            const T* key = static_cast<const T*>(places[k]);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < d; ++i) sum += query[i] * widened(key[i]);
            scores[k] = sum;
        }
    }
}

// out = the sum of weights[k] * values[k], times `part`; a value stands behind its key.
template <typename T, int D>
INLINE void mix(const float* weights, const void* const* places, int64_t count, int64_t d, float part, float* sums, T* out) {
    if constexpr (D > 0) {
        Vector sum[D / LANES] = {};
        for (int64_t k = 0; k < count; ++k) {
            const T* value = static_cast<const T*>(places[k]) + D;
            for (int i = 0; i < D / LANES; ++i) sum[i] += weights[k] * load(value + i * LANES);
        }
        for (int i = 0; i < D; ++i) narrow(sum[i / LANES][i % LANES] * part, out + i);
    } else {
        std::fill(sums, sums + d, 0.0f);
        for (int64_t k = 0; k < count; ++k) {
            const T* value = static_cast<const T*>(places[k]) + d;
            const float weight = weights[k];
#pragma omp simd
            for (int64_t i = 0; i < d; ++i) sums[i] += weight * widened(value[i]);
        }
        for (int64_t i = 0; i < d; ++i) narrow(sums[i] * part, out + i);
    }
}

// One sequence and one key-value head: the queries of all heads that share it.
template <typename T, int D>
INLINE void attend_head(const DecodeAttention& a, int64_t row, int64_t group, Room& room) {
    const int64_t d = D > 0 ? D : a.d, shared = a.h / a.kv, stop = a.num_keys[row];
    const int64_t start = a.window > 0 ? std::max<int64_t>(0, stop - a.window) : 0;
    const int64_t count = stop - start;
    room.numbers.resize(count + 2 * d);
    room.places.resize(count);
    float* scores = room.numbers.data();  // [count]
    float* query = scores + count;        // [d]
    const void** places = room.places.data();
    const T* cache = static_cast<const T*>(a.cache) + group * 2 * d;
    const int64_t* table = a.tables + row * a.num_blocks;
    for (int64_t at = start, i = 0; at < stop;) {
        const int64_t offset = at % a.block, last = std::min(stop, at - offset + a.block);
        const T* place = cache + table[at / a.block] * a.page_stride + offset * a.kv * 2 * d;
        for (; at < last; ++at, place += a.kv * 2 * d) places[i++] = place;
    }
    for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
        const T* own = static_cast<const T*>(a.query) + row * a.query_stride + head * d;
        for (int64_t i = 0; i < d; ++i) query[i] = widened(own[i]) * a.scale;
        score<T, D>(query, places, count, d, scores);
        if (a.bias != nullptr) {
            const T* bias =
                static_cast<const T*>(a.bias) + row * a.bias_row_stride + head * a.bias_head_stride + start;
#pragma omp simd
            for (int64_t k = 0; k < count; ++k) scores[k] += widened(bias[k]);
        }
        float most = -std::numeric_limits<float>::infinity(), total = 0.0f;
#pragma omp simd reduction(max : most)
        for (int64_t k = 0; k < count; ++k) most = scores[k] > most ? scores[k] : most;
        if (most == -std::numeric_limits<float>::infinity()) most = 0.0f;  // it may look nowhere: zeros
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < count; ++k) {
            scores[k] = exponential(scores[k] - most);
            total += scores[k];
        }
        T* out = static_cast<T*>(a.out) + (row * a.h + head) * d;
        mix<T, D>(scores, places, count, d, total > 0.0f ? 1.0f / total : 0.0f, query + d, out);
    }
}

template <typename T>
INLINE void attend(const DecodeAttention& a, int64_t row, int64_t group, Room& room) {
    if (a.d == 64)
        attend_head<T, 64>(a, row, group, room);
    else if (a.d == 128)
        attend_head<T, 128>(a, row, group, room);
    else
        attend_head<T, 0>(a, row, group, room);
}

FOR_EACH_PROCESSOR void attend_float32(const DecodeAttention& a, int64_t row, int64_t group, Room& room) {
    attend<float>(a, row, group, room);
}

FOR_EACH_PROCESSOR void attend_bfloat16(const DecodeAttention& a, int64_t row, int64_t group, Room& room) {
    attend<bfloat16>(a, row, group, room);
}

}  // namespace

extern "C" void decode_attention(const void* query, const void* cache, const int64_t* tables, const int64_t* num_keys,
                                 const void* bias, void* out, int64_t b, int64_t h, int64_t kv, int64_t d,
                                 int64_t block, int64_t num_blocks, int64_t query_stride, int64_t page_stride,
                                 int64_t bias_row_stride, int64_t bias_head_stride, int64_t window, float scale,
                                 int32_t is_bfloat16, int32_t num_threads) {
    const DecodeAttention a{query, cache,      tables,       num_keys,    bias,            out,              b,      h,    kv, d,
                            block, num_blocks, query_stride, page_stride, bias_row_stride, bias_head_stride, window, scale};
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        Room room;
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < b * kv; ++i) {
            if (is_bfloat16)
                attend_bfloat16(a, i / kv, i % kv, room);
            else
                attend_float32(a, i / kv, i % kv, room);
        }
    }
}
