// Attention of one query a sequence over keys and values in a paged cache, read where they lie.
//
// A step that decodes has one query for each sequence. Gathering the sequences' blocks first, as the plain body
// does, moves every key and value twice; here each is read once. Arithmetic is float32 for all dtypes.
//
// Layouts, counted in elements: query [b, h, d] with `query_stride` from row to row; cache [pages, block, kv, 2 d]
// with `page_stride` from page to page, each position's keys and then its values; tables [b, blocks]; out [b, h, d].
// `bias`, float of the cache's dtype, is added to the scores: [b or 1, h or 1, keys] by its strides, or null.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE inline __attribute__((always_inline))

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

INLINE float sum_of(Vector v) {
    Half a, b;
    std::memcpy(&a, &v, sizeof a);
    std::memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof a, sizeof b);
    a += b;
    Quarter c, e;
    std::memcpy(&c, &a, sizeof c);
    std::memcpy(&e, reinterpret_cast<const char*>(&a) + sizeof c, sizeof e);
    c += e;
    return (c[0] + c[1]) + (c[2] + c[3]);
}

// e**x for x <= 0 after Cephes' expf: 2**n times a polynomial of what is left. What is below the smallest normal
// number is nought, minus infinity among it. Without branches or calls, so that loops over it use vectors.
INLINE float exponential(float x) {
    float clamped = x < -87.0f ? -87.0f : x;
    float n = std::floor(clamped * 1.44269504f + 0.5f);
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}

}  // namespace

extern "C" {

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

}  // extern "C"

namespace {

struct Room {
    std::vector<float> numbers;
    std::vector<const void*> places;
};

// scores[k] = query . keys[k]. With D the head size is known to the compiler and the query stays in registers.
template <typename T, int D>
INLINE void score(const float* query, const void* const* places, int64_t count, int64_t d, float* scores) {
    if constexpr (D > 0) {
        Vector own[D / LANES];
        for (int i = 0; i < D / LANES; ++i) own[i] = load(query + i * LANES);
        for (int64_t k = 0; k < count; ++k) {
            const T* key = static_cast<const T*>(places[k]);
            Vector sum = own[0] * load(key);
            for (int i = 1; i < D / LANES; ++i) sum += own[i] * load(key + i * LANES);
            scores[k] = sum_of(sum);
        }
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

extern "C" void decode_attention(const DecodeAttention* a, int32_t is_bfloat16, int32_t num_threads) {
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        Room room;
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < a->b * a->kv; ++i) {
            if (is_bfloat16)
                attend_bfloat16(*a, i / a->kv, i % a->kv, room);
            else
                attend_float32(*a, i / a->kv, i % a->kv, room);
        }
    }
}
