// Whole-number weights in AVX2: 8-bit ones by rows of 16 bits, 4-bit ones by rows of 8 bits.
#pragma once

#include <immintrin.h>

#include "linear_tiles.h"

namespace pagoda::linear {

using Bf16Mode = FloatMode<bf16>;

inline __m256i load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i all_i32(const void* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}

// sum += products of 16-bit pairs.  Assembly, for GCC puts all the products first and the sums that have
// no register left into memory.
inline void add_products(__m256i& sum, __m256i numbers, __m256i pair) {
    __m256i products;
    __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=x"(products) : "x"(numbers), "x"(pair));
}

// The same of 8-bit fours, each half a 16-bit sum.
inline void add_byte_products(__m256i& sum, __m256i numbers, __m256i four) {
    __m256i products;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=x"(products) : "x"(numbers), "x"(four));
}

// sums += scale * whole, of 8 numbers
inline void add_scaled(float* sums, __m256i whole, __m256 scale) {
    _mm256_storeu_ps(sums, _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(whole), _mm256_loadu_ps(sums)));
}

struct Int8Mode {
    using Stored = int8_t;
    using Expanded = int16_t;
    static constexpr bool always_expands = false;
    static constexpr int rows = 6;
    static constexpr int panels(int r) { return r == 1 ? 4 : r <= 3 ? 2 : 1; }
    static constexpr int64_t block = group_int8;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        // 127 * 32767 * 512 is just below 2^31.
        return rounded_inputs<int16_t>(packed, x, rows, group_int8, 32767);
    }

    static void expand(const Packed& packed, int64_t panel, int64_t begin, int64_t end, int16_t* to) {
        const char* from = packed.panel(panel) + begin * panel_width;
        for (int64_t i = 0; i < (end - begin) * panel_width; i += 16)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), load(reinterpret_cast<const int8_t*>(from + i)));
    }

    static __m256i load(const int8_t* p) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static __m256i load(const int16_t* p) { return load_i(p); }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        const int16_t* x = t.x.template row<int16_t>(t.row) + t.begin;
        const int64_t stride = t.x.stride;
        const E* w[P];
        for (int p = 0; p < P; ++p) w[p] = reinterpret_cast<const E*>(t.weights + p * t.panel_stride);
        const int64_t count = t.end - t.begin;
        for (int64_t first = 0; first < count; first += group_int8) {
            const int64_t last = std::min(count, first + group_int8);
            __m256i sums[R][P * 2];
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
                for (int j = 0; j < P * 2; ++j) sums[r][j] = _mm256_setzero_si256();
            for (int64_t k = first; k < last; k += 2) {
                __m256i numbers[P * 2];
#pragma GCC unroll 32
                for (int p = 0; p < P; ++p) {
                    if constexpr (R <= 2) __builtin_prefetch(w[p] + (k + 64) * panel_width);
                    numbers[p * 2] = load(w[p] + k * panel_width);
                    numbers[p * 2 + 1] = load(w[p] + k * panel_width + 16);
                }
#pragma GCC unroll 32
                for (int r = 0; r < R; ++r) {
                    const __m256i pair = all_i32(x + r * stride + k);
#pragma GCC unroll 32
                    for (int j = 0; j < P * 2; ++j) add_products(sums[r][j], numbers[j], pair);
                }
            }
            for (int r = 0; r < R; ++r) {
                const __m256 scale = _mm256_set1_ps(t.x.scales[(t.row + r) * t.x.groups + (t.begin + first) / group_int8]);
#pragma GCC unroll 32
                for (int j = 0; j < P * 2; ++j) add_scaled(t.sums + r * tile_stride + j * 8, sums[r][j], scale);
            }
        }
    }
};

struct Int4Mode {
    struct Stored {};  // half bytes
    using Expanded = uint8_t;
    static constexpr bool always_expands = false;
    static constexpr int rows = 3;
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

    // numbers[step][half]: inputs 0 to 3 and 4 to 7 of eight, outputs 0 to 7 and 8 to 15
    template <class E>
    static void load_eight(const char* w, __m256i (&numbers)[2][2]) {
        for (int half = 0; half < 2; ++half) {
            if constexpr (std::is_same<E, uint8_t>::value) {
                numbers[0][half] = load_i(w + half * 32);
                numbers[1][half] = load_i(w + 64 + half * 32);
            } else {
                const __m256i both = load_i(w + half * 32), low = _mm256_set1_epi8(15);
                numbers[0][half] = _mm256_and_si256(both, low);
                numbers[1][half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            }
        }
    }

    template <int R, int P, class E>
    static void tile(const Tile& t) {
        constexpr int bytes = std::is_same<E, uint8_t>::value ? 16 : 8;  // an input of a panel
        const int8_t* x = t.x.template row<int8_t>(t.row) + t.begin;
        const int64_t stride = t.x.stride, count = t.end - t.begin;
        const __m256i ones = _mm256_set1_epi16(1);
        for (int64_t first = 0; first < count; first += group_int4) {
            const int64_t last = std::min(count, first + group_int4), group = (t.begin + first) / group_int4;
            __m256i sums[R][P * 2];
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r) {
                const int32_t zero = -int4_zero * t.x.sums[(t.row + r) * t.x.groups + group];
#pragma GCC unroll 32
                for (int j = 0; j < P * 2; ++j) sums[r][j] = _mm256_set1_epi32(zero);
            }
            for (int64_t part = first; part < last; part += 32) {
                // 8 * 15 * 127 * 2 is below 2^15: so many products are summed in 16 bits
                __m256i few[R][P * 2];
#pragma GCC unroll 32
                for (int step = 0; step < 4; ++step) {
                    const int64_t k = part + step * 8;
#pragma GCC unroll 32
                    for (int p = 0; p < P; ++p) {
                        const char* w = t.weights + p * t.panel_stride + k * bytes;
                        if constexpr (R <= 2) __builtin_prefetch(w + 1024);
                        __m256i numbers[2][2];
                        load_eight<E>(w, numbers);
#pragma GCC unroll 32
                        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
                            for (int i = 0; i < 2; ++i) {
                                const __m256i four = all_i32(x + r * stride + k + i * 4);
#pragma GCC unroll 2
                                for (int half = 0; half < 2; ++half) {
                                    __m256i& sum = few[r][p * 2 + half];
                                    if (step == 0 && i == 0) sum = _mm256_maddubs_epi16(numbers[i][half], four);
                                    else add_byte_products(sum, numbers[i][half], four);
                                }
                            }
                        }
                    }
                }
#pragma GCC unroll 32
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
                    for (int j = 0; j < P * 2; ++j)
                        sums[r][j] = _mm256_add_epi32(sums[r][j], _mm256_madd_epi16(few[r][j], ones));
            }
#pragma GCC unroll 32
            for (int p = 0; p < P; ++p) {
                const bf16* scales = t.packed.group_scales(t.panel + p) + group * panel_width;
                const __m256 low = Vec::load(scales).v, high = Vec::load(scales + 8).v;
                for (int r = 0; r < R; ++r) {
                    const __m256 scale = _mm256_set1_ps(t.x.scales[(t.row + r) * t.x.groups + group]);
                    float* to = t.sums + r * tile_stride + p * panel_width;
                    add_scaled(to, sums[r][p * 2], _mm256_mul_ps(low, scale));
                    add_scaled(to + 8, sums[r][p * 2 + 1], _mm256_mul_ps(high, scale));
                }
            }
        }
    }
};

}  // namespace pagoda::linear
