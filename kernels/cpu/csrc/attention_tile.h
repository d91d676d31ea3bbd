// One tile: some query tokens of one request, all heads that share a kv head, over a range of keys.
#pragma once

#include <utility>

#include "attention.h"
#include "attention_softmax.h"
#include "pool.h"

namespace pagoda {

struct Tile {
    int request, kv_head;
    int token, num_tokens;     // the first, among all of the call's tokens
    int position;              // of the first token in its sequence
    int key_begin, key_end;    // positions
    int64_t part;              // where its sums go in floats, to be joined with others; -1: it is all

    int rows(int group) const { return num_tokens * group; }
};

// A row's sums while they are not joined: out [width], then largest and sum.
inline int64_t part_stride(int width) { return width + 2; }

inline int64_t query_offset(const Attention& call, const Tile& tile, int row) {
    const int group = call.group(), token = tile.token + row / group, head = tile.kv_head * group + row % group;
    return token * call.query_token_stride + head * call.query_head_stride;
}

// A row's sums over all keys, divided and stored.
inline void store_row(const Attention& call, const Tile& tile, int row, const float* sums, float sum) {
    const int group = call.group(), size = call.pages.head_size;
    const int64_t token = tile.token + row / group, head = tile.kv_head * group + row % group;
    const int64_t at = (token * call.num_heads + head) * size;
    with_float(call.query_kind, "query", [&](auto type) {
        copy_row(sums, static_cast<decltype(type)*>(call.out) + at, size, 1.0f / sum);
    });
}

template <class Chunk, class T>
void run_tile(const Attention& call, const Tile& tile, float* parts) {
    using Query = typename Chunk::Query;
    const int size = call.pages.head_size, group = call.group(), rows = tile.rows(group);
    Chunk chunk(size);
    const int width = sums_width(size), padded = rounded_up(rows, Chunk::block_rows);
    auto* memory = static_cast<float*>(scratch(0, chunk.floats() * sizeof(float)));
    auto* query = static_cast<Query*>(scratch(1, size_t(padded) * chunk.query_width() * sizeof(Query)));
    auto* out = static_cast<float*>(scratch(2, size_t(padded) * width * sizeof(float)));
    auto* largest = static_cast<float*>(scratch(3, size_t(padded) * 3 * sizeof(float)));
    float* sum = largest + padded;
    auto* positions = reinterpret_cast<int*>(sum + padded);
    chunk.use(memory);
    std::fill_n(out, size_t(padded) * width, 0.0f);
    std::fill_n(largest, padded, nothing_seen);
    std::fill_n(sum, padded, 0.0f);
    for (int r = 0; r < padded; ++r) positions[r] = tile.position + std::min(r, rows - 1) / group;
    with_float(call.query_kind, "query", [&](auto type) {
        using From = decltype(type);
        for (int r = 0; r < rows; ++r)
            chunk.query_row(static_cast<const From*>(call.query) + query_offset(call, tile, r), query + size_t(r) * chunk.query_width());
    });
    for (int r = rows; r < padded; ++r)
        std::fill_n(query + size_t(r) * chunk.query_width(), chunk.query_width(), Query{});

    const bool scaled = call.pages.kind == Kind::int8;
    float key_scales[Chunk::keys] = {}, value_scales[Chunk::keys] = {};
    const Scores how{call.scale, call.soft_cap, scaled ? key_scales : nullptr, scaled ? value_scales : nullptr};
    const int32_t* table = call.tables + tile.request * call.table_stride;
    chunk.begin();
    for (int begin = tile.key_begin / Chunk::alignment * Chunk::alignment, end; begin < tile.key_end; begin = end) {
        end = std::min((begin / Chunk::keys + 1) * Chunk::keys, tile.key_end);
        chunk.start();
        const int next_end = std::min(end + Chunk::keys, tile.key_end);
        each_piece(call.pages, table, tile.kv_head, end, next_end, [&](uint8_t* page, int offset, int, int) {
            for (int64_t at = 0; at < call.pages.scales_bytes(); at += 64) __builtin_prefetch(page + at, 0, 2);
            chunk.foresee(call.pages.keys<T>(page) + offset, call.pages.values<T>(page) + int64_t(offset) * size);
        });
        each_piece(call.pages, table, tile.kv_head, begin, end, [&](uint8_t* page, int offset, int count, int before) {
            if (scaled) call.pages.read_scales(page, offset, count, key_scales + before, value_scales + before);
            chunk.take(call.pages.keys<T>(page), call.pages.values<T>(page), call.pages.block_size, offset, count, before);
        });
        chunk.taken(end - begin);
        for (int first = 0; first < rows; first += Chunk::block_rows) {
            const int now = std::min(rows - first, Chunk::block_rows);
            const int first_position = positions[first], last_position = positions[first + now - 1];
            if (last_position < begin || first_position - call.window >= end - 1) continue;  // sees none
            const auto see = [&](int row) {
                const int position = positions[first + row];
                const int low = std::max(position - call.window + 1, begin), high = std::min(position + 1, end);
                return low < high ? std::pair<int, int>(low - begin, high - begin) : std::pair<int, int>(0, 0);
            };
            chunk.attend(query + size_t(first) * chunk.query_width(), now, how, see, {largest + first, sum + first}, out + size_t(first) * width);
        }
    }
    chunk.end();
    for (int r = 0; r < rows; ++r) {
        const float* sums = out + size_t(r) * width;
        if (tile.part < 0) {
            store_row(call, tile, r, sums, sum[r]);
            continue;
        }
        float* part = parts + tile.part + r * part_stride(width);
        std::copy_n(sums, width, part);
        part[width] = largest[r];
        part[width + 1] = sum[r];
    }
}

}  // namespace pagoda
