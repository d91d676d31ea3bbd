// Attention: the work cut into tiles, tiles run by whoever is free, split ones joined.
//
// Where tiles and chunks begin depends on positions and shapes alone, so neither the number of
// threads nor the other requests of the step change a bit of the result.
#include "attention.h"

#include <algorithm>
#include <vector>

#if defined(PAGODA_AMX) || defined(PAGODA_TILES_EMULATED)
#include "attention_amx.h"
#endif
#include "attention_direct.h"
#include "attention_tile.h"
#include "attention_vector.h"
#include "pool.h"

namespace pagoda {
namespace {

// Tiles are split at multiples of so many keys: those of few rows, decodes mostly, and the others.
constexpr int few_rows = 64;
constexpr int few_split = 512;
constexpr int many_split = 1 << 13;

struct Plan {
    std::vector<Tile> tiles;
    std::vector<int> first;  // of each set of tiles that are joined, and one past the last set
    int64_t part_floats = 0;
};

void add_tile(Plan& plan, Tile tile, int group, int width, int window) {
    const int end = tile.position + tile.num_tokens;
    const int begin = std::max(0, tile.position - window + 1);
    const int split = tile.rows(group) <= few_rows ? few_split : many_split;
    const bool whole = begin / split == (end - 1) / split;
    plan.first.push_back(int(plan.tiles.size()));
    for (int at = begin; at < end; at = (at / split + 1) * split) {
        tile.key_begin = at;
        tile.key_end = std::min((at / split + 1) * split, end);
        if (!whole) {
            tile.part = plan.part_floats;
            plan.part_floats += tile.rows(group) * part_stride(width);
        }
        plan.tiles.push_back(tile);
    }
}

Plan make_plan(const Attention& call, int tile_rows, int width) {
    Plan plan;
    const int group = call.group(), most = std::max(1, tile_rows / group);
    for (int request = 0; request < call.num_requests; ++request) {
        const int begin = call.query_start[request], count = call.query_start[request + 1] - begin;
        for (int done = 0; done < count; done += most) {
            Tile tile{};
            tile.part = -1;
            tile.request = request;
            tile.token = begin + done;
            tile.num_tokens = std::min(most, count - done);
            tile.position = call.seq_lens[request] - count + done;
            for (tile.kv_head = 0; tile.kv_head < call.pages.num_kv_heads; ++tile.kv_head)
                add_tile(plan, tile, group, width, call.window);
        }
    }
    plan.first.push_back(int(plan.tiles.size()));
    return plan;
}

// The parts of one set of tiles become its rows of the result, in the order of the keys.
void join(const Attention& call, const Tile* tiles, int count, const float* parts, int width) {
    const int rows = tiles[0].rows(call.group());
    auto* sums = static_cast<float*>(scratch(0, size_t(width) * sizeof(float)));
    for (int row = 0; row < rows; ++row) {
        float top = nothing_seen, sum = 0.0f;
        for (int i = 0; i < count; ++i) top = std::max(top, parts[tiles[i].part + row * part_stride(width) + width]);
        std::fill_n(sums, width, 0.0f);
        for (int i = 0; i < count; ++i) {
            const float* part = parts + tiles[i].part + row * part_stride(width);
            const Vec weight = exp2_below<6>(Vec::all(part[width] - top));
            float lanes[Vec::W];
            weight.store(lanes);
            sum += lanes[0] * part[width + 1];
            for (int d = 0; d < width; d += Vec::W) fma(weight, Vec::load(part + d), Vec::load(sums + d)).store(sums + d);
        }
        store_row(call, tiles[0], row, sums, sum);
    }
}

#if defined(PAGODA_AMX) || defined(PAGODA_TILES_EMULATED)
constexpr int tile_least = 3;  // query rows worth the interleaving
template <class T>
constexpr bool on_tiles = std::is_same<T, bf16>::value || std::is_same<T, int8_t>::value;
constexpr int tile_rows = TileChunk<bf16>::tile_rows;
#else
constexpr int tile_rows = VectorChunk::tile_rows;
#endif

// Which kind of chunk a tile is made for depends on its shape alone.
template <class T>
void run(const Attention& call, const Tile& tile, float* parts) {
    const int rows = tile.rows(call.group());
    if (DirectChunk<T>::takes(rows, call.pages.block_size, call.pages.head_size))
        return run_tile<DirectChunk<T>, T>(call, tile, parts);
#if defined(PAGODA_AMX) || defined(PAGODA_TILES_EMULATED)
    if constexpr (on_tiles<T>) {
        if (call.query_kind == Kind::bf16 && rows >= tile_least)
            return run_tile<TileChunk<T>, T>(call, tile, parts);
    }
#endif
    run_tile<VectorChunk, T>(call, tile, parts);
}

template <class T>
void attend_with(const Attention& call) {
    const int width = sums_width(call.pages.head_size);
    const Plan plan = make_plan(call, tile_rows, width);
    const int count = int(plan.tiles.size());
    std::vector<float> parts(size_t(plan.part_floats));
    std::vector<int> order(size_t(count), 0);
    for (int i = 0; i < count; ++i) order[size_t(i)] = i;
    const auto cost = [&](int i) {
        const Tile& tile = plan.tiles[size_t(i)];
        return int64_t(tile.key_end - tile.key_begin) * tile.num_tokens;
    };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return cost(a) > cost(b); });
    parallel_each(count, 1, [&](int64_t i, int) { run<T>(call, plan.tiles[size_t(order[size_t(i)])], parts.data()); });
    if (plan.part_floats == 0) return;
    parallel_each(int64_t(plan.first.size()) - 1, 1, [&](int64_t i, int) {
        const Tile* tiles = plan.tiles.data() + plan.first[size_t(i)];
        const int joined = plan.first[size_t(i) + 1] - plan.first[size_t(i)];
        if (tiles->part >= 0) join(call, tiles, joined, parts.data(), width);
    });
}

}  // namespace

void attend(const Attention& call) {
    switch (call.pages.kind) {
        case Kind::f32: return attend_with<float>(call);
        case Kind::bf16: return attend_with<bf16>(call);
        case Kind::fp16: return attend_with<fp16>(call);
        default: return attend_with<int8_t>(call);
    }
}

}  // namespace pagoda
