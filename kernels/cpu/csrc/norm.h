// Root-mean-square norms of rows, alone or after a sum.
#pragma once

#include <cmath>

#include "pool.h"
#include "vec.h"

namespace pagoda {

constexpr int64_t rows_for_threads = 32;

// out = x / rms(x) * weight, summed in one order whatever the rows; x may be out.
template <class T>
void norm_row(const T* x, const T* weight, T* out, int64_t size, float epsilon) {
    Vec squares = Vec::zero();
    int64_t i = 0;
    for (; i + Vec::W <= size; i += Vec::W) {
        const Vec v = Vec::load(x + i);
        squares = fma(v, v, squares);
    }
    float total = sum(squares);
    for (; i < size; ++i) total += to_float(x[i]) * to_float(x[i]);
    const float scale = 1 / std::sqrt(total / float(size) + epsilon);
    const Vec scales = Vec::all(scale);
    for (i = 0; i + Vec::W <= size; i += Vec::W) (Vec::load(x + i) * scales * Vec::load(weight + i)).store(out + i);
    for (; i < size; ++i) from_float(to_float(x[i]) * scale * to_float(weight[i]), out[i]);
}

template <class T>
void add_row(const T* x, T* residual, int64_t size) {
    int64_t i = 0;
    for (; i + Vec::W <= size; i += Vec::W) (Vec::load(residual + i) + Vec::load(x + i)).store(residual + i);
    for (; i < size; ++i) from_float(to_float(residual[i]) + to_float(x[i]), residual[i]);
}

// out = norm(x + residual), the sum written over residual; residual null: norm(x).
template <class T>
void norm_rows(const T* x, T* residual, const T* weight, T* out, int64_t rows, int64_t size, float epsilon) {
    const auto row = [&](int64_t i) {
        if (residual != nullptr) add_row(x + i * size, residual + i * size, size);
        norm_row((residual != nullptr ? residual : x) + i * size, weight, out + i * size, size, epsilon);
    };
    if (rows < rows_for_threads) {
        for (int64_t i = 0; i < rows; ++i) row(i);
    } else {
        parallel_ranges(rows, 1, [&](int64_t begin, int64_t end, int) {
            for (int64_t i = begin; i < end; ++i) row(i);
        });
    }
}

}  // namespace pagoda
