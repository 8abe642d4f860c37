// What attention of single queries is handed.
//
// Layouts, counted in elements: query [b, h, d] with `query_stride` from row to row; cache [pages, block, kv, 2 d]
// with `page_stride` from page to page, each position's keys and then its values; tables [b, blocks]; out [b, h, d].
// `bias`, float of the cache's dtype, is added to the scores: [b or 1, h or 1, keys] by its strides, or null.
#pragma once

#include <cstdint>
#include <vector>

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

// One thread's.
struct AttentionRoom {
    std::vector<float> numbers;
    std::vector<const void*> places;
};

// Where the keys [start, stop) of one key-value head are, of a cache of so many bytes a number. A row's table.
void find_keys(const DecodeAttention& a, int64_t row, int64_t group, int64_t start, int64_t stop, int64_t size,
               std::vector<const void*>& places);

// A thread's room for so many numbers, from a cache line's border on.
float* floats(AttentionRoom& room, int64_t count);

// Groups [first, last) of all rows': a row's heads that share a key-value head are one.
void attend_groups(const DecodeAttention& a, int64_t first, int64_t last, bool is_bfloat16, AttentionRoom& room);

// The same for rows that have one table, some at once: tile i is the `tiles[2 i + 1]` rows from `tiles[2 i]` on, and
// pieces [first, last) are tiles by key-value heads.
void attend_tiles(const DecodeAttention& a, const int64_t* tiles, int64_t first, int64_t last, int64_t level,
                  bool is_bfloat16, AttentionRoom& room);
