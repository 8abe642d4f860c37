// Attention of several queries of one sequence over its keys and values in a paged cache, which are laid out once for
// all of the queries, and for all heads that share them.
#pragma once

#include "decode_attention.h"
#include "laid_out.h"

// Rows [first, first + count), which have one table, and the keys of the key-value head `group` that any of them may
// look at: `num_keys`, from the sequence's key `start` on, a multiple of 16.
struct Tile {
    int64_t first, count, group, start, num_keys;
    const void* const* places;
};

// One for each kind of processor; `space` is a thread's own, from a cache line's border on.
typedef void (*AttendTile)(const DecodeAttention&, const Tile&, float* space);

namespace {

constexpr int64_t KEYS_AHEAD = 24;  // whose memory is asked for: they may lie pages apart

// R pairs of a row and a head, from the pair `first` on, as far as there are so many.
template <class Body, typename T, int R>
INLINE void attend_pairs(const DecodeAttention& a, const Tile& tile, const LaidOut<Body>& t, int64_t first) {
    const int64_t shared = a.h / a.kv, count = lesser(R, tile.count * shared - first);
    int64_t rows[R], heads[R], low[R], high[R], begin = t.num_keys, end = 0;
    for (int64_t r = 0; r < R; ++r) {  // the last one again where they are fewer
        const int64_t pair = first + lesser(r, count - 1);
        rows[r] = tile.first + pair / shared, heads[r] = tile.group * shared + pair % shared;
        const T* query = static_cast<const T*>(a.query) + rows[r] * a.query_stride + heads[r] * a.d;
        Body::lay_out_row(query, a.d, t.wide, t.queries + r * t.wide);
        const int64_t stop = a.num_keys[rows[r]];
        low[r] = (a.window > 0 ? greater(0, stop - a.window) : 0) - tile.start, high[r] = stop - tile.start;
        begin = lesser(begin, low[r] / LANES * LANES), end = greater(end, rounded_up(high[r], LANES));
    }
    score<Body, R>(t, begin, end, a.scale);
    float parts[R];
    for (int64_t r = 0; r < R; ++r) {
        const int64_t skip = r * t.num_keys;
        parts[r] = soften<Body>(t.scores + skip, t.weights + skip, begin, low[r], high[r], end);
    }
    mix<Body, R>(t, begin, end, [&](int64_t r, int64_t i, Vector sum) INLINED {
        T* out = static_cast<T*>(a.out) + (rows[r] * a.h + heads[r]) * a.d;
        if (r < count) store_part(sum * parts[r], i, a.d, out);
    });
}

// Rows are of T, the cache is of C.
template <class Body, typename T, typename C>
INLINE void attend_tile(const DecodeAttention& a, const Tile& tile, float* space) {
    const auto number_at = [&](int64_t k, int64_t i) INLINED {
        const int64_t later = lesser(k + KEYS_AHEAD, tile.num_keys - 1);
        __builtin_prefetch(static_cast<const C*>(tile.places[later]) + i);
        return static_cast<const C*>(tile.places[k]) + i;
    };
    const auto t = lay_out<Body>(
        tile.num_keys, a.d, number_at, [&](int64_t k, int64_t i) INLINED { return number_at(k, a.d + i); }, space);
    const int64_t num_pairs = tile.count * (a.h / a.kv);
    int64_t i = 0;
    for (; i + QUERIES / 2 < num_pairs; i += QUERIES) attend_pairs<Body, T, QUERIES>(a, tile, t, i);
    if (i + 2 < num_pairs)
        attend_pairs<Body, T, QUERIES / 2>(a, tile, t, i);
    else if (i < num_pairs)
        attend_pairs<Body, T, 2>(a, tile, t, i);
}

}  // namespace
