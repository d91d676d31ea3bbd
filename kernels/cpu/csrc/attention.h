// Paged attention: what one call is given.  Causal, ragged, online softmax, float32 sums.
#pragma once

#include <cstdint>

#include "arrays.h"
#include "attention_pages.h"

namespace pagoda {

constexpr int no_window = 1 << 30;

struct Attention {
    // T tokens of R requests lie end to end.
    const void* query;  // [T, heads, D], any strides with a dense last dimension
    Kind query_kind;
    int64_t query_token_stride, query_head_stride;  // in elements
    void* out;                                      // [T, heads * D] of the query's kind, dense
    Pages pages;
    const int32_t* tables;  // [R, W] block ids in sequence order
    int64_t table_stride;
    const int32_t* query_start;  // [R + 1]
    const int32_t* seq_lens;     // [R] tokens cached, the query's own included
    int num_requests, num_heads;
    float scale;
    int window;      // a token sees itself and the window - 1 before it
    float soft_cap;  // 0: none

    int group() const { return num_heads / pages.num_kv_heads; }
};

void attend(const Attention& call);

}  // namespace pagoda
