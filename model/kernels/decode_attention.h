// What attention of single queries is handed.
//
// Layouts, counted in elements: query [b, h, d] with `query_stride` from row to row; cache [pages, block, kv, 2 d]
// with `page_stride` from page to page, each position's keys and then its values; tables [b, blocks]; out [b, h, d].
// `bias`, of the query's dtype, is added to the scores: [b or 1, h or 1, keys] by its strides, or null.
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
    bool cache_is_bfloat16;  // may be where queries are float32, and is where they are bfloat16
};

// One thread's.
struct AttentionRoom {
    std::vector<float> numbers;
    std::vector<const void*> places;
};

// Groups [first, last) of all rows': a row's heads that share a key-value head are one.
void attend_groups(const DecodeAttention& a, int64_t first, int64_t last, bool is_bfloat16, AttentionRoom& room);
