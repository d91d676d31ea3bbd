// The online softmax of one row over one chunk of keys, in powers of two.
#pragma once

#include <limits>

#include "vec.h"

namespace pagoda {

inline int rounded_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

constexpr float log2_e = 1.44269504088896341f;

// What a row has seen so far: the largest score (times log2 e) and the sum of 2^(score - largest).
struct Running {
    float largest = -1e30f, sum = 0.0f;
};

struct Scores {
    float scale;            // what q.k is multiplied by
    float soft_cap;         // 0: none
    const float* of_keys;   // int8: the keys' scales [chunk]; else null
    const float* of_values;
};

// 2^x for x <= 0, and 0 below 2^-126.  Relative error below 2e-7 with Degree 6, 1e-4 with 3.
template <int Degree>
inline Vec exp2_below(Vec x) {
    x = max(Vec::all(-127.0f), x);  // 2^-127 is made of the bits of 0; NaN stays
    const Vec shifted = x + Vec::all(12582912.0f + 127.0f);
    const Vec rest = x - (shifted - Vec::all(12582912.0f + 127.0f));
    Vec sum;
    if constexpr (Degree == 6) {
        sum = fma(Vec::all(1.535336188319500e-4f), rest, Vec::all(1.339887440266574e-3f));
        sum = fma(sum, rest, Vec::all(9.618437357674640e-3f));
        sum = fma(sum, rest, Vec::all(5.550332471162809e-2f));
        sum = fma(sum, rest, Vec::all(2.402264791363012e-1f));
        sum = fma(sum, rest, Vec::all(6.931472028550421e-1f));
        sum = fma(sum, rest, Vec::all(1.0f));
    } else {
        static_assert(Degree == 3, "6 or 3");
        sum = fma(Vec::all(5.517165e-2f), rest, Vec::all(2.4261112e-1f));
        sum = fma(sum, rest, Vec::all(6.9326099e-1f));
        sum = fma(sum, rest, Vec::all(9.9992807e-1f));
    }
    return sum * shift_left_23(shifted);
}

inline void transform(float* scores, int count, const Scores& how) {
    const Vec scale = Vec::all(how.scale), log2e = Vec::all(log2_e), cap = Vec::all(how.soft_cap);
    for (int i = 0; i < count; i += Vec::W) {
        Vec x = Vec::load(scores + i) * scale;
        if (how.of_keys != nullptr) x = x * Vec::load(how.of_keys + i);
        if (how.soft_cap != 0.0f) x = cap * tanh(x / cap);
        (x * log2e).store(scores + i);
    }
}

// The first `count` scores (a multiple of Vec::W) become probabilities relative to the row's largest,
// times the values' scales: zero outside of [low, high).  Returns what earlier sums are to be
// multiplied by.  `out` may be `scores`.
template <int Degree, class P>
inline float soften(float* scores, P* out, int count, int low, int high, const Scores& how, Running& row) {
    constexpr int W = Vec::W;
    float factor = how.scale * log2_e;
    if (how.of_keys != nullptr || how.soft_cap != 0.0f || !(how.scale > 0.0f)) {
        transform(scores, count, how);
        factor = 1.0f;
    }
    for (int i = 0; i < low; ++i) scores[i] = -std::numeric_limits<float>::infinity();
    for (int i = high; i < count; ++i) scores[i] = -std::numeric_limits<float>::infinity();
    Vec most = Vec::load(scores);
    for (int i = W; i < count; i += W) most = max(most, Vec::load(scores + i));
    const float seen = largest(most) * factor;
    const float top = seen > row.largest ? seen : row.largest;
    const Vec times = Vec::all(factor), minus = Vec::all(-top);
    Vec sums = Vec::zero();
    for (int i = 0; i < count; i += W) {
        Vec p = exp2_below<Degree>(fma(Vec::load(scores + i), times, minus));
        sums = sums + p;
        if (how.of_values != nullptr) p = p * Vec::load(how.of_values + i);
        p.store(out + i);
    }
    float alpha = 1.0f;
    if (top > row.largest) {
        Vec before = exp2_below<6>(Vec::all(row.largest - top));
        float lanes[W];
        before.store(lanes);
        alpha = lanes[0];
    }
    row.sum = row.sum * alpha + sum(sums);
    row.largest = top;
    return alpha;
}

}  // namespace pagoda
