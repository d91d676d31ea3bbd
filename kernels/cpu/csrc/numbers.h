// The number formats in memory: float, bf16, fp16, int8_t.
#pragma once

#include <cstdint>
#include <cstring>

namespace pagoda {

struct bf16 {
    uint16_t bits;
};

struct fp16 {
    uint16_t bits;
};

template <class To, class From>
inline To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float to_float(float x) { return x; }
inline float to_float(int8_t x) { return x; }
inline float to_float(bf16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }

inline float to_float(fp16 x) {
    const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13, sign = uint32_t(x.bits & 0x8000u) << 16;
    const uint32_t special = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0;
    const float scaled = bit_cast<float>(magnitude) * bit_cast<float>(0x77800000u);  // 2^112
    return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
}

// Nearest, ties to even; NaN stays one.
inline void from_float(float x, float& to) { to = x; }

inline void from_float(float x, bf16& to) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    if (x != x) to.bits = uint16_t(bits >> 16 | 0x40u);
    else to.bits = uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline void from_float(float x, fp16& to) {
    const uint32_t bits = bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        to.bits = uint16_t(sign | 0x7e00u);
    } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
        to.bits = uint16_t(sign | 0x7c00u);
    } else if (magnitude >= 0x38800000u) {  // normal
        const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
        to.bits = uint16_t(sign | (rounded - 0x38000000u) >> 13);
    } else {  // denormal: the sum's last bits are the result, rounded by the addition
        const float sum = bit_cast<float>(magnitude) + 0.5f;
        to.bits = uint16_t(sign | (bit_cast<uint32_t>(sum) - 0x3f000000u));
    }
}

}  // namespace pagoda
