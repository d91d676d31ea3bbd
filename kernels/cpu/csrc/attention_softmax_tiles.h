// The online softmax for tiles, whose probabilities are rounded to bfloat16 into memory of their own.
//
// A row keeps the largest score that it began with while none exceeds it by much: bfloat16 has the
// range for probabilities far above 1.  So most chunks look at scores once and rescale nothing.
#pragma once

#include "attention_softmax.h"

namespace pagoda {

// 2^x for x < 127, relative error below 1e-4.
inline Vec exp2_rough(Vec x) {
#if defined(PAGODA_AVX512) || defined(PAGODA_AMX)
    const Vec rest = {_mm512_reduce_ps(x.v, 1)};  // x - floor(x)
    Vec sum = fma(Vec::all(7.802455e-2f), rest, Vec::all(2.2606718e-1f));
    sum = fma(sum, rest, Vec::all(6.9583349e-1f));
    sum = fma(sum, rest, Vec::all(9.9992523e-1f));
    return {_mm512_scalef_ps(sum.v, x.v)};  // times 2^floor(x)
#else
    return exp2_below<3>(x);
#endif
}

template <int Stride, int Most>
class TileSoftmax {
public:
    // `count` scores, a multiple of Vec::W, of each row to `out`; alpha [rows]: what earlier sums are to
    // be multiplied by.  As soften() otherwise.
    template <class See>
    void run(float* scores, bf16* out, int rows, int count, const See& see, const Scores& how, Running running, float* alpha) {
        constexpr float headroom = 64.0f;
        const bool plain = how.of_keys == nullptr && how.soft_cap == 0.0f && how.scale > 0.0f;
        const float factor = plain ? how.scale * log2_e : 1.0f;
        for (int r = 0; r < rows; ++r) {
            float* row = scores + r * Stride;
            if (!plain) transform(row, count, how);
            const auto seen = see(r);
            hide(row, count, seen.first, seen.second);
            tops_[r] = running.largest[r];
            if (tops_[r] == nothing_seen) tops_[r] = std::max(nothing_seen, find_largest(row, count) * factor);
        }
        if (weigh(scores, out, rows, count, factor, how.of_values) > headroom) {
            for (int r = 0; r < rows; ++r) tops_[r] = std::max(tops_[r], find_largest(scores + r * Stride, count) * factor);
            weigh(scores, out, rows, count, factor, how.of_values);
        }
        for (int r = 0; r < rows; ++r) {
            alpha[r] = 1.0f;
            if (running.largest[r] != tops_[r]) {
                float lanes[Vec::W];
                exp2_below<6>(Vec::all(running.largest[r] - tops_[r])).store(lanes);
                alpha[r] = lanes[0];
                running.largest[r] = tops_[r];
            }
            running.sum[r] = running.sum[r] * alpha[r] + sums_[r];
        }
    }

private:
    // Returns by how much a score exceeds its row's top at most.
    float weigh(const float* scores, bf16* out, int rows, int count, float factor, const float* of_values) {
        const Vec times = Vec::all(factor);
        Vec over = Vec::all(-1.0f);
        for (int r = 0; r < rows; ++r) {
            const float* from = scores + r * Stride;
            bf16* to = out + r * Stride;
            const Vec minus = Vec::all(-tops_[r]);
            Vec most = Vec::all(-1.0f), sums = Vec::zero();
            for (int i = 0; i < count; i += Vec::W) {
                const Vec x = fma(Vec::load(from + i), times, minus);
                most = max(most, x);
                Vec p = exp2_rough(x);
                sums = sums + p;
                if (of_values != nullptr) p = p * Vec::load(of_values + i);
                p.store(to + i);
            }
            over = max(over, most);
            sums_[r] = sum(sums);
        }
        return largest(over);
    }

    float tops_[Most], sums_[Most];
};

}  // namespace pagoda
