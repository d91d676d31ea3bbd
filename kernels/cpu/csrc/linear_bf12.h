// bfloat16 weights in 12 bits each, none of them changed: with few rows memory is what a product waits for.
//
// A weight's low byte is kept.  Of high bytes, sign and most of the exponent, a panel has few: the sixteen
// that it has most of are its table, and 4 bits name one.  Weights with another one are odd: they are listed
// beside, their places hold the table's least number, and what that lacks is added when all else is summed.
//
// A panel: the table, the odd weights, then for eight inputs after eight 128 low bytes and 64 of names.
#pragma once

#include <cmath>

#include "linear_inputs.h"

namespace pagoda::linear {

struct OddWeight {
    int32_t input;  // in this order; behind the last one INT32_MAX
    uint16_t output, bits;  // within the panel
};

constexpr int bf12_inputs = 8, bf12_bytes = bf12_inputs * int(input_bytes(Weight::bf12)), bf12_table = 64;

// Room for one number in 500; weights of a normal distribution need a tenth of it.
constexpr int64_t odd_capacity(int64_t depth) { return depth * panel_width / 512 / 8 * 8 + 7; }
constexpr int64_t bf12_head(int64_t depth) { return bf12_table + (odd_capacity(depth) + 1) * int64_t(sizeof(OddWeight)); }

// Two inputs' bytes are 32, where AVX2's interleaving wants them; names of the next two lie in their high halves.
constexpr int low_byte_at(int input, int output) {
    return input / 2 * 32 + output % 8 / 4 * 16 + (input % 2 * 2 + output / 8) * 4 + output % 4;
}
constexpr int name_at(int input, int output) { return 128 + low_byte_at(input % 2, output) + input / 4 * 32; }
constexpr int name_shift(int input) { return input % 4 / 2 * 4; }

struct Bf12Panel {
    Bf12Panel(const Packed& packed, int64_t index) : start(packed.panel(index)), head(bf12_head(packed.depth)) {}

    char* start;
    int64_t head;

    uint8_t* table() const { return reinterpret_cast<uint8_t*>(start); }  // [16], twice; the least number first
    OddWeight* odd() const { return reinterpret_cast<OddWeight*>(start + bf12_table); }
    char* inputs(int64_t input) const { return start + head + input / bf12_inputs * bf12_bytes; }
    bf16 least() const { return {uint16_t(table()[0] << 8)}; }

    bf16 number(int64_t input, int output) const {
        const auto* from = reinterpret_cast<const uint8_t*>(inputs(input));
        const int i = int(input % bf12_inputs), name = from[name_at(i, output)] >> name_shift(i) & 15;
        return {uint16_t(table()[name] << 8 | from[low_byte_at(i, output)])};
    }
};

// sums [rows][stride], of one panel, += what its odd weights lack, for rows that are interleaved by Most.
template <int Most>
void add_odd(const Packed& packed, int64_t panel, const Inputs& x, int64_t row, int rows, float* sums, int stride) {
    const Bf12Panel from(packed, panel);
    const float least = to_float(from.least());
    for (const OddWeight* odd = from.odd(); odd->input < packed.depth; ++odd) {
        const float lacks = to_float(bf16{odd->bits}) - least;
        for (int first = 0; first < rows; first += Most) {
            const int now = std::min(Most, rows - first);
            const float* numbers = x.row<float>(row + first) + odd->input * now;
            for (int r = 0; r < now; ++r) {
                float& sum = sums[(first + r) * stride + odd->output];
                sum = std::fma(numbers[r], lacks, sum);
            }
        }
    }
}

}  // namespace pagoda::linear
