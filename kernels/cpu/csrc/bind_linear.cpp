// Linear layers as Python sees them.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <map>
#include <optional>
#include <string>

#include "arrays.h"
#include "linear.h"
#include "module.h"
#include "pool.h"

namespace pagoda::linear {
namespace {

namespace nb = nanobind;

template <class T>
T named(const std::map<std::string, T>& known, const std::string& name, const char* what) {
    const auto found = known.find(name);
    if (found == known.end()) throw std::invalid_argument(std::string("unknown ") + what + " '" + name + "'");
    return found->second;
}

Weight weight_of(const std::string& name) {
    static const std::map<std::string, Weight> known = {{"float32", Weight::f32}, {"bfloat16", Weight::bf16},
        {"float16", Weight::fp16}, {"int8", Weight::int8}, {"int4", Weight::int4}};
    return named(known, name, "weight format");
}

Activation activation_of(const std::string& name) {
    static const std::map<std::string, Activation> known = {{"none", Activation::none}, {"silu", Activation::silu},
        {"gelu", Activation::gelu}, {"gelu_tanh", Activation::gelu_tanh}, {"relu", Activation::relu}};
    return named(known, name, "activation");
}

void keep_bias(Packed& packed, const Array& bias) {
    require(kind(bias) == Kind::f32 && bias.ndim() == 1 && int64_t(bias.shape(0)) == packed.outputs && contiguous(bias),
            "bias must be float32 [outputs]");
    packed.bias.assign(size_t(packed.panels) * panel_width, 0.0f);
    for (int64_t i = 0; i < packed.panels; ++i)
        for (int n = 0; n < panel_width; ++n)
            if (const int64_t output = packed.output(i, n); output >= 0)
                packed.bias[size_t(i * panel_width + n)] = data<const float>(bias)[output];
}

// One matrix, packed for this level; products with it are called every layer of every step.
class Matrix {
public:
    Matrix(const Array& weight, const std::string& format, bool gated, const std::string& activation,
           const std::optional<Array>& bias)
        : packed_(weight_of(format), rows_of(weight), int64_t(weight.shape(1)), gated), activation_(activation_of(activation)) {
        require(!gated || packed_.outputs % 2 == 0, "a gated weight has an even number of rows");
        require(weight.shape(1) <= 1 || weight.stride(1) == 1, "a row of the weight must be dense");
        if (bias) keep_bias(packed_, *bias);
        const Weight source = kind(weight) == Kind::f32 ? Weight::f32 : kind(weight) == Kind::bf16 ? Weight::bf16 : Weight::fp16;
        const void* from = weight.data();
        const int64_t stride = weight.stride(0);
        nb::gil_scoped_release release;
        pack(packed_, from, stride, source);
    }

    void multiply(const Array& x, const Array& out) const {
        check(x, packed_.inputs, "x");
        check(out, packed_.width(), "out");
        require(x.shape(0) == out.shape(0) && kind(x) == kind(out), "x and out differ in rows or dtype");
        with_float(kind(x), "x", [&](auto type) {
            using T = decltype(type);
            const T* from = data<const T>(x);
            T* to = data<T>(out);
            const int64_t rows = int64_t(x.shape(0));
            nb::gil_scoped_release release;
            product(packed_, from, rows, to, activation_);
        });
    }

    void take_rows(const Array& ids, const Array& out) const {
        check(out, packed_.inputs, "out");
        require(kind(ids) == Kind::int64 && ids.ndim() == 1 && contiguous(ids) && ids.shape(0) == out.shape(0),
                "ids must be int64 [rows of out]");
        require(!packed_.gated, "rows of a gated weight are not to be had");
        const int64_t count = int64_t(ids.shape(0)), *from = data<const int64_t>(ids);
        for (int64_t i = 0; i < count; ++i) require(from[i] >= 0 && from[i] < packed_.outputs, "an id is out of range");
        with_float(kind(out), "out", [&](auto type) {
            auto* to = data<decltype(type)>(out);
            nb::gil_scoped_release release;
            parallel_each(count, 8, [&](int64_t i, int) { unpack_row(packed_, from[i], to + i * packed_.inputs); });
        });
    }

    size_t num_bytes() const { return size_t(packed_.panels) * packed_.panel_bytes + packed_.bias.size() * sizeof(float); }
    int64_t width() const { return packed_.width(); }
    int64_t inputs() const { return packed_.inputs; }

private:
    static int64_t rows_of(const Array& weight) {
        const Kind found = kind(weight);
        require(found == Kind::f32 || found == Kind::bf16 || found == Kind::fp16, "weight must be float32, bfloat16 or float16");
        require(weight.ndim() == 2 && weight.shape(0) > 0 && weight.shape(1) > 0, "weight must be [outputs, inputs]");
        return int64_t(weight.shape(0));
    }

    static void check(const Array& array, int64_t columns, const char* name) {
        if (array.ndim() != 2 || int64_t(array.shape(1)) != columns || !contiguous(array))
            throw std::invalid_argument(std::string(name) + " must be dense [rows, " + std::to_string(columns) + "]");
    }

    Packed packed_;
    Activation activation_;
};

Binding bind_linear([](nb::module_& m) {
    nb::class_<Matrix>(m, "Matrix", "A weight [outputs, inputs], packed; float32 inside whatever the rows' dtype.")
        .def(nb::init<const Array&, const std::string&, bool, const std::string&, const std::optional<Array>&>(),
             nb::arg("weight"), nb::arg("format"), nb::arg("gated") = false, nb::arg("activation") = "none",
             nb::arg("bias") = nb::none(),
             "format: float32, bfloat16, float16, int8 (a scale for each output) or int4 (128 inputs); gated: "
             "activation(first half of the outputs) * second half.")
        .def("multiply", &Matrix::multiply, nb::arg("x"), nb::arg("out"),
             "out [N, width] = x [N, inputs] W^T + bias; both float32, bfloat16 or float16, dense.")
        .def("take_rows", &Matrix::take_rows, nb::arg("ids"), nb::arg("out"), "out [N, inputs] = W[ids], ids int64.")
        .def_prop_ro("num_bytes", &Matrix::num_bytes)
        .def_prop_ro("width", &Matrix::width)
        .def_prop_ro("inputs", &Matrix::inputs);
});

}  // namespace
}  // namespace pagoda::linear
