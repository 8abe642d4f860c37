// Attention of single queries over keys and values in a paged cache, read where they lie.
//
// A step has one query for each sequence that decodes and one for each token of a short prompt. Gathering the
// sequences' blocks first, as the plain body does, moves every key and value twice; here each is read where it is.
// Arithmetic is float32 for all dtypes.

#include <algorithm>
#include <limits>

#include "decode_attention.h"
#include "vectors.h"

namespace {

// Scores are stored four at a time.
INLINE int64_t room_for(int64_t count) { return (count + 3) / 4 * 4; }

// Keys of a position may lie pages apart, where no processor looks ahead by itself: so many positions ahead are asked for.
constexpr int64_t AHEAD = 12;

template <typename T, int D>
INLINE void ask_for(const void* const* places, int64_t place, int64_t count, int64_t offset) {
    const char* from = reinterpret_cast<const char*>(static_cast<const T*>(places[std::min(place, count - 1)]) + offset);
    for (int i = 0; i < D * static_cast<int>(sizeof(T)); i += 64) __builtin_prefetch(from + i);
}

// scores[j][k] = query[j] . keys[k] for so many heads, each key read once for all of them. With D the head size is
// known to the compiler and the queries stay in registers; without, there is one head.
template <typename T, int D, int HEADS>
INLINE void score(const float* query, const void* const* places, int64_t count, int64_t d, float* scores) {
    if constexpr (D > 0) {
        Vector own[HEADS][D / LANES];
        for (int j = 0; j < HEADS; ++j)
            for (int i = 0; i < D / LANES; ++i) own[j][i] = load(query + j * D + i * LANES);
        for (int64_t k = 0; k < count; k += 4) {  // the last keys once more where they are no four
            Vector sums[HEADS][4] = {};
            for (int n = 0; n < 4; ++n) {
                ask_for<T, D>(places, k + n + AHEAD, count, 0);
                const T* key = static_cast<const T*>(places[std::min(k + n, count - 1)]);
                for (int i = 0; i < D / LANES; ++i) {
                    const Vector part = load(key + i * LANES);
                    for (int j = 0; j < HEADS; ++j) sums[j][n] += own[j][i] * part;
                }
            }
            for (int j = 0; j < HEADS; ++j) {
                const Quarter four = sums_of(sums[j][0], sums[j][1], sums[j][2], sums[j][3]);
                std::memcpy(scores + j * room_for(count) + k, &four, sizeof four);
            }
        }
    } else {
        static_assert(HEADS == 1);
        for (int64_t k = 0; k < count; ++k) {
            const T* key = static_cast<const T*>(places[k]);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < d; ++i) sum += query[i] * widened(key[i]);
            scores[k] = sum;
        }
    }
}

// Scores, biased where there is a bias, to weights; returns what is left to multiply them with.
template <typename T>
INLINE float soften(float* scores, int64_t count, const T* bias) {
    if (bias != nullptr) {
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
    return total > 0.0f ? 1.0f / total : 0.0f;
}

// out[j] = the sum of weights[j][k] * values[k], times parts[j]; a value stands behind its key.
template <typename T, int D, int HEADS>
INLINE void mix(const float* weights, const void* const* places, int64_t count, int64_t d, const float* parts,
                float* room, T* out) {
    if constexpr (D > 0) {
        Vector sums[HEADS][D / LANES] = {};
        for (int64_t k = 0; k < count; ++k) {
            const T* value = static_cast<const T*>(places[k]) + D;
            ask_for<T, D>(places, k + AHEAD, count, D);
            for (int i = 0; i < D / LANES; ++i) {
                const Vector part = load(value + i * LANES);
                for (int j = 0; j < HEADS; ++j) sums[j][i] += weights[j * room_for(count) + k] * part;
            }
        }
        for (int j = 0; j < HEADS; ++j)
            for (int i = 0; i < D / LANES; ++i) store(sums[j][i] * parts[j], out + j * D + i * LANES);
    } else {
        std::fill(room, room + d, 0.0f);
        for (int64_t k = 0; k < count; ++k) {
            const T* value = static_cast<const T*>(places[k]) + d;
            const float weight = weights[k];
#pragma omp simd
            for (int64_t i = 0; i < d; ++i) room[i] += weight * widened(value[i]);
        }
        for (int64_t i = 0; i < d; ++i) narrow(room[i] * parts[0], out + i);
    }
}

// One sequence and as many heads as are done at once, from `head` on. `places` are those of the keys from `start` on.
template <typename T, int D, int HEADS>
INLINE void attend_heads(const DecodeAttention& a, int64_t row, int64_t head, int64_t start, AttentionRoom& room) {
    const int64_t d = D > 0 ? D : a.d, count = room.places.size(), stride = room_for(count);
    float* scores = floats(room, HEADS * stride + (HEADS + 1) * d);  // [HEADS, stride]
    float* query = scores + HEADS * stride;                         // [HEADS, d]
    const T* own = static_cast<const T*>(a.query) + row * a.query_stride + head * d;
    for (int64_t i = 0; i < HEADS * d; ++i) query[i] = widened(own[i]) * a.scale;
    score<T, D, HEADS>(query, room.places.data(), count, d, scores);
    float parts[HEADS];
    for (int j = 0; j < HEADS; ++j) {
        const T* bias = static_cast<const T*>(a.bias);
        if (bias != nullptr) bias += row * a.bias_row_stride + (head + j) * a.bias_head_stride + start;
        parts[j] = soften<T>(scores + j * stride, count, bias);
    }
    T* out = static_cast<T*>(a.out) + (row * a.h + head) * d;
    mix<T, D, HEADS>(scores, room.places.data(), count, d, parts, query + HEADS * d, out);
}

// One query's heads that share a key-value head.
template <typename T, int D>
INLINE void attend_group(const DecodeAttention& a, int64_t row, int64_t group, AttentionRoom& room) {
    const int64_t shared = a.h / a.kv, stop = a.num_keys[row];
    const int64_t start = a.window > 0 ? std::max<int64_t>(0, stop - a.window) : 0;
    find_keys(a, row, group, start, stop, sizeof(T), room.places);
    int64_t head = group * shared;
    const int64_t last = head + shared;
    if constexpr (D > 0 && D <= 128)  // the registers hold no two heads of more
        for (; head + 2 <= last; head += 2) attend_heads<T, D, 2>(a, row, head, start, room);
    for (; head < last; ++head) attend_heads<T, D, 1>(a, row, head, start, room);
}

template <typename T>
INLINE void attend(const DecodeAttention& a, int64_t row, int64_t group, AttentionRoom& room) {
    if (a.d == 32)
        attend_group<T, 32>(a, row, group, room);
    else if (a.d == 64)
        attend_group<T, 64>(a, row, group, room);
    else if (a.d == 128)
        attend_group<T, 128>(a, row, group, room);
    else if (a.d == 256)
        attend_group<T, 256>(a, row, group, room);
    else
        attend_group<T, 0>(a, row, group, room);
}

FOR_EACH_PROCESSOR void attend_float32(const DecodeAttention& a, int64_t row, int64_t group, AttentionRoom& room) {
    attend<float>(a, row, group, room);
}

FOR_EACH_PROCESSOR void attend_bfloat16(const DecodeAttention& a, int64_t row, int64_t group, AttentionRoom& room) {
    attend<bfloat16>(a, row, group, room);
}

}  // namespace

// How a loop is cut into vectors may depend on where its numbers begin, and so would the sums' order.
float* floats(AttentionRoom& room, int64_t count) {
    room.numbers.resize(count + LANES);
    const auto behind = reinterpret_cast<uintptr_t>(room.numbers.data()) % sizeof(Vector);
    return room.numbers.data() + (behind == 0 ? 0 : (sizeof(Vector) - behind) / sizeof(float));
}

void find_keys(const DecodeAttention& a, int64_t row, int64_t group, int64_t start, int64_t stop, int64_t size,
               std::vector<const void*>& places) {
    places.resize(stop - start);
    const int64_t width = a.kv * 2 * a.d * size;
    const char* cache = static_cast<const char*>(a.cache) + group * 2 * a.d * size;
    const int64_t* table = a.tables + row * a.num_blocks;
    for (int64_t at = start, i = 0; at < stop;) {
        const int64_t offset = at % a.block, last = std::min(stop, at - offset + a.block);
        const char* place = cache + table[at / a.block] * a.page_stride * size + offset * width;
        for (; at < last; ++at, place += width) places[i++] = place;
    }
}

void attend_groups(const DecodeAttention& a, int64_t first, int64_t last, bool is_bfloat16, AttentionRoom& room) {
    for (int64_t i = first; i < last; ++i) {
        if (is_bfloat16)
            attend_bfloat16(a, i / a.kv, i % a.kv, room);
        else
            attend_float32(a, i / a.kv, i % a.kv, room);
    }
}

extern "C" void decode_attention(const void* query, const void* cache, const int64_t* tables, const int64_t* num_keys,
                                 const void* bias, void* out, int64_t b, int64_t h, int64_t kv, int64_t d,
                                 int64_t block, int64_t num_blocks, int64_t query_stride, int64_t page_stride,
                                 int64_t bias_row_stride, int64_t bias_head_stride, int64_t window, float scale,
                                 int32_t is_bfloat16, int32_t num_threads) {
    const DecodeAttention a{
        query, cache, tables, num_keys, bias, out, b, h, kv, d, block, num_blocks, query_stride, page_stride,
        bias_row_stride, bias_head_stride, window, scale,
    };
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        AttentionRoom room;
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < b * kv; ++i) attend_groups(a, i, i + 1, is_bfloat16 != 0, room);
    }
}
