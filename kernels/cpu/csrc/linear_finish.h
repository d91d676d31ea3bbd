// What follows a product while its sums are in the cache: scales, bias, activation, the gate.
#pragma once

#include <cmath>

#include "linear_tiles.h"

namespace pagoda::linear {

inline Vec each(Vec x, float (*f)(float)) {
    float all[Vec::W];
    x.store(all);
    for (float& one : all) one = f(one);
    return Vec::load(all);
}

inline float erf_gelu(float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678118654752f)); }

inline Vec activated(Vec x, Activation activation) {
    const Vec one = Vec::all(1), half = Vec::all(0.5f);
    switch (activation) {
        case Activation::silu: return x / (one + exp(Vec::zero() - x));
        case Activation::gelu: return each(x, erf_gelu);
        case Activation::gelu_tanh: {
            const Vec inside = x * fma(x * x, Vec::all(0.0356774081f), Vec::all(0.7978845608f));
            return half * x * (one + tanh(inside));
        }
        case Activation::relu: return max(x, Vec::zero());
        default: return x;
    }
}

// One vector of a panel's outputs: what the sums stand for.
inline Vec finished(const Packed& packed, int64_t panel, int lane, const float* sums) {
    Vec y = Vec::load(sums + lane);
    if (packed.weight == Weight::int8) y = y * Vec::load(packed.channel_scales(panel) + lane);
    if (!packed.bias.empty()) y = y + Vec::load(packed.bias.data() + panel * panel_width + lane);
    return y;
}

template <class T>
void finish_unit(const Packed& packed, int64_t panel, int count, int rows, const float* sums, T* out, Activation activation) {
    const int64_t width = packed.width();
    const int parts = packed.gated ? 2 : 1;
    for (int r = 0; r < rows; ++r, sums += tile_stride, out += width) {
        for (int i = 0; i < count; i += parts) {
            const int64_t first = (panel + i) / parts * panel_width;
            for (int lane = 0; lane < panel_width && first + lane < width; lane += Vec::W) {
                Vec y = activated(finished(packed, panel + i, lane, sums + i * panel_width), activation);
                if (packed.gated) y = y * finished(packed, panel + i + 1, lane, sums + (i + 1) * panel_width);
                const int64_t left = width - first - lane;
                if (left >= Vec::W) y.store(out + first + lane);
                else store_first(out + first + lane, y, int(left));
            }
        }
    }
}

}  // namespace pagoda::linear
