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
template <class T>
inline Vec finished(const Packed& packed, int64_t panel, int lane, const float* sums, const T* bias) {
    Vec y = Vec::load(sums + lane);
    if (packed.weight == Weight::int8) y = y * Vec::load(packed.channel_scales(panel) + lane);
    if (bias == nullptr) return y;
    const int64_t at = panel * panel_width + lane, left = packed.outputs - at;
    return y + (left >= Vec::W ? Vec::load(bias + at) : load_first(bias + at, int(left)));
}

// gates: the sums of the same panels' other halves; null: there is no gate.
template <class T>
void finish_unit(const Packed& packed, int64_t panel, int count, int rows, const float* sums, const float* gates, T* out,
                 const After<T>& after) {
    const int64_t width = gates != nullptr ? packed.outputs / 2 : packed.outputs;
    for (int r = 0; r < rows; ++r, out += width) {
        for (int i = 0; i < count; ++i) {
            const int64_t first = (panel + i) * panel_width;
            const int at = r * tile_stride + i * panel_width;
            for (int lane = 0; lane < panel_width && first + lane < width; lane += Vec::W) {
                Vec y = activated(finished(packed, panel + i, lane, sums + at, after.bias), after.activation);
                if (gates != nullptr) y = y * finished(packed, panel + i + packed.panels / 2, lane, gates + at, after.bias);
                const int64_t left = width - first - lane;
                if (left >= Vec::W) y.store(out + first + lane);
                else store_first(out + first + lane, y, int(left));
            }
        }
    }
}

}  // namespace pagoda::linear
