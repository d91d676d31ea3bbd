// Vec in AVX-512 (F, BW, VL, DQ, BF16): 16 floats.
#pragma once

#include <immintrin.h>

#include "numbers.h"

namespace pagoda {

struct Vec {
    static constexpr int W = 16;
    __m512 v;

    static Vec zero() { return {_mm512_setzero_ps()}; }
    static Vec all(float x) { return {_mm512_set1_ps(x)}; }

    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vec load(const bf16* p) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen(p)), 16))};
    }
    static Vec load(const fp16* p) { return {_mm512_cvtph_ps(sixteen(p))}; }
    static Vec load(const int8_t* p) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
    }

    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store(bf16* p) const {  // denormal numbers become 0
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bit_cast<__m256i>(_mm512_cvtneps_pbh(v)));
    }
    void store(fp16* p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    void store(int8_t* p) const {  // nearest, within -127..127
        const __m512 inside = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(inside)));
    }

    friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
    friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }

private:
    template <class T>
    static __m256i sixteen(const T* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
};

inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

// The second where one is NaN.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }

inline Vec round(Vec x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline float sum(Vec x) { return _mm512_reduce_add_ps(x.v); }
inline float largest(Vec x) { return _mm512_reduce_max_ps(x.v); }

// x * 2^n, 0.7 < x < 1.5, whole -160 <= n <= 129; results below 2^-126 are 0.
inline Vec scale2(Vec x, Vec n) {
    const __mmask16 inside = _mm512_cmp_ps_mask(n.v, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    return {_mm512_maskz_scalef_ps(inside, x.v, n.v)};
}

// The float whose bits are x's, 23 places up: with x = 1.5 * 2^23 + 127 + n, it is 2^n.
inline Vec shift_left_23(Vec x) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x.v), 23))};
}

// The upper halves of low's numbers below those of high's, whose lower halves are 0.
inline void store_pairs(Vec low, Vec high, uint32_t* to) {
    const __m512i below = _mm512_srli_epi32(_mm512_castps_si512(low.v), 16);
    _mm512_storeu_si512(to, _mm512_or_si512(below, _mm512_castps_si512(high.v)));
}

}  // namespace pagoda
