// The rows of a product as the multiplying instructions take them: widened, or rounded to whole
// numbers with a scale for each group of inputs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "linear.h"
#include "pool.h"
#include "vec.h"

namespace pagoda::linear {

struct Inputs {
    const void* rows;
    int64_t stride;  // numbers from row to row
    const float* scales = nullptr;  // [rows][groups]
    const int32_t* sums = nullptr;  // [rows][groups] of whole numbers
    int64_t groups = 0;

    template <class T>
    const T* row(int64_t i) const {
        return static_cast<const T*>(rows) + i * stride;
    }
};

// All below fill scratch memory of the calling thread, which other threads may read.
constexpr int slot_rows = 5, slot_scales = 6, slot_work = 7, slot_expanded = 4;

template <class F>
void for_rows(int64_t rows, const F& f) {
    if (rows < 4) {
        for (int64_t i = 0; i < rows; ++i) f(i);
    } else {
        parallel_ranges(rows, 1, [&](int64_t begin, int64_t end, int) {
            for (int64_t i = begin; i < end; ++i) f(i);
        });
    }
}

// As type T with zeros behind the inputs; x itself where that is what it is.
template <class T, class X>
Inputs plain_inputs(const Packed& weight, const X* x, int64_t rows) {
    const int64_t count = weight.inputs, depth = weight.depth;
    if (std::is_same<T, X>::value && count == depth && (count % 1024 || rows < 8)) return {x, count};
    const int64_t stride = depth + (depth % 1024 ? 0 : 16);  // rows apart in the cache's sets
    T* to = static_cast<T*>(scratch(slot_rows, size_t(rows * stride) * sizeof(T)));
    for_rows(rows, [&](int64_t i) {
        int64_t k = 0;
        for (; k + Vec::W <= count; k += Vec::W) Vec::load(x + i * count + k).store(to + i * stride + k);
        for (; k < count; ++k) from_float(to_float(x[i * count + k]), to[i * stride + k]);
        for (; k < depth; ++k) from_float(0, to[i * stride + k]);
    });
    return {to, stride};
}

// As float32, the rows of a tile side by side: number k of the r-th of R rows at k * R + r.  The first
// Most rows are a tile, and so on; the last tile may have fewer.
template <int Most, class X>
Inputs interleaved_inputs(const Packed& weight, const X* x, int64_t rows) {
    const int64_t depth = weight.depth;
    float* to = static_cast<float*>(scratch(slot_rows, size_t(rows * depth) * sizeof(float)));
    for_rows((rows + Most - 1) / Most, [&](int64_t tile) {
        constexpr int64_t some = 64;  // numbers of each row, which stay in the nearest cache
        const int64_t first = tile * Most, count = std::min<int64_t>(Most, rows - first);
        float wide[Most][some], *next = to + first * depth;
        for (int64_t k = 0; k < depth; k += some) {
            const int64_t now = std::min(some, depth - k), real = std::clamp<int64_t>(weight.inputs - k, 0, now);
            for (int64_t r = 0; r < count; ++r) {
                copy_row(x + (first + r) * weight.inputs + k, wide[r], int(real), 1.0f);
                std::fill(wide[r] + real, wide[r] + now, 0.0f);  // behind the inputs
            }
            for (int64_t i = 0; i < now; ++i)
                for (int64_t r = 0; r < count; ++r) *next++ = wide[r][i];
        }
    });
    return {to, depth};
}

// Whole numbers up to `largest`, a scale for each `group` inputs.
template <class T, class X>
Inputs rounded_inputs(const Packed& weight, const X* x, int64_t rows, int64_t group, int largest) {
    const int64_t count = weight.inputs, stride = weight.depth;
    const int64_t groups = (stride + group - 1) / group;
    T* to = static_cast<T*>(scratch(slot_rows, size_t(rows * stride) * sizeof(T)));
    float* scales = static_cast<float*>(scratch(slot_scales, size_t(rows * groups) * 8));
    int32_t* sums = reinterpret_cast<int32_t*>(scales + rows * groups);
    for_rows(rows, [&](int64_t i) {
        float wide[512];
        static_assert(group_int8 <= 512 && group_int4 <= 512, "a group fits");
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t first = g * group, size = std::min(group, stride - first);
            const int64_t real = std::max<int64_t>(0, std::min(size, count - first));
            const X* from = x + i * count + first;
            Vec most = Vec::zero();
            int64_t k = 0;
            for (; k + Vec::W <= real; k += Vec::W) {
                const Vec v = Vec::load(from + k);
                v.store(wide + k);
                most = max(max(v, Vec::zero() - v), most);
            }
            float largest_found = ::pagoda::largest(most);
            for (; k < real; ++k) wide[k] = to_float(from[k]), largest_found = std::fmax(largest_found, std::fabs(wide[k]));
            for (; k < size; ++k) wide[k] = 0;
            const float scale = largest_found / float(largest), inverse = scale > 0 ? 1 / scale : 0;
            int32_t sum = 0;
            T* row = to + i * stride + first;
            for (int64_t j = 0; j < size; ++j) {
                // Adding 1.5 * 2^23 rounds to nearest and leaves the number in the low bits.
                const int32_t level = bit_cast<int32_t>(wide[j] * inverse + 12582912.0f) - 0x4b400000;
                row[j] = T(level);
                sum += level;
            }
            scales[i * groups + g] = scale;
            sums[i * groups + g] = sum;
        }
    });
    return {to, stride, scales, sums, groups};
}

}  // namespace pagoda::linear
