// Root-mean-square norms of rows, alone or after a sum.
#include <cmath>

#include "arrays.h"
#include "module.h"
#include "pool.h"
#include "vec.h"

namespace pagoda {
namespace {

namespace nb = nanobind;

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

void check(const Array& x, const Array& like, const char* name) {
    if (x.ndim() != 2 || !contiguous(x) || kind(x) != kind(like) || x.shape(0) != like.shape(0) || x.shape(1) != like.shape(1))
        throw std::invalid_argument(std::string(name) + " must be dense [rows, size], like out");
}

void run(const Array& x, Array* residual, const Array& weight, double epsilon, const Array& out) {
    check(x, out, "x");
    check(out, out, "out");
    if (residual != nullptr) check(*residual, out, "residual");
    require(weight.ndim() == 1 && weight.shape(0) == out.shape(1) && contiguous(weight) && kind(weight) == kind(out),
            "weight must be [size], of out's dtype");
    const int64_t rows = int64_t(out.shape(0)), size = int64_t(out.shape(1));
    with_float(kind(out), "out", [&](auto type) {
        using T = decltype(type);
        const T *from = data<const T>(x), *scales = data<const T>(weight);
        T *sums = residual != nullptr ? data<T>(*residual) : nullptr, *to = data<T>(out);
        const auto row = [&](int64_t i) {
            if (sums != nullptr) add_row(from + i * size, sums + i * size, size);
            norm_row((sums != nullptr ? sums : from) + i * size, scales, to + i * size, size, float(epsilon));
        };
        nb::gil_scoped_release release;
        if (rows < rows_for_threads) {
            for (int64_t i = 0; i < rows; ++i) row(i);
        } else {
            parallel_ranges(rows, 1, [&](int64_t begin, int64_t end, int) {
                for (int64_t i = begin; i < end; ++i) row(i);
            });
        }
    });
}

Binding bind_norm([](nb::module_& m) {
    m.def("rms_norm", [](const Array& x, const Array& weight, double epsilon, const Array& out) { run(x, nullptr, weight, epsilon, out); },
          nb::arg("x"), nb::arg("weight"), nb::arg("epsilon"), nb::arg("out"), "out [N, size] = x / rms(x) * weight.");
    m.def("add_rms_norm", [](const Array& x, Array residual, const Array& weight, double epsilon, const Array& out) { run(x, &residual, weight, epsilon, out); },
          nb::arg("x"), nb::arg("residual"), nb::arg("weight"), nb::arg("epsilon"), nb::arg("out"),
          "residual += x, then out [N, size] = residual / rms(residual) * weight.");
});

}  // namespace
}  // namespace pagoda
