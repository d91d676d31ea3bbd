// From a step's new queries, keys and values to turned queries and a filled cache, in one pass.
#pragma once

#include <cstdint>

#include "attention_pages.h"

namespace pagoda {

// [T, heads, D], any strides with a dense last dimension.
struct Heads {
    void* base;
    int64_t token_stride, head_stride;  // in elements
    int count;
    const void* norm;  // weights [D] of the heads' RMS norm, of the heads' kind; null: none
};

struct Store {
    Kind kind;  // of queries, keys, values, angles and norms
    int num_tokens;
    Heads query;  // normed and turned in place; base null: left alone
    Heads key, value;
    Pages pages;
    const int64_t* slots;    // [T] block * block size + offset; below 0: not stored
    const void *cos, *sin;   // [T, turned], sin's first half negated; null: no turning
    int64_t angle_stride;    // in elements
    int turned;              // leading dimensions of a head that turn, half against half
    float epsilon;           // of the norms
};

void store(const Store& call);

}  // namespace pagoda
