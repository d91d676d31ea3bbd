// The online softmax of one row over one chunk of keys, in powers of two.
#pragma once

#include <algorithm>
#include <limits>

#include "vec.h"

namespace pagoda {

inline int rounded_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

// Floats of a row of sums, for every kind of chunk: what lies past the head is not looked at.
inline int sums_width(int head_size) { return rounded_up(head_size, 16); }

constexpr float log2_e = 1.44269504088896341f;

// What rows have seen so far: the largest score (times log2 e) and the sum of 2^(score - largest).
struct Running {
    float *largest, *sum;
};

constexpr float nothing_seen = -1e30f;

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

// Scores outside of [low, high) become -inf.
inline void hide(float* scores, int count, int low, int high) {
    for (int i = 0; i < low; ++i) scores[i] = -std::numeric_limits<float>::infinity();
    for (int i = high; i < count; ++i) scores[i] = -std::numeric_limits<float>::infinity();
}

inline float find_largest(const float* scores, int count) {
    Vec most = Vec::load(scores);
    for (int i = Vec::W; i < count; i += Vec::W) most = max(most, Vec::load(scores + i));
    return largest(most);
}

// The first `count` scores (a multiple of Vec::W) of each row become probabilities relative to the
// row's largest, times the values' scales: zero outside of what see(row) says, first and last + 1.
// alpha [rows] is what earlier sums are to be multiplied by.  `out` may be `scores`; both have rows
// of Stride numbers, and at most Most rows.
template <int Degree, int Stride, int Most, class P, class See>
inline void soften(float* scores, P* out, int rows, int count, const See& see, const Scores& how, Running running, float* alpha) {
    constexpr int W = Vec::W, room = (Most + W - 1) / W * W;
    float factor = how.scale * log2_e;
    const bool plain = how.of_keys == nullptr && how.soft_cap == 0.0f && how.scale > 0.0f;
    if (!plain) factor = 1.0f;
    float tops[room], change[room];
    for (int r = 0; r < rows; ++r) {
        float* row = scores + r * Stride;
        if (!plain) transform(row, count, how);
        const auto seen = see(r);
        hide(row, count, seen.first, seen.second);
        const float top = find_largest(row, count) * factor;
        tops[r] = top > running.largest[r] ? top : running.largest[r];
        change[r] = running.largest[r] - tops[r];
    }
    std::fill(change + rows, change + room, 0.0f);
    for (int r = 0; r < rows; r += W) exp2_below<6>(Vec::load(change + r)).store(change + r);
    const Vec times = Vec::all(factor);
    for (int r = 0; r < rows; ++r) {
        const float* from = scores + r * Stride;
        P* to = out + r * Stride;
        const Vec minus = Vec::all(-tops[r]);
        Vec sums = Vec::zero();
        for (int i = 0; i < count; i += W) {
            Vec p = exp2_below<Degree>(fma(Vec::load(from + i), times, minus));
            sums = sums + p;
            if (how.of_values != nullptr) p = p * Vec::load(how.of_values + i);
            p.store(to + i);
        }
        alpha[r] = change[r];
        running.largest[r] = tops[r];
        running.sum[r] = running.sum[r] * change[r] + sum(sums);
    }
}

}  // namespace pagoda
