// Linear layers as Python sees them.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "linear.h"
#include "module.h"
#include "norm.h"
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

// One matrix, packed for this level; products with it are called every layer of every step.
class Matrix {
public:
    Matrix(const std::vector<Array>& parts, const std::string& format) {
        const int64_t outputs = total_outputs(parts);
        const Weight weight = weight_of(format);
        std::vector<Rows> rows;
        for (const Array& part : parts) {
            const Weight source = kind(part) == Kind::f32 ? Weight::f32 : kind(part) == Kind::bf16 ? Weight::bf16 : Weight::fp16;
            rows.push_back({part.data(), int64_t(part.shape(0)), part.stride(0), source});
        }
        nb::gil_scoped_release release;
        packed_ = pack(weight, outputs, int64_t(parts[0].shape(1)), rows);
    }

    void multiply(const Array& x, const Array& out, const std::optional<Array>& bias, const std::string& activation,
                  bool gated) const {
        check_product(x, out, bias, gated);
        with_float(kind(x), "x", [&](auto type) {
            using T = decltype(type);
            const After<T> after{bias ? data<const T>(*bias) : nullptr, activation_of(activation), gated};
            const T* from = data<const T>(x);
            T* to = data<T>(out);
            const int64_t rows = int64_t(x.shape(0));
            nb::gil_scoped_release release;
            product(*packed_, from, rows, to, after);
        });
    }

    void multiply_normed(const Array& x, const std::optional<Array>& residual, const Array& gain, double epsilon,
                         const Array& out, const std::optional<Array>& bias, const std::string& activation, bool gated) const {
        check_product(x, out, bias, gated);
        if (residual) check(*residual, packed_->inputs, "residual");
        require(!residual || (residual->shape(0) == x.shape(0) && kind(*residual) == kind(x)), "residual must be like x");
        require(gain.ndim() == 1 && int64_t(gain.shape(0)) == packed_->inputs && contiguous(gain) && kind(gain) == kind(x),
                "gain must be [inputs], of x's dtype");
        with_float(kind(x), "x", [&](auto type) {
            using T = decltype(type);
            const After<T> after{bias ? data<const T>(*bias) : nullptr, activation_of(activation), gated};
            const T *from = data<const T>(x), *scales = data<const T>(gain);
            T *sums = residual ? data<T>(*residual) : nullptr, *to = data<T>(out);
            const int64_t rows = int64_t(x.shape(0)), size = packed_->inputs;
            nb::gil_scoped_release release;
            T* normed = static_cast<T*>(scratch(slot_normed, size_t(rows * size) * sizeof(T)));
            norm_rows(from, sums, scales, normed, rows, size, float(epsilon));
            product(*packed_, normed, rows, to, after);
        });
    }

    void take_rows(const Array& ids, const Array& out) const {
        check(out, packed_->inputs, "out");
        require(kind(ids) == Kind::int64 && ids.ndim() == 1 && contiguous(ids) && ids.shape(0) == out.shape(0),
                "ids must be int64 [rows of out]");
        const int64_t count = int64_t(ids.shape(0)), *from = data<const int64_t>(ids);
        for (int64_t i = 0; i < count; ++i) require(from[i] >= 0 && from[i] < packed_->outputs, "an id is out of range");
        with_float(kind(out), "out", [&](auto type) {
            auto* to = data<decltype(type)>(out);
            nb::gil_scoped_release release;
            parallel_each(count, 8, [&](int64_t i, int) { unpack_row(*packed_, from[i], to + i * packed_->inputs); });
        });
    }

    size_t num_bytes() const { return size_t(packed_->panels) * packed_->panel_bytes; }
    int64_t outputs() const { return packed_->outputs; }
    int64_t inputs() const { return packed_->inputs; }
    bool gates() const { return can_gate(*packed_); }

private:
    static int64_t total_outputs(const std::vector<Array>& parts) {
        require(!parts.empty(), "a weight has at least one part");
        int64_t outputs = 0;
        for (const Array& part : parts) {
            const Kind found = kind(part);
            require(found == Kind::f32 || found == Kind::bf16 || found == Kind::fp16, "weight must be float32, bfloat16 or float16");
            require(part.ndim() == 2 && part.shape(0) > 0 && part.shape(1) > 0, "weight must be [outputs, inputs]");
            require(part.shape(1) == parts[0].shape(1), "parts of a weight must have the same inputs");
            require(part.shape(1) == 1 || part.stride(1) == 1, "a row of the weight must be dense");
            outputs += int64_t(part.shape(0));
        }
        return outputs;
    }

    void check_product(const Array& x, const Array& out, const std::optional<Array>& bias, bool gated) const {
        check(x, packed_->inputs, "x");
        check(out, gated ? packed_->outputs / 2 : packed_->outputs, "out");
        require(x.shape(0) == out.shape(0) && kind(x) == kind(out), "x and out differ in rows or dtype");
        require(!gated || can_gate(*packed_), "the halves of a gated weight must be multiples of 16");
        require(!bias || (bias->ndim() == 1 && int64_t(bias->shape(0)) == packed_->outputs && contiguous(*bias) && kind(*bias) == kind(x)),
                "bias must be [outputs], of x's dtype");
    }

    static void check(const Array& array, int64_t columns, const char* name) {
        if (array.ndim() != 2 || int64_t(array.shape(1)) != columns || !contiguous(array))
            throw std::invalid_argument(std::string(name) + " must be dense [rows, " + std::to_string(columns) + "]");
    }

    static constexpr int slot_normed = 3;  // free between calls of attention

    std::unique_ptr<const Packed> packed_;
};

Binding bind_linear([](nb::module_& m) {
    nb::class_<Matrix>(m, "Matrix", "A weight [outputs, inputs], packed; float32 inside whatever the rows' dtype.")
        .def(nb::init<const std::vector<Array>&, const std::string&>(), nb::arg("parts"), nb::arg("format"),
             "parts: stacked along the outputs.  format: float32, bfloat16, float16, int8 (a scale for each output) or int4 (one for 128 inputs).")
        .def("multiply", &Matrix::multiply, nb::arg("x"), nb::arg("out"), nb::arg("bias") = nb::none(),
             nb::arg("activation") = "none", nb::arg("gated") = false,
             "out = activation(x [N, inputs] W^T + bias), all dense and of one dtype; gated: the first half of the outputs, "
             "activated, times the second.")
        .def("multiply_normed", &Matrix::multiply_normed, nb::arg("x"), nb::arg("residual").none(), nb::arg("gain"),
             nb::arg("epsilon"), nb::arg("out"), nb::arg("bias") = nb::none(), nb::arg("activation") = "none",
             nb::arg("gated") = false, "The same of rms_norm(x, residual, gain, epsilon).")
        .def("take_rows", &Matrix::take_rows, nb::arg("ids"), nb::arg("out"), "out [N, inputs] = W[ids], ids int64.")
        .def_prop_ro("can_gate", &Matrix::gates)
        .def_prop_ro("num_bytes", &Matrix::num_bytes)
        .def_prop_ro("outputs", &Matrix::outputs)
        .def_prop_ro("inputs", &Matrix::inputs);
    m.attr("bfloat16_bytes") = has_bf12 ? 1.54 : 2.0;  // of a packed weight; those that 12 bits cannot tell, counted in
});

}  // namespace
}  // namespace pagoda::linear
