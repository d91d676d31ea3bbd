// Packing of weights, rounding included, and the way back for embeddings.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "linear_bf12.h"
#include "pool.h"
#include "vec.h"

namespace pagoda::linear {
namespace {

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

int64_t padded_inputs(Weight weight, int64_t inputs) {
    switch (weight) {
        case Weight::bf12: return round_up(inputs, bf12_inputs);
        case Weight::bf16: return bf16_step == 1 ? inputs : round_up(inputs, 32);
        case Weight::int8:
        case Weight::int4: return round_up(inputs, 64);
        default: return inputs;
    }
}

size_t bytes_beside(Weight weight, int64_t depth) {
    if (weight == Weight::bf12) return size_t(bf12_head(depth));
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
        case Weight::bf12: return;  // store_bf12
    }
}

// The sixteen high bytes that are most of a panel's, by magnitude; `names` says which one is where, or 16.
void choose_table(const uint16_t* bits, int64_t count, uint8_t* table, uint8_t* names) {
    uint32_t found[256] = {};
    const int64_t step = count < 8192 ? 1 : 3;  // enough to choose by
    for (int64_t i = 0; i < count; i += step) ++found[bits[i] >> 8];
    uint8_t all[256];
    for (int i = 0; i < 256; ++i) all[i] = uint8_t(i);
    std::partial_sort(all, all + 16, all + 256, [&](uint8_t a, uint8_t b) { return found[a] != found[b] ? found[a] > found[b] : a < b; });
    std::sort(all, all + 16, [](uint8_t a, uint8_t b) { return (a & 0x7f) != (b & 0x7f) ? (a & 0x7f) < (b & 0x7f) : a < b; });
    std::memset(names, 16, 256);
    for (int i = 0; i < 16; ++i) table[i] = table[16 + i] = all[i], names[all[i]] = uint8_t(i);
}

// bits: [16][depth].  False where more are odd than there is room for.
bool store_bf12(const Packed& to, int64_t index, const uint16_t* bits) {
    const Bf12Panel panel(to, index);
    const int64_t depth = to.depth, capacity = odd_capacity(depth);
    uint8_t names[256];
    choose_table(bits, depth * panel_width, panel.table(), names);
    const int64_t outputs = to.outputs - index * panel_width;
    int64_t num_odd = 0;
    for (int64_t k = 0; k < depth; k += bf12_inputs) {
        uint8_t both[bf12_bytes] = {};
        for (int n = 0; n < panel_width; ++n) {
            for (int i = 0; i < bf12_inputs; ++i) {
                const uint16_t number = bits[n * depth + k + i];
                const uint8_t name = names[number >> 8];
                if (name < 16) {
                    both[low_byte_at(i, n)] = uint8_t(number);
                    both[name_at(i, n)] |= uint8_t(name << name_shift(i));
                } else if (n < outputs && k + i < to.inputs) {
                    if (num_odd == capacity) return false;
                    panel.odd()[num_odd++] = {int32_t(k + i), uint16_t(n), number};
                }
            }
        }
        std::memcpy(panel.inputs(k), both, bf12_bytes);
    }
    std::stable_sort(panel.odd(), panel.odd() + num_odd, [](const OddWeight& a, const OddWeight& b) { return a.input < b.input; });
    std::fill(panel.odd() + num_odd, panel.odd() + capacity + 1, OddWeight{INT32_MAX, 0, 0});
    return true;
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
      panel_bytes(scales_at + size_t(round_up(int64_t(bytes_beside(weight, depth)), 64))),
      memory(size_t(panels) * panel_bytes) {}

namespace {

// Rows of a matrix that lies in parts.
class Source {
public:
    Source(const std::vector<Rows>& parts, int64_t inputs) : parts_(parts), inputs_(inputs) {}

    void row(int64_t index, float* to) const {
        const Rows& part = part_of(index);
        widen_row(part, index, to, inputs_);
    }

    // Without a way through float32 where they are bf16.
    void bits(int64_t index, uint16_t* to) const {
        const Rows& part = part_of(index);
        if (part.format == Weight::bf16) {
            std::memcpy(to, static_cast<const bf16*>(part.numbers) + index * part.stride, size_t(inputs_) * sizeof(bf16));
            return;
        }
        float* wide = static_cast<float*>(scratch(5, size_t(inputs_) * sizeof(float)));
        widen_row(part, index, wide, inputs_);
        for (int64_t k = 0; k < inputs_; ++k) {
            bf16 number;
            from_float(wide[k], number);
            to[k] = number.bits;
        }
    }

private:
    const Rows& part_of(int64_t& index) const {
        size_t part = 0;
        for (; index >= parts_[part].count; ++part) index -= parts_[part].count;
        return parts_[part];
    }

    const std::vector<Rows>& parts_;
    int64_t inputs_;
};

void pack_panels(const Packed& to, const Source& source) {
    parallel_each(to.panels, 1, [&](int64_t index, int) {
        const size_t size = size_t(to.depth) * panel_width;
        float* rows = static_cast<float*>(scratch(4, size * sizeof(float)));
        std::memset(rows, 0, size * sizeof(float));
        for (int64_t n = 0, row = index * panel_width; n < panel_width && row < to.outputs; ++n, ++row)
            source.row(row, rows + n * to.depth);
        store_panel(to, index, rows);
    });
}

// False where the numbers do not fit.
bool pack_bf12(const Packed& to, const Source& source) {
    std::atomic<bool> fits{true};
    parallel_each(to.panels, 1, [&](int64_t index, int) {
        if (!fits.load(std::memory_order_relaxed)) return;
        const size_t size = size_t(to.depth) * panel_width;
        auto* bits = static_cast<uint16_t*>(scratch(4, size * sizeof(uint16_t)));
        std::memset(bits, 0, size * sizeof(uint16_t));
        for (int64_t n = 0, row = index * panel_width; n < panel_width && row < to.outputs; ++n, ++row)
            source.bits(row, bits + n * to.depth);
        if (!store_bf12(to, index, bits)) fits.store(false, std::memory_order_relaxed);
    });
    return fits.load();
}

}  // namespace

std::unique_ptr<const Packed> pack(Weight weight, int64_t outputs, int64_t inputs, const std::vector<Rows>& parts) {
    const Source source(parts, inputs);
    if (has_bf12 && weight == Weight::bf16) {
        auto packed = std::make_unique<const Packed>(Weight::bf12, outputs, inputs);
        if (pack_bf12(*packed, source)) return packed;
    }
    auto packed = std::make_unique<const Packed>(weight, outputs, inputs);
    pack_panels(*packed, source);
    return packed;
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
        case Weight::bf12: {
            const Bf12Panel own(from, output / panel_width);
            each([&](int64_t k) { return to_float(own.number(k, n)); });
            for (const OddWeight* odd = own.odd(); odd->input < from.inputs; ++odd)
                if (odd->output == n) from_float(to_float(bf16{odd->bits}), to[odd->input]);
            return;
        }
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
