// Vec in the compiler's own vectors: 4 floats, SSE2 or NEON or whatever there is.
#pragma once

#include <cmath>

#include "numbers.h"

namespace pagoda {

struct Vec {
    static constexpr int W = 4;
    using Floats = float __attribute__((vector_size(16)));
    using Bits = uint32_t __attribute__((vector_size(16)));
    using Ints = int32_t __attribute__((vector_size(16)));
    using Halves = uint16_t __attribute__((vector_size(8)));
    Floats v;

    static Vec zero() { return {Floats{}}; }
    static Vec all(float x) { return {Floats{x, x, x, x}}; }
    static Vec of(Bits bits) { return {reinterpret_cast<Floats>(bits)}; }
    Bits bits() const { return reinterpret_cast<Bits>(v); }

    static Vec load(const float* p) {
        Vec x;
        std::memcpy(&x.v, p, sizeof x.v);
        return x;
    }
    static Vec load(const bf16* p) { return of(halves(p) << 16); }
    static Vec load(const fp16* p) {
        const Bits half = halves(p), magnitude = (half & 0x7fffu) << 13;
        const Bits special = reinterpret_cast<Bits>(magnitude >= (0x7c00u << 13)) & 0x7f800000u;
        const Vec scaled = {of(magnitude).v * 0x1p112f};
        return of(scaled.bits() | special | (half & 0x8000u) << 16);
    }
    static Vec load(const int8_t* p) { return {Floats{float(p[0]), float(p[1]), float(p[2]), float(p[3])}}; }

    void store(float* p) const { std::memcpy(p, &v, sizeof v); }
    template <class T>
    void store(T* p) const {
        for (int i = 0; i < W; ++i) from_float(v[i], p[i]);
    }
    void store(int8_t* p) const {  // nearest, within -127..127
        for (int i = 0; i < W; ++i) p[i] = int8_t(std::nearbyint(std::fmin(std::fmax(v[i], -127.0f), 127.0f)));
    }

    friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
    friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
    friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
    friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }

private:
    template <class T>
    static Bits halves(const T* p) {
        Halves half;
        std::memcpy(&half, p, sizeof half);
        return __builtin_convertvector(half, Bits);
    }
};

inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }

// The second where one is NaN, as the instructions of the other levels do.
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }

inline Vec round(Vec x) {  // |x| < 2^22
    return {(x.v + 0x1.8p23f) - 0x1.8p23f};
}

inline float sum(Vec x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }
inline float largest(Vec x) {
    return std::fmax(std::fmax(x.v[0], x.v[2]), std::fmax(x.v[1], x.v[3]));
}

// x * 2^n, 0.7 < x < 1.5, whole -160 <= n <= 129; results below 2^-126 are 0.
inline Vec scale2(Vec x, Vec n) {
    const Vec::Ints whole = __builtin_convertvector(n.v, Vec::Ints);
    const Vec::Ints inside = whole >= -126, above = whole > 127;
    const Vec::Bits power = reinterpret_cast<Vec::Bits>((whole - (above & 8) + 127) << 23);
    const Vec scaled = {x.v * Vec::of(power).v};
    const Vec::Bits more = (reinterpret_cast<Vec::Bits>(above) & 0x43800000u) |
                           (~reinterpret_cast<Vec::Bits>(above) & 0x3f800000u);  // 2^8 or 1
    return {Vec::of(scaled.bits() & reinterpret_cast<Vec::Bits>(inside)).v * Vec::of(more).v};
}

// The float whose bits are x's, 23 places up: with x = 1.5 * 2^23 + 127 + n, it is 2^n.
inline Vec shift_left_23(Vec x) { return Vec::of(x.bits() << 23); }

}  // namespace pagoda
