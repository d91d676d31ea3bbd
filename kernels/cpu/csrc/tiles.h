// AMX tile registers: sums of 16 rows by 16 columns of float32, operands of 16 rows by 64 bytes.
//
// Inline assembly with memory clobbers: GCC 12 moves its own intrinsics past the stores that fill
// their memory.  PAGODA_TILES_EMULATED computes the same in plain C++, for tests on other CPUs.
#pragma once

#include <cstdint>

#include "vec.h"

namespace pagoda::tiles {

#if defined(PAGODA_TILES_EMULATED)

struct Registers {
    alignas(64) uint8_t bytes[8][1024];
};
inline Registers& registers() {
    thread_local Registers all;
    return all;
}
inline void begin() { std::memset(&registers(), 0xff, sizeof(Registers)); }
inline void end() {}
template <int I>
inline void zero() {
    std::memset(registers().bytes[I], 0, 1024);
}
template <int I>
inline void load(const void* from, int64_t stride) {
    for (int r = 0; r < 16; ++r) std::memcpy(registers().bytes[I] + r * 64, static_cast<const char*>(from) + r * stride, 64);
}
template <int I>
inline void store(void* to, int64_t stride) {
    for (int r = 0; r < 16; ++r) std::memcpy(static_cast<char*>(to) + r * stride, registers().bytes[I] + r * 64, 64);
}
template <int Sum, int Rows, int Columns>
inline void multiply() {
    auto* sums = reinterpret_cast<float*>(registers().bytes[Sum]);
    const auto* rows = reinterpret_cast<const bf16*>(registers().bytes[Rows]);
    const auto* columns = reinterpret_cast<const bf16*>(registers().bytes[Columns]);
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 32; ++k)
            for (int n = 0; n < 16; ++n)
                sums[m * 16 + n] += to_float(rows[m * 32 + k]) * to_float(columns[k / 2 * 32 + n * 2 + k % 2]);
}

#else

struct alignas(64) Shape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// All eight registers whole; end() gives them back, or every context switch would save them.
inline void begin() {
    const Shape shape;
    __asm__ volatile("ldtilecfg %0" ::"m"(shape) : "memory");
}
inline void end() { __asm__ volatile("tilerelease" ::: "memory"); }

template <int I>
inline void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(I));
}
template <int I>
inline void load(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(I) : "memory");
}
template <int I>
inline void store(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(I) : "memory");
}
// Rows in bf16 by columns in pairs: [16 pairs of the depth][16 columns][2].
template <int Sum, int Rows, int Columns>
inline void multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(Rows), "i"(Columns));
}

#endif

}  // namespace pagoda::tiles
