// What tiles of all levels share: their arguments, and the choice of a tile by its rows.
//
// A mode multiplies one kind of weight on one level.  Its tile<R, P, E> adds R rows by P panels over
// inputs [begin, end) to a float tile in memory, weights read as E: as they are packed, or expanded
// for many rows.  Every number of the tile is summed in the order of the inputs, so that results do
// not depend on how many rows there are.
#pragma once

#include <climits>

#include "linear_inputs.h"
#include "unrolled.h"

namespace pagoda::linear {

constexpr int tile_stride = unit_panels * panel_width;
constexpr int64_t fetch_ahead = 2048;  // bytes before they are multiplied, where weights pass once

struct Tile {
    const Inputs& x;
    int64_t row;  // of x, the tile's first
    const char* weights;  // of the first panel, from input `begin` on
    int64_t panel_stride;  // bytes
    const Packed& packed;
    int64_t panel;
    int64_t begin, end;
    float* sums;  // [rows][tile_stride]
    const char* ahead;  // packed weights to fetch meanwhile, as many as are multiplied
};

template <int Most, class F>
void with_rows(int rows, const F& f) {
    if constexpr (Most > 0) {
        if (rows == Most) f(std::integral_constant<int, Most>{});
        else with_rows<Most - 1>(rows, f);
    }
}

// Panels at once: more when rows are few, to keep the multipliers busy.
template <class Mode, int R, class E>
void sweep_panels(Tile tile, int count) {
    constexpr int P = Mode::panels(R);
    int i = 0;
    const auto at = [&](int offset) {
        Tile moved = tile;
        moved.weights += offset * tile.panel_stride;
        moved.panel += offset;
        moved.sums += offset * panel_width;
        moved.ahead += offset * int64_t(tile.packed.panel_bytes);
        return moved;
    };
    for (; i + P <= count; i += P) Mode::template tile<R, P, E>(at(i));
    if constexpr (P > 1)
        for (; i < count; ++i) Mode::template tile<R, 1, E>(at(i));
}

template <class Mode, class E>
void sweep_rows(Tile tile, int count, int rows) {
    for (int done = 0; done < rows;) {
        const int now = std::min(rows - done, Mode::rows);
        with_rows<Mode::rows>(now, [&](auto r) { sweep_panels<Mode, decltype(r)::value, E>(tile, count); });
        tile.row += now;
        tile.sums += now * tile_stride;
        done += now;
    }
}

constexpr int never = INT_MAX;  // rows from which on weights are expanded

// The weights of one tile of rows pass once, straight from memory.
template <class Mode>
void multiply_few(const Packed& packed, const Inputs& x, int64_t panel, int count, int64_t row, int rows, float* sums) {
    const char* first = packed.panel(panel);
    const Tile tile{x, row, first, int64_t(packed.panel_bytes), packed, panel, 0, packed.depth, sums, first + fetch_ahead};
    sweep_rows<Mode, typename Mode::Stored>(tile, count, rows);
}

// Blocks of inputs, which stay in the nearest cache while all rows pass; read as E.
template <class Mode, class E, bool Expand>
void multiply_blocks(const Packed& packed, const Inputs& x, int64_t panel, int count, int64_t row, int rows, float* sums) {
    constexpr int together = Mode::panels(Mode::rows);
    [[maybe_unused]] const int64_t room = Mode::block * panel_width * int64_t(sizeof(E));
    const auto stored = [&](int i, int64_t begin) { return packed.panel(panel + i) + begin * input_bytes(packed.weight); };
    for (int64_t begin = 0; begin < packed.depth; begin += Mode::block) {
        const int64_t end = std::min(packed.depth, begin + Mode::block);
        for (int i = 0; i < count; i += together) {
            const int now = std::min(together, count - i);
            const char *first = stored(i, begin), *ahead = i + now < count ? stored(i + now, begin) : stored(0, end);
            int64_t stride = int64_t(packed.panel_bytes);
            if constexpr (Expand) {
                char* work = static_cast<char*>(scratch(slot_expanded, size_t(room) * together));
                for (int p = 0; p < now; ++p) Mode::expand(packed, panel + i + p, begin, end, reinterpret_cast<E*>(work + p * room));
                first = work;
                stride = room;
            }
            const Tile tile{x, row, first, stride, packed, panel + i, begin, end, sums + i * panel_width, ahead};
            sweep_rows<Mode, E>(tile, now, rows);
        }
    }
}

// sums [rows][tile_stride] = rows [row, row + rows) by panels [panel, panel + count).
template <class Mode>
void unit_product(const Packed& packed, const Inputs& x, int64_t panel, int count, int64_t row, int rows, float* sums) {
    std::memset(sums, 0, size_t(rows) * tile_stride * sizeof(float));
    if constexpr (Mode::expands_from > 0)
        if (rows <= Mode::rows) return multiply_few<Mode>(packed, x, panel, count, row, rows, sums);
    if constexpr (Mode::expands_from > Mode::rows + 1)
        if (rows < Mode::expands_from)
            return multiply_blocks<Mode, typename Mode::Stored, false>(packed, x, panel, count, row, rows, sums);
    if constexpr (Mode::expands_from < never)
        multiply_blocks<Mode, typename Mode::Expanded, true>(packed, x, panel, count, row, rows, sums);
}

// Weights T in float arithmetic, on every level.
template <class T>
struct FloatMode {
    using Stored = T;
    using Expanded = float;
    static constexpr int V = panel_width / Vec::W;
    static constexpr int rows = Vec::W == 4 ? 2 : 6;
    // Widening in the tile costs a third more instructions; beside it, an extra pass over the block.
    // Registers of 4 lack room for enough rows to hide the former.
    static constexpr int expands_from = std::is_same<T, float>::value || Vec::W == 16 ? never : Vec::W == 4 ? rows + 1 : 24;
    static constexpr int panels(int r) {
        return Vec::W == 16 ? 4 : Vec::W == 4 ? 1 : r == 1 ? 4 : r <= 3 ? 2 : 1;
    }
    static constexpr int64_t block = 256;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t count) {
        return interleaved_inputs<rows>(packed, x, count);
    }

    static void expand(const Packed& packed, int64_t panel, int64_t begin, int64_t end, float* to) {
        const T* from = reinterpret_cast<const T*>(packed.panel(panel)) + begin * panel_width;
        for (int64_t i = 0; i < (end - begin) * panel_width; i += Vec::W) Vec::load(from + i).store(to + i);
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        constexpr int N = P * V, bytes = panel_width * int(sizeof(E)), inputs = 4;
        constexpr bool expanded = !std::is_same<E, T>::value;
        Vec sums[R * N];
        unrolled<R * N>([&](auto i) PAGODA_INLINE { sums[i] = Vec::load(t.sums + i / N * tile_stride + i % N * Vec::W); });
        const int64_t count = t.end - t.begin, next_tile = R * t.x.stride;
        const float* x = t.x.template row<float>(t.row) + t.begin * R;
        const char *weights = t.weights, *ahead = t.ahead;
        // Expanded weights were read once; each tile fetches another part of the next block, 64 bytes for four inputs.
        if constexpr (expanded) ahead += t.row / rows % int64_t(sizeof(T)) * count * panel_width;
        const auto step = [&](auto i) PAGODA_INLINE {
            unrolled<P>([&](auto p) PAGODA_INLINE {
                const char* from = weights + p * t.panel_stride + i * bytes;
                if constexpr (!expanded) __builtin_prefetch(ahead + p * t.panel_stride + i * bytes);
                Vec numbers[V];
                unrolled<V>([&](auto v) PAGODA_INLINE { numbers[v] = Vec::load(reinterpret_cast<const E*>(from) + v * Vec::W); });
                unrolled<R * V>([&](auto j) PAGODA_INLINE {
                    constexpr int r = j / V, at = r * N + p * V + j % V;
                    sums[at] = fma(Vec::all(x[i * R + r]), numbers[j % V], sums[at]);
                });
            });
        };
        const auto advance = [&](int64_t by) PAGODA_INLINE {
            x += by * R;
            weights += by * bytes;
            ahead += by * (expanded ? panel_width : bytes);
        };
        int64_t left = count;
        for (; left >= inputs; left -= inputs, advance(inputs)) {
            if constexpr (R == rows) __builtin_prefetch(x + next_tile);
            if constexpr (expanded) __builtin_prefetch(ahead, 0, 2);
            unrolled<inputs>(step);
        }
        for (; left > 0; --left, advance(1)) step(std::integral_constant<int, 0>{});
        unrolled<R * N>([&](auto i) PAGODA_INLINE { sums[i].store(t.sums + i / N * tile_stride + i % N * Vec::W); });
    }
};

}  // namespace pagoda::linear
