// Norms as Python sees them.
#include "norm.h"

#include <nanobind/stl/optional.h>

#include <optional>
#include <string>

#include "arrays.h"
#include "module.h"

namespace pagoda {
namespace {

namespace nb = nanobind;

void check(const Array& x, const Array& like, const char* name) {
    if (x.ndim() != 2 || !contiguous(x) || kind(x) != kind(like) || x.shape(0) != like.shape(0) || x.shape(1) != like.shape(1))
        throw std::invalid_argument(std::string(name) + " must be dense [rows, size], like out");
}

void run(const Array& x, const std::optional<Array>& residual, const Array& weight, double epsilon, const Array& out) {
    check(x, out, "x");
    check(out, out, "out");
    if (residual) check(*residual, out, "residual");
    require(weight.ndim() == 1 && weight.shape(0) == out.shape(1) && contiguous(weight) && kind(weight) == kind(out),
            "weight must be [size], of out's dtype");
    const int64_t rows = int64_t(out.shape(0)), size = int64_t(out.shape(1));
    with_float(kind(out), "out", [&](auto type) {
        using T = decltype(type);
        const T *from = data<const T>(x), *scales = data<const T>(weight);
        T *sums = residual ? data<T>(*residual) : nullptr, *to = data<T>(out);
        nb::gil_scoped_release release;
        norm_rows(from, sums, scales, to, rows, size, float(epsilon));
    });
}

Binding bind_norm([](nb::module_& m) {
    m.def("rms_norm", &run, nb::arg("x"), nb::arg("residual").none(), nb::arg("weight"), nb::arg("epsilon"), nb::arg("out"),
          "out [N, size] = s / rms(s) * weight, where s = x + residual is written over residual, or x without one.");
});

}  // namespace
}  // namespace pagoda
