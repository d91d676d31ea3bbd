// Packing of weights, rounding included, and the way back for embeddings.
#include <cmath>

#include "linear.h"
#include "pool.h"
#include "vec.h"

namespace pagoda::linear {
namespace {

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

int64_t padded_inputs(Weight weight, int64_t inputs) {
    switch (weight) {
        case Weight::bf16: return bf16_step == 1 ? inputs : round_up(inputs, 32);
        case Weight::int8:
        case Weight::int4: return round_up(inputs, 64);
        default: return inputs;
    }
}

size_t bytes_of_scales(Weight weight, int64_t depth) {
    if (weight == Weight::int8) return panel_width * sizeof(float);
    if (weight == Weight::int4) return size_t(round_up(depth, group_int4) / group_int4) * panel_width * sizeof(bf16);
    return 0;
}

// Some inputs of every row at a time: what is read and written in turns stays in the nearest cache.
template <class T>
void store_plain(T* panel, const float* rows, int64_t depth, int step) {
    constexpr int64_t some = 16;
    for (int64_t first = 0; first < depth; first += some)
        for (int n = 0; n < panel_width; ++n)
            for (int64_t k = first; k < std::min(first + some, depth); ++k)
                from_float(rows[n * depth + k], panel[place_of(step, k, n)]);
}

float largest_magnitude(const float* x, int64_t count) {
    Vec most = Vec::zero();
    for (int64_t i = 0; i < count; i += Vec::W) {
        const Vec v = Vec::load(x + i);
        most = max(max(v, Vec::zero() - v), most);
    }
    return largest(most);
}

// The inputs of one instruction lie side by side, and are written together.
void store_int8(char* panel, float* scales, const float* rows, int64_t depth) {
    constexpr int64_t part = 64;  // the depth is a multiple
    for (int n = 0; n < panel_width; ++n) {
        const float* row = rows + n * depth;
        const float scale = largest_magnitude(row, depth) / 127, inverse = scale > 0 ? 1 / scale : 0;
        scales[n] = scale;
        for (int64_t k = 0; k < depth; k += part) {
            int8_t levels[part];
            for (int64_t i = 0; i < part; i += Vec::W) (Vec::load(row + k + i) * Vec::all(inverse)).store(levels + i);
            for (int8_t& level : levels) level = int8_t(level + int8_zero);
            for (int64_t i = 0; i < part; i += int8_step) std::memcpy(panel + place_of(int8_step, k + i, n), levels + i, int8_step);
        }
    }
}

// Levels of 4 bits that x stands for; a group is a multiple of 64 numbers.
Vec level_of_int4(Vec x, Vec inverse) { return min(max(round(x * inverse), Vec::all(-8)), Vec::all(7)); }

float squared_error(const float* x, int64_t count, float scale) {
    const Vec inverse = Vec::all(1 / scale), back = Vec::all(-scale);
    Vec total = Vec::zero();
    for (int64_t i = 0; i < count; i += Vec::W) {
        const Vec number = Vec::load(x + i), error = fma(level_of_int4(number, inverse), back, number);
        total = fma(error, error, total);
    }
    return sum(total);
}

// The scale, as bf16, that loses least among a few: the number of largest magnitude at -8, or less.
float scale_of_int4(const float* x, int64_t count) {
    float extreme = 0;
    for (int64_t i = 0; i < count; ++i)
        if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    if (extreme == 0) return 0;
    float best = 0, least = INFINITY;
    for (const float part : {1.0f, 0.93f, 0.86f, 0.79f, 8.0f / 7}) {
        bf16 rounded;
        from_float(extreme * part / -8, rounded);
        const float scale = to_float(rounded);
        if (scale == 0) continue;
        const float error = squared_error(x, count, scale);
        if (error < least) least = error, best = scale;
    }
    return best;
}

void store_int4(uint8_t* panel, bf16* scales, const float* rows, int64_t depth) {
    for (int n = 0; n < panel_width; ++n) {
        for (int64_t first = 0; first < depth; first += group_int4) {
            const int64_t count = std::min(group_int4, depth - first);
            const float* x = rows + n * depth + first;
            const float scale = scale_of_int4(x, count), inverse = scale != 0 ? 1 / scale : 0;
            from_float(scale, scales[first / group_int4 * panel_width + n]);
            float levels[group_int4];
            for (int64_t k = 0; k < count; k += Vec::W) level_of_int4(Vec::load(x + k), Vec::all(inverse)).store(levels + k);
            for (int64_t k = 0; k < count; k += 8) {
                uint8_t* four = panel + byte_of_int4(first + k, n);
                for (int i = 0; i < 4; ++i)
                    four[i] = uint8_t((int(levels[k + i]) + int4_zero) | (int(levels[k + i + 4]) + int4_zero) << 4);
            }
        }
    }
}

template <class T>
void widen(const T* from, float* to, int64_t count) {
    int64_t i = 0;
    for (; i + Vec::W <= count; i += Vec::W) Vec::load(from + i).store(to + i);
    for (; i < count; ++i) to[i] = to_float(from[i]);
}

void store_panel(const Packed& to, int64_t index, const float* rows) {
    char* panel = to.panel(index);
    switch (to.weight) {
        case Weight::f32: return store_plain(reinterpret_cast<float*>(panel), rows, to.depth, 1);
        case Weight::bf16: return store_plain(reinterpret_cast<bf16*>(panel), rows, to.depth, bf16_step);
        case Weight::fp16: return store_plain(reinterpret_cast<fp16*>(panel), rows, to.depth, 1);
        case Weight::int8:
            return store_int8(panel, reinterpret_cast<float*>(panel + to.scales_at), rows, to.depth);
        case Weight::int4:
            return store_int4(reinterpret_cast<uint8_t*>(panel),
                              reinterpret_cast<bf16*>(panel + to.scales_at), rows, to.depth);
    }
}

void widen_row(const Rows& from, int64_t row, float* to, int64_t count) {
    const int64_t at = row * from.stride;
    switch (from.format) {
        case Weight::f32: return widen(static_cast<const float*>(from.numbers) + at, to, count);
        case Weight::bf16: return widen(static_cast<const bf16*>(from.numbers) + at, to, count);
        default: return widen(static_cast<const fp16*>(from.numbers) + at, to, count);
    }
}

}  // namespace

Packed::Packed(Weight weight, int64_t outputs, int64_t inputs)
    : weight(weight),
      outputs(outputs),
      inputs(inputs),
      depth(padded_inputs(weight, inputs)),
      panels((outputs + panel_width - 1) / panel_width),
      scales_at(size_t(round_up(input_bytes(weight) * depth, 64))),
      panel_bytes(scales_at + size_t(round_up(int64_t(bytes_of_scales(weight, depth)), 64))),
      memory(size_t(panels) * panel_bytes) {}

void pack(Packed& to, const std::vector<Rows>& parts) {
    parallel_each(to.panels, 1, [&](int64_t index, int) {
        const size_t size = size_t(to.depth) * panel_width;
        float* rows = static_cast<float*>(scratch(4, size * sizeof(float)));
        std::memset(rows, 0, size * sizeof(float));
        int64_t row = index * panel_width;
        size_t part = 0;
        for (int n = 0; n < panel_width && index * panel_width + n < to.outputs; ++n, ++row) {
            for (; row >= parts[part].count; ++part) row -= parts[part].count;
            widen_row(parts[part], row, rows + n * to.depth, to.inputs);
        }
        store_panel(to, index, rows);
    });
}

template <class T>
void unpack_row(const Packed& from, int64_t output, T* to) {
    const char* panel = from.panel(output / panel_width);
    const int n = int(output % panel_width);
    const auto each = [&](auto number) {
        for (int64_t k = 0; k < from.inputs; ++k) from_float(number(k), to[k]);
    };
    switch (from.weight) {
        case Weight::f32:
            return each([p = reinterpret_cast<const float*>(panel), n](int64_t k) { return p[k * panel_width + n]; });
        case Weight::fp16:
            return each([p = reinterpret_cast<const fp16*>(panel), n](int64_t k) { return to_float(p[k * panel_width + n]); });
        case Weight::bf16:
            return each([p = reinterpret_cast<const bf16*>(panel), n](int64_t k) { return to_float(p[place_of(bf16_step, k, n)]); });
        case Weight::int8: {
            const float scale = from.channel_scales(output / panel_width)[n];
            return each([=](int64_t k) {
                const int stored = int8_zero ? int(uint8_t(panel[place_of(int8_step, k, n)])) : int(int8_t(panel[place_of(int8_step, k, n)]));
                return float(stored - int8_zero) * scale;
            });
        }
        case Weight::int4: {
            const bf16* scales = from.group_scales(output / panel_width);
            return each([=](int64_t k) {
                const int stored = uint8_t(panel[byte_of_int4(k, n)]) >> (k % 8 / 4 * 4) & 15;
                return float(stored - int4_zero) * to_float(scales[k / group_int4 * panel_width + n]);
            });
        }
    }
}

template void unpack_row(const Packed&, int64_t, float*);
template void unpack_row(const Packed&, int64_t, bf16*);
template void unpack_row(const Packed&, int64_t, fp16*);

}  // namespace pagoda::linear
