// `tile_attention.h` for any processor, and the choice of what is faster.
#include "tile_attention.h"

#include <algorithm>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_PAIRS
extern const AttendTile attend_tile_avx512_bf16;
#endif

namespace {

constexpr int64_t LEAST_PAIRS = 16;  // of fewer each reads its keys where they lie, which takes less than laying them out

FOR_EACH_PROCESSOR void attend_float32(const DecodeAttention& a, const Tile& tile, float* space) {
    attend_tile<Wide, float, float>(a, tile, space);
}

FOR_EACH_PROCESSOR void attend_bfloat16(const DecodeAttention& a, const Tile& tile, float* space) {
    attend_tile<Wide, bfloat16, bfloat16>(a, tile, space);
}

// `level` 1 leaves the products of pairs out.
bool takes_pairs(bool is_bfloat16, int64_t level) {
#ifdef HAS_PAIRS
    return is_bfloat16 && level < 1 && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

AttendTile body_for(bool is_bfloat16, bool is_in_pairs) {
#ifdef HAS_PAIRS
    if (is_in_pairs) return attend_tile_avx512_bf16;
#endif
    return is_bfloat16 ? attend_bfloat16 : attend_float32;
}

}  // namespace

void attend_tiles(const DecodeAttention& a, const int64_t* tiles, int64_t first, int64_t last, int64_t level,
                  bool is_bfloat16, AttentionRoom& room) {
    const bool is_in_pairs = takes_pairs(is_bfloat16, level);
    const AttendTile attend = body_for(is_bfloat16, is_in_pairs);
    for (int64_t i = first; i < last; ++i) {
        const int64_t row = tiles[i / a.kv * 2], count = tiles[i / a.kv * 2 + 1], group = i % a.kv;
        if (!is_in_pairs && count * (a.h / a.kv) < LEAST_PAIRS) {
            for (int64_t own = row; own < row + count; ++own)
                attend_groups(a, own * a.kv + group, own * a.kv + group + 1, is_bfloat16, room);
            continue;
        }
        const int64_t least = *std::min_element(a.num_keys + row, a.num_keys + row + count);
        const int64_t stop = *std::max_element(a.num_keys + row, a.num_keys + row + count);
        const int64_t start = a.window > 0 ? std::max<int64_t>(0, least - a.window) / LANES * LANES : 0;
        find_keys(a, row, group, start, stop, is_bfloat16 ? 2 : 4, room.places);
        float* space = floats(room, space_for(stop - start, a.d));
        attend(a, Tile{row, count, group, start, stop - start, room.places.data()}, space);
    }
}

extern "C" void tile_attention(const void* query, const void* cache, const int64_t* tables, const int64_t* num_keys,
                               const int64_t* tiles, void* out, int64_t num_tiles, int64_t h, int64_t kv, int64_t d,
                               int64_t block, int64_t num_blocks, int64_t query_stride, int64_t page_stride,
                               int64_t window, int64_t level, float scale, int32_t is_bfloat16, int32_t num_threads) {
    const DecodeAttention a{
        query, cache, tables, num_keys, nullptr, out, 0, h, kv, d, block, num_blocks, query_stride, page_stride,
        0, 0, window, scale,
    };
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        AttentionRoom room;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < num_tiles * kv; ++i) attend_tiles(a, tiles, i, i + 1, level, is_bfloat16 != 0, room);
    }
}
