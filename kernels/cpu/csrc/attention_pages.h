// How keys and values lie in the cache.
//
// A page is what one kv head has in one block: keys transposed, [D, block size], so that a register
// holds one dimension of many keys; then values, [block size, D].  With int8 there are two float32
// scales a token before them, keys' [block size] and values' [block size]; a number is int8 * scale.
// Pages lie dense: [blocks, kv heads].
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "arrays.h"

namespace pagoda {

struct Pages {
    uint8_t* base;
    Kind kind;
    int block_size, head_size, num_kv_heads;

    int64_t scales_bytes() const { return kind == Kind::int8 ? int64_t(block_size) * 8 : 0; }
    int64_t element_bytes() const { return kind == Kind::f32 ? 4 : kind == Kind::int8 ? 1 : 2; }
    int64_t part() const { return int64_t(block_size) * head_size; }  // elements of keys, or of values
    int64_t page_bytes() const { return scales_bytes() + 2 * part() * element_bytes(); }

    uint8_t* page(int64_t block, int head) const {
        return base + (block * num_kv_heads + head) * page_bytes();
    }
    template <class T>
    T* keys(uint8_t* page) const {
        return reinterpret_cast<T*>(page + scales_bytes());
    }
    template <class T>
    T* values(uint8_t* page) const {
        return keys<T>(page) + part();
    }
    // A page may start anywhere, so scales are copied, not pointed to.
    void read_scales(const uint8_t* page, int offset, int count, float* keys, float* values) const {
        std::memcpy(keys, page + offset * 4, size_t(count) * 4);
        std::memcpy(values, page + (block_size + offset) * 4, size_t(count) * 4);
    }
    void write_scales(uint8_t* page, int offset, float key, float value) const {
        std::memcpy(page + offset * 4, &key, 4);
        std::memcpy(page + (block_size + offset) * 4, &value, 4);
    }
};

// Positions [begin, end) of one request and head, in their order:
// f(page, offset in the block, how many, how many before).
template <class F>
inline void each_piece(const Pages& pages, const int32_t* table, int head, int begin, int end, const F& f) {
    for (int at = begin; at < end;) {
        const int offset = at % pages.block_size;
        const int count = std::min(pages.block_size - offset, end - at);
        f(pages.page(table[at / pages.block_size], head), offset, count, at - begin);
        at += count;
    }
}

}  // namespace pagoda
