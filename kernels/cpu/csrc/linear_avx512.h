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
    static constexpr int rows = 6, expands_from = never;
    static constexpr int panels(int) { return 4; }
    static constexpr int64_t block = 512;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        return plain_inputs<bf16>(packed, x, rows);
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        __m512 sums[R * P];
        unrolled<R * P>([&](auto i) PAGODA_INLINE { sums[i] = _mm512_loadu_ps(t.sums + i / P * tile_stride + i % P * panel_width); });
        const bf16* x = t.x.template row<bf16>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin;
        for (int64_t k = 0; k < count; k += 2) {
            __m512i numbers[P];
            unrolled<P>([&](auto p) PAGODA_INLINE {
                const int64_t at = p * t.panel_stride + k * panel_width * 2;
                __builtin_prefetch(t.ahead + at);
                numbers[p] = load_i(t.weights + at);
            });
            unrolled<R>([&](auto r) PAGODA_INLINE {
                const auto pair = bit_cast<__m512bh>(all_i32(x + r * stride + k));
                unrolled<P>([&](auto p) PAGODA_INLINE {
                    sums[r * P + p] = _mm512_dpbf16_ps(sums[r * P + p], bit_cast<__m512bh>(numbers[p]), pair);
                });
            });
        }
        unrolled<R * P>([&](auto i) PAGODA_INLINE { _mm512_storeu_ps(t.sums + i / P * tile_stride + i % P * panel_width, sums[i]); });
    }
};

// Rows of 8 bits by weights of 8 or 4 bits, which count from 0: the zero is taken off by the sums.
template <Weight Kind>
struct FourMode {
    static constexpr bool wide = Kind == Weight::int8;
    struct Halves {};  // half bytes
    using Stored = std::conditional_t<wide, uint8_t, Halves>;
    using Expanded = uint8_t;
    static constexpr int rows = 5, expands_from = wide ? never : rows + 1;
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
    PAGODA_INLINE static void load_eight(const char* w, __m512i* numbers) {
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
        constexpr int stored = int(input_bytes(Kind));
        const int8_t* x = t.x.template row<int8_t>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin;
        for (int64_t first = 0; first < count; first += group) {
            const int64_t last = std::min(count, first + group), g = (t.begin + first) / group;
            __m512i sums[R * P];
            unrolled<R>([&](auto r) PAGODA_INLINE {
                const __m512i start = _mm512_set1_epi32(-zero * t.x.sums[(t.row + r) * t.x.groups + g]);
                unrolled<P>([&](auto p) PAGODA_INLINE { sums[r * P + p] = start; });
            });
            for (int64_t k = first; k < last; k += 8) {
                __m512i numbers[P * 2];
                unrolled<P>([&](auto p) PAGODA_INLINE {
                    const char* ahead = t.ahead + p * int64_t(t.packed.panel_bytes) + k * stored;
                    __builtin_prefetch(ahead);
                    if constexpr (stored == 16) __builtin_prefetch(ahead + 64);
                    load_eight<E>(t.weights + p * t.panel_stride + k * bytes, numbers + p * 2);
                });
                unrolled<2 * R>([&](auto i) PAGODA_INLINE {
                    constexpr int half = i / R, r = i % R;
                    const __m512i four = all_i32(x + r * stride + k + half * 4);
                    unrolled<P>([&](auto p) PAGODA_INLINE {
                        sums[r * P + p] = _mm512_dpbusd_epi32(sums[r * P + p], numbers[p * 2 + half], four);
                    });
                });
            }
            unrolled<P>([&](auto p) PAGODA_INLINE {
                __m512 own = _mm512_set1_ps(1);
                if constexpr (!wide) own = Vec::load(t.packed.group_scales(t.panel + p) + g * panel_width).v;
                unrolled<R>([&](auto r) PAGODA_INLINE {
                    const __m512 scale = _mm512_mul_ps(own, _mm512_set1_ps(t.x.scales[(t.row + r) * t.x.groups + g]));
                    float* to = t.sums + r * tile_stride + p * panel_width;
                    _mm512_storeu_ps(to, _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums[r * P + p]), _mm512_loadu_ps(to)));
                });
            });
        }
    }
};

using Int8Mode = FourMode<Weight::int8>;
using Int4Mode = FourMode<Weight::int4>;
using Bf16Mode = PairMode;

}  // namespace pagoda::linear
