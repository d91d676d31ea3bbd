// Whole-number weights in AVX2: 8-bit ones by rows of 16 bits, 4-bit ones by rows of 8 bits.
#pragma once

#include <immintrin.h>

#include "linear_bf12.h"
#include "linear_tiles.h"

namespace pagoda::linear {

using Bf16Mode = FloatMode<bf16>;

inline __m256i load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i all_i32(const void* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}

// sum += a * b.  Assembly, for GCC makes some results of others' registers, and has too few for the sums.
PAGODA_INLINE inline void add_product(__m256& sum, __m256 a, __m256 b) { __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b)); }

// Weights of 12 bits, widened in registers for rows of one tile, and for more once for all that pass.
struct Bf12Mode : FloatMode<bf16> {
    struct Stored {};
    static constexpr int expands_from = rows + 1;
    static constexpr int panels(int r) { return r == 1 ? 4 : 1; }

    // f(input, its first and last eight numbers) for eight inputs.
    template <class F>
    PAGODA_INLINE static void each_input(const char* from, __m256i table, const F& f) {
        const __m256i zero = _mm256_setzero_si256();
        unrolled<4>([&](auto pair) PAGODA_INLINE {
            __m256i names = load_i(from + 128 + pair / 2 * 32);
            if constexpr (pair % 2 == 1) names = _mm256_srli_epi16(names, 4);
            const __m256i low = load_i(from + pair * 32), high = _mm256_shuffle_epi8(table, _mm256_and_si256(names, _mm256_set1_epi8(15)));
            unrolled<2>([&](auto i) PAGODA_INLINE {
                const __m256i words = i == 0 ? _mm256_unpacklo_epi8(low, high) : _mm256_unpackhi_epi8(low, high);
                const __m256i first = _mm256_unpacklo_epi16(zero, words), last = _mm256_unpackhi_epi16(zero, words);
                f(std::integral_constant<int, pair * 2 + i>{}, _mm256_castsi256_ps(first), _mm256_castsi256_ps(last));
            });
        });
    }

    static void expand(const Packed& packed, int64_t panel, int64_t begin, int64_t end, float* to) {
        const Bf12Panel own(packed, panel);
        const __m256i table = load_i(own.table());
        const char* from = own.inputs(begin);
        for (int64_t k = begin; k < end; k += bf12_inputs, from += bf12_bytes)
            each_input(from, table, [&](auto, __m256 first, __m256 last) PAGODA_INLINE {
                _mm256_storeu_ps(to, first);
                _mm256_storeu_ps(to + 8, last);
                to += panel_width;
            });
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        if constexpr (std::is_same<E, float>::value) return FloatMode<bf16>::tile<R, P, float>(t);
        constexpr int N = P * 2;
        const float* x = t.x.template row<float>(t.row);
        const char* from = Bf12Panel(t.packed, t.panel).inputs(0);
        __m256 sums[R * N];
        __m256i tables[P];
        unrolled<P>([&](auto p) PAGODA_INLINE { tables[p] = load_i(Bf12Panel(t.packed, t.panel + p).table()); });
        unrolled<R * N>([&](auto i) PAGODA_INLINE { sums[i] = _mm256_loadu_ps(t.sums + i / N * tile_stride + i % N * 8); });
        for (int64_t k = 0; k < t.end; k += bf12_inputs, x += bf12_inputs * R, from += bf12_bytes) {
            unrolled<P>([&](auto p) PAGODA_INLINE {
                const char* own = from + p * t.panel_stride;
                unrolled<3>([&](auto i) PAGODA_INLINE { __builtin_prefetch(own + fetch_ahead + i * 64); });
                each_input(own, tables[p], [&](auto input, __m256 first, __m256 last) PAGODA_INLINE {
                    unrolled<R>([&](auto r) PAGODA_INLINE {
                        const __m256 number = _mm256_broadcast_ss(x + input * R + r);
                        add_product(sums[r * N + p * 2], number, first);
                        add_product(sums[r * N + p * 2 + 1], number, last);
                    });
                });
            });
        }
        unrolled<R * N>([&](auto i) PAGODA_INLINE { _mm256_storeu_ps(t.sums + i / N * tile_stride + i % N * 8, sums[i]); });
    }
};

// sum += products of 16-bit pairs.  Assembly, for GCC puts all the products first and the sums that have
// no register left into memory.
PAGODA_INLINE inline __m256i add_products(__m256i sum, __m256i numbers, __m256i pair) {
    __m256i products;
    __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=x"(products) : "x"(numbers), "x"(pair));
    return sum;
}

// The same of 8-bit fours, each half a 16-bit sum.
PAGODA_INLINE inline __m256i add_byte_products(__m256i sum, __m256i numbers, __m256i four) {
    __m256i products;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=x"(products) : "x"(numbers), "x"(four));
    return sum;
}

// sums += scale * whole, of 8 numbers
inline void add_scaled(float* sums, __m256i whole, __m256 scale) {
    _mm256_storeu_ps(sums, _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(whole), _mm256_loadu_ps(sums)));
}

struct Int8Mode {
    using Stored = int8_t;
    static constexpr int expands_from = never;  // widening is done beside the products, by units that they leave free
    static constexpr int rows = 6;
    static constexpr int panels(int r) { return r == 1 ? 4 : r <= 3 ? 2 : 1; }
    static constexpr int64_t block = group_int8;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        // 127 * 32767 * 512 is just below 2^31.
        return rounded_inputs<int16_t>(packed, x, rows, group_int8, 32767);
    }

    static __m256i load(const char* p) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        constexpr int V = P * 2;
        const int16_t* x = t.x.template row<int16_t>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin;
        for (int64_t first = 0; first < count; first += group_int8) {
            const int64_t last = std::min(count, first + group_int8);
            __m256i sums[R * V];
            unrolled<R * V>([&](auto i) PAGODA_INLINE { sums[i] = _mm256_setzero_si256(); });
            for (int64_t k = first; k < last; k += 2) {
                unrolled<P>([&](auto p) PAGODA_INLINE {
                    const int64_t at = p * t.panel_stride + k * panel_width;
                    __builtin_prefetch(t.ahead + at);
                    const __m256i low = load(t.weights + at), high = load(t.weights + at + 16);
                    unrolled<R>([&](auto r) PAGODA_INLINE {
                        constexpr int i = r * V + p * 2;
                        const __m256i pair = all_i32(x + r * stride + k);
                        sums[i] = add_products(sums[i], low, pair);
                        sums[i + 1] = add_products(sums[i + 1], high, pair);
                    });
                });
            }
            unrolled<R>([&](auto r) PAGODA_INLINE {
                const __m256 scale = _mm256_set1_ps(t.x.scales[(t.row + r) * t.x.groups + (t.begin + first) / group_int8]);
                unrolled<V>([&](auto j) PAGODA_INLINE { add_scaled(t.sums + r * tile_stride + j * 8, sums[r * V + j], scale); });
            });
        }
    }
};

struct Int4Mode {
    struct Stored {};  // half bytes
    using Expanded = uint8_t;
    static constexpr int rows = 3, expands_from = rows + 1;
    static constexpr int panels(int r) { return r == 1 ? 2 : 1; }
    static constexpr int64_t block = 512;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        return rounded_inputs<int8_t>(packed, x, rows, group_int4, 127);
    }

    // Four inputs of 16 outputs by turns: the low halves, then the high ones.
    static void expand(const Packed& packed, int64_t panel, int64_t begin, int64_t end, uint8_t* to) {
        const char* from = packed.panel(panel) + begin * panel_width / 2;
        const __m256i low = _mm256_set1_epi8(15);
        for (int64_t i = 0; i < (end - begin) / 8; ++i, from += 64, to += 128) {
            for (int half = 0; half < 2; ++half) {
                const __m256i both = load_i(from + half * 32);
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + half * 32), _mm256_and_si256(both, low));
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 64 + half * 32),
                                    _mm256_and_si256(_mm256_srli_epi16(both, 4), low));
            }
        }
    }

    // numbers[i * 2 + half]: inputs 0 to 3 and 4 to 7 of eight, outputs 0 to 7 and 8 to 15
    template <class E>
    PAGODA_INLINE static void load_eight(const char* w, __m256i (&numbers)[4]) {
        unrolled<2>([&](auto half) PAGODA_INLINE {
            if constexpr (std::is_same<E, uint8_t>::value) {
                numbers[half] = load_i(w + half * 32);
                numbers[2 + half] = load_i(w + 64 + half * 32);
            } else {
                const __m256i both = load_i(w + half * 32), low = _mm256_set1_epi8(15);
                numbers[half] = _mm256_and_si256(both, low);
                numbers[2 + half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            }
        });
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        constexpr int bytes = std::is_same<E, uint8_t>::value ? 16 : 8;  // an input of a panel
        constexpr int V = P * 2;
        const int8_t* x = t.x.template row<int8_t>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin;
        for (int64_t first = 0; first < count; first += group_int4) {
            const int64_t last = std::min(count, first + group_int4), group = (t.begin + first) / group_int4;
            __m256i sums[R * V];
            unrolled<R>([&](auto r) PAGODA_INLINE {
                const int32_t zero = -int4_zero * t.x.sums[(t.row + r) * t.x.groups + group];
                unrolled<V>([&](auto j) PAGODA_INLINE { sums[r * V + j] = _mm256_set1_epi32(zero); });
            });
            for (int64_t part = first; part < last; part += 32) {
                // 8 * 15 * 127 * 2 is below 2^15: so many products are summed in 16 bits
                __m256i few[R * V];
                unrolled<R * V>([&](auto i) PAGODA_INLINE { few[i] = _mm256_setzero_si256(); });
                unrolled<4>([&](auto step) PAGODA_INLINE {
                    const int64_t k = part + step * 8;
                    unrolled<P>([&](auto p) PAGODA_INLINE {
                        __builtin_prefetch(t.ahead + p * int64_t(t.packed.panel_bytes) + k * 8);
                        __m256i numbers[4];
                        load_eight<E>(t.weights + p * t.panel_stride + k * bytes, numbers);
                        unrolled<R * 2>([&](auto i) PAGODA_INLINE {
                            constexpr int r = i / 2, quad = i % 2, at = r * V + p * 2;
                            const __m256i four = all_i32(x + r * stride + k + quad * 4);
                            few[at] = add_byte_products(few[at], numbers[quad * 2], four);
                            few[at + 1] = add_byte_products(few[at + 1], numbers[quad * 2 + 1], four);
                        });
                    });
                });
                const __m256i ones = _mm256_set1_epi16(1);
                unrolled<R * V>([&](auto i) PAGODA_INLINE { sums[i] = add_products(sums[i], few[i], ones); });
            }
            unrolled<P>([&](auto p) PAGODA_INLINE {
                const bf16* scales = t.packed.group_scales(t.panel + p) + group * panel_width;
                const __m256 low = Vec::load(scales).v, high = Vec::load(scales + 8).v;
                unrolled<R>([&](auto r) PAGODA_INLINE {
                    const __m256 scale = _mm256_set1_ps(t.x.scales[(t.row + r) * t.x.groups + group]);
                    float* to = t.sums + r * tile_stride + p * panel_width;
                    add_scaled(to, sums[r * V + p * 2], _mm256_mul_ps(low, scale));
                    add_scaled(to + 8, sums[r * V + p * 2 + 1], _mm256_mul_ps(high, scale));
                });
            });
        }
    }
};

}  // namespace pagoda::linear
