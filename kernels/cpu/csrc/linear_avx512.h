// Weights in AVX-512 with BF16 and VNNI: pairs of bf16, or fours of 8 bits, in one instruction.
#pragma once

#include <immintrin.h>

#include "linear_tiles.h"

namespace pagoda::linear {

inline __m512i load_i(const void* p) { return _mm512_loadu_si512(p); }
inline __m512i all_i32(const void* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}

struct PairMode {
    using Stored = bf16;
    using Expanded = bf16;
    static constexpr bool always_expands = false;
    static constexpr int rows = 6;
    static constexpr int panels(int) { return 4; }
    static constexpr int64_t block = 512;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        return plain_inputs<bf16>(packed, x, rows);
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        __m512 sums[R][P];
#pragma GCC unroll 32
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
            for (int p = 0; p < P; ++p) sums[r][p] = _mm512_loadu_ps(t.sums + r * tile_stride + p * panel_width);
        const bf16* x = t.x.template row<bf16>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin;
        for (int64_t k = 0; k < count; k += 2) {
            __m512i numbers[P];
#pragma GCC unroll 32
            for (int p = 0; p < P; ++p) {
                const char* w = t.weights + p * t.panel_stride + k * panel_width * 2;
                if constexpr (R <= 2) __builtin_prefetch(w + 2048);
                numbers[p] = load_i(w);
            }
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r) {
                const __m512i pair = all_i32(x + r * stride + k);
#pragma GCC unroll 32
                for (int p = 0; p < P; ++p)
                    sums[r][p] = _mm512_dpbf16_ps(sums[r][p], bit_cast<__m512bh>(numbers[p]), bit_cast<__m512bh>(pair));
            }
        }
#pragma GCC unroll 32
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
            for (int p = 0; p < P; ++p) _mm512_storeu_ps(t.sums + r * tile_stride + p * panel_width, sums[r][p]);
    }
};

// Rows of 8 bits by weights of 8 or 4 bits, which count from 0: the zero is taken off by the sums.
template <Weight Kind>
struct FourMode {
    static constexpr bool wide = Kind == Weight::int8;
    struct Halves {};  // half bytes
    using Stored = std::conditional_t<wide, uint8_t, Halves>;
    using Expanded = uint8_t;
    static constexpr bool always_expands = false;
    static constexpr int rows = 5;
    static constexpr int panels(int) { return 4; }
    static constexpr int64_t group = wide ? group_int8 : group_int4;
    static constexpr int64_t block = 512;
    static constexpr int zero = wide ? int8_zero : int4_zero;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        return rounded_inputs<int8_t>(packed, x, rows, group, 127);
    }

    static void expand(const Packed& packed, int64_t panel, int64_t begin, int64_t end, uint8_t* to) {
        const char* from = packed.panel(panel) + begin * panel_width / 2;
        for (int64_t i = 0; i < (end - begin) / 8; ++i, from += 64, to += 128) {
            __m512i numbers[2];
            load_eight<Halves>(from, numbers);
            _mm512_storeu_si512(to, numbers[0]);
            _mm512_storeu_si512(to + 64, numbers[1]);
        }
    }

    // Inputs 0 to 3 and 4 to 7 of eight.
    template <class E>
    static void load_eight(const char* w, __m512i (&numbers)[2]) {
        if constexpr (std::is_same<E, uint8_t>::value) {
            numbers[0] = load_i(w);
            numbers[1] = load_i(w + 64);
        } else {
            const __m512i both = load_i(w), low = _mm512_set1_epi8(15);
            numbers[0] = _mm512_and_si512(both, low);
            numbers[1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        constexpr int bytes = std::is_same<E, uint8_t>::value ? 16 : 8;  // an input of a panel
        const int8_t* x = t.x.template row<int8_t>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin;
        for (int64_t first = 0; first < count; first += group) {
            const int64_t last = std::min(count, first + group), g = (t.begin + first) / group;
            __m512i sums[R][P];
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r) {
                const __m512i start = _mm512_set1_epi32(-zero * t.x.sums[(t.row + r) * t.x.groups + g]);
#pragma GCC unroll 32
                for (int p = 0; p < P; ++p) sums[r][p] = start;
            }
            for (int64_t k = first; k < last; k += 8) {
                __m512i numbers[P][2];
#pragma GCC unroll 32
                for (int p = 0; p < P; ++p) {
                    const char* w = t.weights + p * t.panel_stride + k * bytes;
                    if constexpr (R <= 2) {
                        __builtin_prefetch(w + 1024);
                        if constexpr (bytes == 16) __builtin_prefetch(w + 1024 + 64);
                    }
                    load_eight<E>(w, numbers[p]);
                }
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i)
#pragma GCC unroll 32
                    for (int r = 0; r < R; ++r) {
                        const __m512i four = all_i32(x + r * stride + k + i * 4);
#pragma GCC unroll 32
                        for (int p = 0; p < P; ++p) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], numbers[p][i], four);
                    }
            }
#pragma GCC unroll 32
            for (int p = 0; p < P; ++p) {
                __m512 own = _mm512_set1_ps(1);
                if constexpr (!wide) own = Vec::load(t.packed.group_scales(t.panel + p) + g * panel_width).v;
#pragma GCC unroll 32
                for (int r = 0; r < R; ++r) {
                    const __m512 scale = _mm512_mul_ps(own, _mm512_set1_ps(t.x.scales[(t.row + r) * t.x.groups + g]));
                    float* to = t.sums + r * tile_stride + p * panel_width;
                    _mm512_storeu_ps(to, _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums[r][p]), _mm512_loadu_ps(to)));
                }
            }
        }
    }
};

using Int8Mode = FourMode<Weight::int8>;
using Int4Mode = FourMode<Weight::int4>;
using Bf16Mode = PairMode;

}  // namespace pagoda::linear
