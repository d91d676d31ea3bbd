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

// Rows by weights of a kind: bf16, bytes that count from 0 (int8), or bytes with a sign (int4, widened).
template <Weight Kind, int Sum, int Rows, int Weights>
inline void multiply_tiles() {
    if constexpr (Kind == Weight::int8)
        __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(Rows), "i"(Weights));
    else if constexpr (Kind == Weight::int4)
        __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(Rows), "i"(Weights));
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

template <Weight Kind, bool Lower, bool Second>
inline void multiply_steps(const TileOperands& o) {
    for (int64_t i = 0; i < o.steps; ++i) {
        load_tile<6>(o.first + i * 1024, 64);
        load_tile<4>(o.upper + i * 64, o.row_stride);
        multiply_tiles<Kind, 0, 4, 6>();
        if constexpr (Second) {
            load_tile<7>(o.second + i * 1024, 64);
            multiply_tiles<Kind, 1, 4, 7>();
        }
        if constexpr (Lower) {
            load_tile<5>(o.lower + i * 64, o.row_stride);
            multiply_tiles<Kind, 2, 5, 6>();
            if constexpr (Second) multiply_tiles<Kind, 3, 5, 7>();
        }
    }
}

template <Weight Kind>
inline void multiply(const TileOperands& o) {
    if (o.lower != nullptr) {
        if (o.second != nullptr) multiply_steps<Kind, true, true>(o);
        else multiply_steps<Kind, true, false>(o);
    } else {
        if (o.second != nullptr) multiply_steps<Kind, false, true>(o);
        else multiply_steps<Kind, false, false>(o);
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
                         multiply<Weight::bf16>(o);
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
            multiply<Weight::int8>(o);
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

// 4-bit weights as bytes from -8 to 7, meanwhile fetching those of the next block.
inline void widen_int4(const Packed& packed, int64_t panel, int64_t begin, int64_t end, char* to) {
    const char* from = packed.panel(panel) + begin * panel_width / 2;
    const int64_t next = (end - begin) * panel_width / 2;
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_set1_epi8(int4_zero);
    for (int64_t k = begin; k < end; k += 8, from += 64, to += 128) {
        __builtin_prefetch(from + next, 0, 2);
        const __m512i both = load_i(from);
        _mm512_storeu_si512(to, _mm512_sub_epi8(_mm512_and_si512(both, low), zero));
        _mm512_storeu_si512(to + 64, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), zero));
    }
}

// One group's whole numbers of a block of rows by panels, as the tiles leave them.
struct alignas(64) WholeSums {
    int32_t of[4][16][16];
};

// sums += whole numbers times the scales of their group, a row's and an output's; in the order of the vector mode.
inline void add_group(const TileOperands& o, const WholeSums& whole, const Packed& packed, int64_t panel, const Inputs& x,
                      int64_t row, int64_t group, int upper, int lower, float* sums) {
    each_tile(o, [&](auto i, int down, int right) {
        const __m512 own = Vec::load(packed.group_scales(panel + right) + group * panel_width).v;
        const float* scales = x.scales + (row + down * 16) * x.groups + group;
        float* to = sums + down * 16 * tile_stride + right * panel_width;
        for (int r = 0; r < (down ? lower : upper); ++r, scales += x.groups, to += tile_stride) {
            const __m512 scale = _mm512_mul_ps(own, _mm512_set1_ps(*scales)), number = _mm512_cvtepi32_ps(load_i(whole.of[i.value][r]));
            _mm512_storeu_ps(to, _mm512_fmadd_ps(scale, number, _mm512_loadu_ps(to)));
        }
    });
}

// sums += rows by panels, 4 bits: one group's numbers are scaled while the tiles multiply the next.
inline void int4_tiles(const Packed& packed, int64_t first_panel, const Inputs& x, int64_t row, int rows, int64_t begin,
                       int64_t end, const char* weights, int64_t panel_stride, int count, float* sums) {
    WholeSums whole[2];
    each_block<int8_t>(
        x, row, rows, begin, weights, panel_stride, count, [&](TileOperands o, int done, int panel, int upper, int lower) {
            float* to = sums + done * tile_stride + panel * panel_width;
            const auto add = [&](int64_t group) {
                add_group(o, whole[group % 2], packed, first_panel + panel, x, row + done, group, upper, lower, to);
            };
            const int64_t first = begin / group_int4, groups = (end + group_int4 - 1) / group_int4;
            for (int64_t group = first; group < groups; ++group) {
                o.steps = (std::min(end, (group + 1) * group_int4) - group * group_int4) / 64;
                each_tile(o, [&](auto i, int, int) { zero_tile<i.value>(); });
                multiply<Weight::int4>(o);
                each_tile(o, [&](auto i, int, int) { store_tile<i.value>(whole[group % 2].of[i.value], 64); });
                if (group > first) add(group - 1);
                o.upper += group_int4;
                o.first += group_int4 * panel_width;
                if (o.lower != nullptr) o.lower += group_int4;
                if (o.second != nullptr) o.second += group_int4 * panel_width;
            }
            add(groups - 1);
        });
}

// Tiles from so many rows on; fewer go through the vector modes, of which int8 takes five at a time.
constexpr int rows_for_bf16_tiles = 3, rows_for_int8_tiles = 6, rows_for_int4_tiles = 9;

template <Weight Kind>
struct TileMode {
    static constexpr int64_t block = 512;

    template <class X>
    static Inputs inputs(const Packed& packed, const X* x, int64_t rows) {
        if constexpr (Kind == Weight::bf16) return plain_inputs<bf16>(packed, x, rows);
        else return rounded_inputs<int8_t>(packed, x, rows, Kind == Weight::int8 ? group_int8 : group_int4, 127);
    }

    static int64_t rows_in_cache(const Packed& packed) {
        const int64_t row_bytes = packed.depth * (Kind == Weight::bf16 ? 2 : 1);
        return std::max<int64_t>(64, (768 << 10) / row_bytes / 32 * 32);
    }

    static void unit(const Packed& packed, const Inputs& x, int64_t panel, int count, int64_t row, int rows, float* sums) {
        static_assert(block == group_int8 && block % group_int4 == 0, "a block is a group, or several");
        std::memset(sums, 0, size_t(rows) * tile_stride * sizeof(float));
        constexpr int64_t widened = block * panel_width;
        for (int64_t begin = 0; begin < packed.depth; begin += block) {
            const int64_t end = std::min(packed.depth, begin + block);
            const int64_t stride = int64_t(packed.panel_bytes);
            if constexpr (Kind == Weight::int8) {
                int8_tiles(x, row, rows, begin, end, packed.panel(panel) + begin * panel_width, stride, count, sums);
            } else if constexpr (Kind == Weight::bf16) {
                bf16_tiles(x, row, rows, begin, end, packed.panel(panel) + begin * panel_width * 2, stride, count, sums);
            } else {
                char* work = static_cast<char*>(scratch(slot_expanded, size_t(widened) * unit_panels));
                for (int i = 0; i < count; ++i) widen_int4(packed, panel + i, begin, end, work + i * widened);
                int4_tiles(packed, panel, x, row, rows, begin, end, work, widened, count, sums);
            }
        }
        release_tiles();
    }
};

}  // namespace pagoda::linear
