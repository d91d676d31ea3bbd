// A weight matrix laid out for products with few rows: read once, front to back, by every product.
// Outputs lie in panels of 16; within a panel numbers follow each other by input, the inputs that one
// instruction multiplies at once side by side.  The layout is the level's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory.h"
#include "numbers.h"

namespace pagoda::linear {

// bf12: bf16 in 12 bits each, the same numbers (linear_bf12.h).
enum class Weight { f32, bf16, fp16, int8, int4, bf12 };

// What the rows of a product are turned into first.
enum class Activation { none, silu, gelu, gelu_tanh, relu };

constexpr int panel_width = 16;
constexpr int unit_panels = 4;  // what one thread works on at a time

// Inputs that share a scale: of the rows, and of 4-bit weights.
constexpr int64_t group_int8 = 512, group_int4 = 128;

#if defined(PAGODA_AVX512) || defined(PAGODA_AMX)
constexpr int bf16_step = 2, int8_step = 4, int8_zero = 128;
#else
constexpr int bf16_step = 1, int8_step = 2, int8_zero = 0;
#endif
constexpr int int4_zero = 8;
#if defined(PAGODA_AVX2)
constexpr bool has_bf12 = true;  // other levels are not measured yet
#else
constexpr bool has_bf12 = false;
#endif

struct Packed {
    Packed(Weight weight, int64_t outputs, int64_t inputs);

    Weight weight;
    int64_t outputs, inputs;
    int64_t depth;  // inputs, with zeros up to what the instructions take
    int64_t panels;
    size_t scales_at, panel_bytes;
    Memory memory;

    char* panel(int64_t i) const { return memory.data() + size_t(i) * panel_bytes; }

    // [16] float for int8.
    const float* channel_scales(int64_t i) const {
        return reinterpret_cast<const float*>(panel(i) + scales_at);
    }
    // [groups][16] for int4.
    const bf16* group_scales(int64_t i) const {
        return reinterpret_cast<const bf16*>(panel(i) + scales_at);
    }
};

// Bytes that a panel's outputs take for one input.
constexpr int64_t input_bytes(Weight weight) {
    switch (weight) {
        case Weight::f32: return panel_width * 4;
        case Weight::bf16:
        case Weight::fp16: return panel_width * 2;
        case Weight::int8: return panel_width;
        case Weight::bf12: return panel_width * 3 / 2;
        default: return panel_width / 2;
    }
}

// Bytes (int4: half bytes) into a panel of one weight.
inline int64_t place_of(int step, int64_t input, int output) {
    return (input / step * panel_width + output) * step + input % step;
}

// int4: eight inputs of 16 outputs are 64 bytes, the first four in the low halves.
inline int64_t byte_of_int4(int64_t input, int output) {
    return input / 8 * 64 + output * 4 + input % 4;
}

// Some outputs' numbers as a checkpoint has them: [count, inputs], in a plain format.
struct Rows {
    const void* numbers;
    int64_t count, stride;
    Weight format;
};

// The parts lie one behind the other along the outputs.  bf16 becomes bf12 where that is faster and holds the numbers.
std::unique_ptr<const Packed> pack(Weight weight, int64_t outputs, int64_t inputs, const std::vector<Rows>& parts);

// One row of the matrix as it was packed, to [inputs] numbers.
template <class T>
void unpack_row(const Packed& from, int64_t output, T* to);

// What becomes of a product.
template <class T>
struct After {
    const T* bias = nullptr;  // [outputs]
    Activation activation = Activation::none;
    bool gated = false;  // the first half of the outputs, activated, times the second
};

// A gate's halves must be whole panels.
inline bool can_gate(const Packed& weight) { return weight.outputs % (2 * panel_width) == 0; }

// out [rows, outputs, or half of them when gated] from x [rows, inputs].
template <class T>
void product(const Packed& weight, const T* x, int64_t rows, T* out, const After<T>& after);

}  // namespace pagoda::linear
