// What tiles of all levels share: their arguments, and the choice of a tile by its rows.
//
// A mode multiplies one kind of weight on one level.  Its tile<R, P, E> adds R rows by P panels over
// inputs [begin, end) to a float tile in memory, weights read as E: as they are packed, or expanded
// for many rows.  Every number of the tile is summed in the order of the inputs, so that results do
// not depend on how many rows there are.
#pragma once

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

// sums [rows][tile_stride] = rows [row, row + rows) by panels [panel, panel + count).
template <class Mode>
void unit_product(const Packed& packed, const Inputs& x, int64_t panel, int count, int64_t row, int rows, float* sums) {
    std::memset(sums, 0, size_t(rows) * tile_stride * sizeof(float));
    if constexpr (!Mode::always_expands) {
        if (rows <= Mode::rows) {
            const char* first = packed.panel(panel);
            const Tile tile{x, row, first, int64_t(packed.panel_bytes), packed, panel, 0, packed.depth, sums, first + fetch_ahead};
            return sweep_rows<Mode, typename Mode::Stored>(tile, count, rows);
        }
    }
    using Expanded = typename Mode::Expanded;
    constexpr int together = Mode::panels(Mode::rows);
    const int64_t room = Mode::block * panel_width * int64_t(sizeof(Expanded));
    char* work = static_cast<char*>(scratch(slot_expanded, size_t(room) * together));
    const auto stored = [&](int i, int64_t begin) { return packed.panel(panel + i) + begin * input_bytes(packed.weight); };
    for (int64_t begin = 0; begin < packed.depth; begin += Mode::block) {
        const int64_t end = std::min(packed.depth, begin + Mode::block);
        for (int i = 0; i < count; i += together) {
            const int now = std::min(together, count - i);
            const char *first = work, *ahead = i + now < count ? stored(i + now, begin) : stored(0, end);
            int64_t stride = room;
            if constexpr (std::is_same<Expanded, typename Mode::Stored>::value) {
                first = stored(i, begin);
                stride = int64_t(packed.panel_bytes);
            } else {
                for (int p = 0; p < now; ++p)
                    Mode::expand(packed, panel + i + p, begin, end, reinterpret_cast<Expanded*>(work + p * room));
            }
            const Tile tile{x, row, first, stride, packed, panel + i, begin, end, sums + i * panel_width, ahead};
            sweep_rows<Mode, Expanded>(tile, now, rows);
        }
    }
}

// Weights T in float arithmetic, on every level.
template <class T>
struct FloatMode {
    using Stored = T;
    // Registers of 4 lack room for enough rows to hide the widening.
    using Expanded = std::conditional_t<Vec::W == 4, float, T>;
    static constexpr bool always_expands = false;
    static constexpr int V = panel_width / Vec::W;
    static constexpr int rows = Vec::W == 4 ? 2 : 6;
    static constexpr int panels(int r) {
        return Vec::W == 16 ? 4 : Vec::W == 4 ? 1 : r == 1 ? 4 : r <= 3 ? 2 : 1;
    }
    static constexpr int64_t block = 512 / int64_t(sizeof(T));  // 8 KB, and the next

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        return plain_inputs<float>(packed, x, rows);
    }

    static void expand(const Packed& packed, int64_t panel, int64_t begin, int64_t end, float* to) {
        const T* from = reinterpret_cast<const T*>(packed.panel(panel)) + begin * panel_width;
        for (int64_t i = 0; i < (end - begin) * panel_width; i += Vec::W) Vec::load(from + i).store(to + i);
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        constexpr int N = P * V;
        Vec sums[R * N];
        unrolled<R * N>([&](auto i) PAGODA_INLINE { sums[i] = Vec::load(t.sums + i / N * tile_stride + i % N * Vec::W); });
        const float* x = t.x.template row<float>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin, bytes = input_bytes(t.packed.weight);
        for (int64_t k = 0; k < count; ++k) {
            unrolled<P>([&](auto p) PAGODA_INLINE {
                __builtin_prefetch(t.ahead + p * int64_t(t.packed.panel_bytes) + k * bytes);
                const E* w = reinterpret_cast<const E*>(t.weights + p * t.panel_stride) + k * panel_width;
                Vec numbers[V];
                unrolled<V>([&](auto v) PAGODA_INLINE { numbers[v] = Vec::load(w + v * Vec::W); });
                unrolled<R * V>([&](auto i) PAGODA_INLINE {
                    constexpr int r = i / V, at = r * N + p * V + i % V;
                    sums[at] = fma(Vec::all(x[r * stride + k]), numbers[i % V], sums[at]);
                });
            });
        }
        unrolled<R * N>([&](auto i) PAGODA_INLINE { sums[i].store(t.sums + i / N * tile_stride + i % N * Vec::W); });
    }
};

}  // namespace pagoda::linear
