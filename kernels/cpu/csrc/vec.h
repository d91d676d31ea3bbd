// Vec: as many floats as a register of this level holds, and what kernels do with them.
// A level's header gives struct Vec (W, zero, all, load, store, operators), fma, max, min, round,
// sum, largest, and scale2 (x * 2^n for whole n); what follows from these is here.
#pragma once

#include "numbers.h"

#if defined(PAGODA_AVX512) || defined(PAGODA_AMX)
#include "vec_avx512.h"
#elif defined(PAGODA_AVX2)
#include "vec_avx2.h"
#else
#include "vec_portable.h"
#endif

namespace pagoda {

// The first n of W numbers, zeros behind them; nothing past p[n - 1] is read.
template <class T>
inline Vec load_first(const T* p, int n) {
    T all[Vec::W] = {};
    std::memcpy(all, p, size_t(n) * sizeof(T));
    return Vec::load(all);
}

template <class T>
inline void store_first(T* p, Vec x, int n) {
    T all[Vec::W];
    x.store(all);
    std::memcpy(p, all, size_t(n) * sizeof(T));
}

// to[i] = from[i] * factor, from one format to another.
template <class From, class To>
inline void copy_row(const From* from, To* to, int count, float factor) {
    const Vec times = Vec::all(factor);
    int i = 0;
    for (; i + Vec::W <= count; i += Vec::W) (Vec::load(from + i) * times).store(to + i);
    if (i < count) store_first(to + i, load_first(from + i, count - i) * times, count - i);
}

// 2^x, relative error below 2e-7 where the result is a normal number; below 2^-126 (and for -inf) 0,
// from 2^128 on infinity; NaN stays NaN.
inline Vec exp2(Vec x) {
    x = min(x, Vec::all(129.0f));
    const Vec whole = round(max(x, Vec::all(-160.0f)));
    const Vec rest = max(x, Vec::all(-160.0f)) - whole;
    Vec sum = Vec::all(1.535336188319500e-4f);
    sum = fma(sum, rest, Vec::all(1.339887440266574e-3f));
    sum = fma(sum, rest, Vec::all(9.618437357674640e-3f));
    sum = fma(sum, rest, Vec::all(5.550332471162809e-2f));
    sum = fma(sum, rest, Vec::all(2.402264791363012e-1f));
    sum = fma(sum, rest, Vec::all(6.931472028550421e-1f));
    sum = fma(sum, rest, Vec::all(1.0f));
    return scale2(sum, whole);
}

inline Vec exp(Vec x) { return exp2(x * Vec::all(1.44269504088896f)); }

// tanh(x), absolute error below 1e-6.
inline Vec tanh(Vec x) {
    const Vec grown = exp2(min(x, Vec::all(20.0f)) * Vec::all(2.88539008177793f));
    return Vec::all(1.0f) - Vec::all(2.0f) / (grown + Vec::all(1.0f));
}

}  // namespace pagoda
