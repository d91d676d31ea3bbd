// Many rows on AMX tiles: 32 rows by 32 outputs at a time, in bf16 or in whole numbers of 8 bits.
//
// The tile instructions are inline assembly with memory clobbers: GCC 12's own are moved past the
// stores that fill their memory.
#pragma once

#include "linear_avx512.h"

namespace pagoda::linear {

struct TileShape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t column_bytes[16] = {};
    uint8_t rows[16] = {};
};

// Sums 0 to 3 (upper and lower rows by two panels), rows 4 and 5, weights 6 and 7.
inline void shape_tiles(int upper, int lower) {
    alignas(64) TileShape shape;
    const int rows[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
    for (int i = 0; i < 8; ++i) {
        shape.column_bytes[i] = 64;
        shape.rows[i] = uint8_t(rows[i] > 0 ? rows[i] : 1);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(shape) : "memory");
}

inline void release_tiles() { __asm__ volatile("tilerelease" ::: "memory"); }

template <int I>
inline void zero_tile() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(I));
}

template <int I>
inline void load_tile(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(I) : "memory");
}

template <int I>
inline void store_tile(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(I) : "memory");
}

template <bool Whole, int Sum, int Rows, int Weights>
inline void multiply_tiles() {
    if constexpr (Whole)
        __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(Rows), "i"(Weights));
    else
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(Rows), "i"(Weights));
}

// Inputs [begin, end) of one block of up to 32 rows by 1 or 2 panels; 64 bytes of a row at a time.
struct TileOperands {
    const char *upper, *lower;  // rows; lower null: none
    int64_t row_stride;         // bytes
    const char *first, *second;  // panels; second null: none
    int64_t steps;
};

template <bool Whole, bool Lower, bool Second>
inline void multiply_steps(const TileOperands& o) {
    for (int64_t i = 0; i < o.steps; ++i) {
        load_tile<6>(o.first + i * 1024, 64);
        load_tile<4>(o.upper + i * 64, o.row_stride);
        multiply_tiles<Whole, 0, 4, 6>();
        if constexpr (Second) {
            load_tile<7>(o.second + i * 1024, 64);
            multiply_tiles<Whole, 1, 4, 7>();
        }
        if constexpr (Lower) {
            load_tile<5>(o.lower + i * 64, o.row_stride);
            multiply_tiles<Whole, 2, 5, 6>();
            if constexpr (Second) multiply_tiles<Whole, 3, 5, 7>();
        }
    }
}

template <bool Whole>
inline void multiply(const TileOperands& o) {
    if (o.lower != nullptr) {
        if (o.second != nullptr) multiply_steps<Whole, true, true>(o);
        else multiply_steps<Whole, true, false>(o);
    } else {
        if (o.second != nullptr) multiply_steps<Whole, false, true>(o);
        else multiply_steps<Whole, false, false>(o);
    }
}

template <class F>
inline void each_tile(const TileOperands& o, const F& f) {
    f(std::integral_constant<int, 0>{}, 0, 0);
    if (o.second != nullptr) f(std::integral_constant<int, 1>{}, 0, 1);
    if (o.lower != nullptr) f(std::integral_constant<int, 2>{}, 1, 0);
    if (o.lower != nullptr && o.second != nullptr) f(std::integral_constant<int, 3>{}, 1, 1);
}

// For each block of rows and pair of panels over inputs [begin, end): f(operands, row, panel, rows).
template <class X, class F>
inline void each_block(const Inputs& x, int64_t row, int rows, int64_t begin, const char* weights, int64_t panel_stride,
                       int count, const F& f) {
    for (int done = 0; done < rows; done += 32) {
        const int upper = std::min(16, rows - done), lower = std::max(0, std::min(16, rows - done - 16));
        if (done == 0 || rows - done < 32) shape_tiles(upper, lower);
        const auto* from = x.row<X>(row + done) + begin;
        TileOperands o{};
        o.row_stride = x.stride * int64_t(sizeof(X));
        o.upper = reinterpret_cast<const char*>(from);
        o.lower = lower > 0 ? o.upper + 16 * o.row_stride : nullptr;
        for (int i = 0; i < count; i += 2) {
            o.first = weights + i * panel_stride;
            o.second = i + 1 < count ? o.first + panel_stride : nullptr;
            f(o, done, i, upper, lower);
        }
    }
}

// sums += rows by panels, bf16.
inline void bf16_tiles(const Inputs& x, int64_t row, int rows, int64_t begin, int64_t end, const char* weights,
                       int64_t panel_stride, int count, float* sums) {
    each_block<bf16>(x, row, rows, begin, weights, panel_stride, count,
                     [&](TileOperands o, int done, int panel, int, int) {
                         o.steps = (end - begin) / 32;
                         float* to = sums + done * tile_stride + panel * panel_width;
                         const auto at = [&](int down, int right) { return to + down * 16 * tile_stride + right * panel_width; };
                         each_tile(o, [&](auto i, int down, int right) { load_tile<i.value>(at(down, right), tile_stride * 4); });
                         multiply<false>(o);
                         each_tile(o, [&](auto i, int down, int right) { store_tile<i.value>(at(down, right), tile_stride * 4); });
                     });
}

// sums += rows by panels, 8 bits, one group of inputs at a time.
inline void int8_tiles(const Inputs& x, int64_t row, int rows, int64_t begin, int64_t end, const char* weights,
                       int64_t panel_stride, int count, float* sums) {
    alignas(64) int32_t whole[4][16][16];
    const int64_t group = begin / group_int8;
    each_block<int8_t>(
        x, row, rows, begin, weights, panel_stride, count, [&](TileOperands o, int done, int panel, int upper, int lower) {
            o.steps = (end - begin) / 64;
            each_tile(o, [&](auto i, int, int) { zero_tile<i.value>(); });
            multiply<true>(o);
            each_tile(o, [&](auto i, int, int) { store_tile<i.value>(whole[i.value], 64); });
            each_tile(o, [&](auto i, int down, int right) {
                for (int r = 0; r < (down ? lower : upper); ++r) {
                    const int64_t at = (row + done + down * 16 + r) * x.groups + group;
                    const __m512i level = _mm512_sub_epi32(load_i(whole[i.value][r]), _mm512_set1_epi32(int8_zero * x.sums[at]));
                    float* to = sums + (done + down * 16 + r) * tile_stride + (panel + right) * panel_width;
                    const __m512 sum = _mm512_fmadd_ps(_mm512_set1_ps(x.scales[at]), _mm512_cvtepi32_ps(level), _mm512_loadu_ps(to));
                    _mm512_storeu_ps(to, sum);
                }
            });
        });
}

// 4-bit weights times their scales as bf16, inputs in pairs.
inline void expand_int4(const Packed& packed, int64_t panel, int64_t begin, int64_t end, char* to) {
    const char* from = packed.panel(panel) + begin * panel_width / 2;
    for (int64_t k = begin; k < end; k += 8, from += 64) {
        const __m512 scale = Vec::load(packed.group_scales(panel) + k / group_int4 * panel_width).v;
        for (int i = 0; i < 2; ++i) {
            // lanes are outputs, bytes of a lane inputs
            const __m512i half = _mm512_and_si512(i == 0 ? load_i(from) : _mm512_srli_epi16(load_i(from), 4), _mm512_set1_epi8(15));
            for (int pair = 0; pair < 2; ++pair) {
                const auto number = [&](int byte) {
                    const __m512i level = _mm512_and_si512(_mm512_srli_epi32(half, unsigned(byte * 8)), _mm512_set1_epi32(15));
                    return _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(level, _mm512_set1_epi32(int4_zero))));
                };
                const auto low = bit_cast<__m256i>(_mm512_cvtneps_pbh(number(pair * 2)));
                const auto high = bit_cast<__m256i>(_mm512_cvtneps_pbh(number(pair * 2 + 1)));
                const __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
                _mm512_storeu_si512(to, both);
                to += 64;
            }
        }
    }
}

// Tiles from so many rows on; fewer go through the vector modes.
constexpr int rows_for_bf16_tiles = 3, rows_for_int8_tiles = 9, rows_for_int4_tiles = 33;

template <Weight Kind>
struct TileMode {
    static constexpr int64_t block = 512;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        if constexpr (Kind == Weight::int8) return rounded_inputs<int8_t>(packed, x, rows, group_int8, 127);
        else return plain_inputs<bf16>(packed, x, rows);
    }

    static int64_t rows_in_cache(const Packed& packed) {
        const int64_t row_bytes = packed.depth * (Kind == Weight::int8 ? 1 : 2);
        return std::max<int64_t>(64, (768 << 10) / row_bytes / 32 * 32);
    }

    static void unit(const Packed& packed, const Inputs& x, int64_t panel, int count, int64_t row, int rows, float* sums) {
        static_assert(block == group_int8, "a block is a group");
        std::memset(sums, 0, size_t(rows) * tile_stride * sizeof(float));
        constexpr int64_t expanded = block * panel_width * 2;
        for (int64_t begin = 0; begin < packed.depth; begin += block) {
            const int64_t end = std::min(packed.depth, begin + block);
            const int64_t stride = int64_t(packed.panel_bytes);
            if constexpr (Kind == Weight::int8) {
                int8_tiles(x, row, rows, begin, end, packed.panel(panel) + begin * panel_width, stride, count, sums);
            } else if constexpr (Kind == Weight::bf16) {
                bf16_tiles(x, row, rows, begin, end, packed.panel(panel) + begin * panel_width * 2, stride, count, sums);
            } else {
                char* work = static_cast<char*>(scratch(slot_expanded, size_t(expanded) * unit_panels));
                for (int i = 0; i < count; ++i) expand_int4(packed, panel + i, begin, end, work + i * expanded);
                bf16_tiles(x, row, rows, begin, end, work, expanded, count, sums);
            }
        }
        release_tiles();
    }
};

}  // namespace pagoda::linear
