// C = alpha * C + A B in float32, a block of C in registers: the only product of the vector levels.
#pragma once

#include "vec.h"

namespace pagoda {

// Rows of C whose sums fit the registers, with two vectors of columns (four on AVX-512).
constexpr int product_rows = 6;

struct Operands {
    const float *a, *b;
    float* c;
    int64_t a_stride, b_stride, c_stride;
    const float* alpha;  // [rows] what C is multiplied by first; null: C is written, not added to
};

template <int Rows, int Vecs>
inline void product_block(const Operands& o, int depth) {
    constexpr int W = Vec::W;
    Vec sums[Rows][Vecs];
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
        for (int v = 0; v < Vecs; ++v) {
            if (o.alpha == nullptr) sums[r][v] = Vec::zero();
            else sums[r][v] = Vec::all(o.alpha[r]) * Vec::load(o.c + r * o.c_stride + v * W);
        }
    }
    const float* b = o.b;
    for (int k = 0; k < depth; ++k, b += o.b_stride) {
        Vec columns[Vecs];
#pragma GCC unroll 32
        for (int v = 0; v < Vecs; ++v) columns[v] = Vec::load(b + v * W);
#pragma GCC unroll 32
        for (int r = 0; r < Rows; ++r) {
            const Vec row = Vec::all(o.a[r * o.a_stride + k]);
#pragma GCC unroll 32
            for (int v = 0; v < Vecs; ++v) sums[r][v] = fma(row, columns[v], sums[r][v]);
        }
    }
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 32
        for (int v = 0; v < Vecs; ++v) sums[r][v].store(o.c + r * o.c_stride + v * W);
}

template <int Vecs>
inline void product_panel(Operands o, int rows, int depth) {
    // Blocks of like size: 7 rows are 4 and 3, not 6 and 1.
    for (int blocks = (rows + product_rows - 1) / product_rows; blocks > 0; --blocks) {
        const int now = rows / blocks;
        switch (now) {
            case 1: product_block<1, Vecs>(o, depth); break;
            case 2: product_block<2, Vecs>(o, depth); break;
            case 3: product_block<3, Vecs>(o, depth); break;
            case 4: product_block<4, Vecs>(o, depth); break;
            case 5: product_block<5, Vecs>(o, depth); break;
            default: product_block<6, Vecs>(o, depth); break;
        }
        o.a += now * o.a_stride;
        o.c += now * o.c_stride;
        if (o.alpha != nullptr) o.alpha += now;
        rows -= now;
    }
}

// `columns` is a multiple of Vec::W; o describes all of A [rows, depth], B [depth, columns], C.
inline void product(Operands o, int rows, int depth, int columns) {
    constexpr int wide = Vec::W == 16 ? 4 : 2;
    int vecs = columns / Vec::W;
    const auto next = [&](int done) {
        vecs -= done;
        o.b += done * Vec::W;
        o.c += done * Vec::W;
    };
    if (rows <= 2)
        for (; vecs >= 4; next(4)) product_panel<4>(o, rows, depth);
    for (; vecs >= wide; next(wide)) product_panel<wide>(o, rows, depth);
    for (; vecs > 0; next(1)) product_panel<1>(o, rows, depth);
}

}  // namespace pagoda
