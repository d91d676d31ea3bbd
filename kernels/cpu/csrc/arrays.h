// What bindings take: arrays in CPU memory by DLPack (NumPy, torch), checked and turned to pointers.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "numbers.h"

namespace pagoda {

// An argument.  Torch offers a C call that says where a tensor lies (DLPack's exchange API): a tenth of
// a microsecond, where asking through Python costs several, some 500 times a step.
class Array {
public:
    size_t ndim() const { return size_t(tensor_.ndim); }
    size_t shape(size_t i) const { return size_t(tensor_.shape[i]); }
    int64_t stride(size_t i) const { return tensor_.strides[i]; }
    size_t size() const {
        size_t product = 1;
        for (size_t i = 0; i < ndim(); ++i) product *= shape(i);
        return product;
    }
    void* data() const { return static_cast<char*>(tensor_.data) + tensor_.byte_offset; }
    nanobind::dlpack::dtype dtype() const { return tensor_.dtype; }

    // False: not an array, or not in CPU memory.  What it borrows lives as long as the argument.
    bool take(nanobind::handle from, uint8_t flags, nanobind::detail::cleanup_list* cleanup) noexcept {
        if (const Exchange* exchange = exchange_of(from)) {
            if (exchange->tensor_from_object(from.ptr(), &tensor_) == 0) return tensor_.device.device_type == cpu::value;
            PyErr_Clear();
            return false;
        }
        nanobind::detail::make_caster<Slow> caster;
        if (!caster.from_python(from, flags, cleanup)) return false;
        slow_ = caster.value;
        tensor_ = {slow_.data(), {slow_.device_type(), slow_.device_id()}, int32_t(slow_.ndim()), slow_.dtype(),
                   const_cast<int64_t*>(slow_.shape_ptr()), const_cast<int64_t*>(slow_.stride_ptr()), 0};
        return true;
    }

private:
    using cpu = nanobind::device::cpu;
    using Slow = nanobind::ndarray<cpu>;

    struct Exchange {  // version 1
        uint32_t major, minor;
        const Exchange* previous;
        void *allocate, *managed_from_object, *managed_to_object;
        int (*tensor_from_object)(void* object, nanobind::dlpack::dltensor* out);
        void* stream;
    };

    // The call lock is held here, so one remembered type is safe.
    static const Exchange* exchange_of(nanobind::handle from) noexcept {
        static PyObject* known = nullptr;
        static const Exchange* its = nullptr;
        PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(from.ptr()));
        if (type == known) return its;
        PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
        const void* found = capsule != nullptr ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : nullptr;
        Py_XDECREF(capsule);  // the type keeps it
        PyErr_Clear();
        const auto* exchange = static_cast<const Exchange*>(found);
        if (exchange == nullptr || exchange->major != 1 || exchange->tensor_from_object == nullptr) return nullptr;
        Py_INCREF(type);
        known = type;
        return its = exchange;
    }

    nanobind::dlpack::dltensor tensor_{};
    Slow slow_;
};

enum class Kind { f32, bf16, fp16, int8, uint8, int32, int64, other };

inline Kind kind(const Array& array) {
    using Code = nanobind::dlpack::dtype_code;
    const auto type = array.dtype();
    const auto is = [&](Code code, int bits) { return type.code == uint8_t(code) && type.bits == bits; };
    if (type.lanes != 1) return Kind::other;
    if (is(Code::Float, 32)) return Kind::f32;
    if (is(Code::Bfloat, 16)) return Kind::bf16;
    if (is(Code::Float, 16)) return Kind::fp16;
    if (is(Code::Int, 8)) return Kind::int8;
    if (is(Code::UInt, 8)) return Kind::uint8;
    if (is(Code::Int, 32)) return Kind::int32;
    if (is(Code::Int, 64)) return Kind::int64;
    return Kind::other;
}

// ValueError, as Python sees it.
inline void require(bool good, const char* what) {
    if (!good) throw std::invalid_argument(what);
}

inline bool contiguous(const Array& array) {
    int64_t expected = 1;
    for (size_t i = array.ndim(); i-- > 0;) {
        if (array.shape(i) != 1 && array.stride(i) != expected) return false;
        expected *= int64_t(array.shape(i));
    }
    return true;
}

template <class T>
T* data(const Array& array) {
    return static_cast<T*>(array.data());
}

// f(T{}) for the float type of an array; ValueError for another.
template <class F>
void with_float(Kind kind, const char* what, const F& f) {
    switch (kind) {
        case Kind::f32: return f(float{});
        case Kind::bf16: return f(bf16{});
        case Kind::fp16: return f(fp16{});
        default: throw std::invalid_argument(std::string(what) + " must be float32, bfloat16 or float16");
    }
}

}  // namespace pagoda

namespace nanobind::detail {

template <>
struct type_caster<pagoda::Array> {
    NB_TYPE_CASTER(pagoda::Array, const_name("array"))
    bool from_python(handle from, uint8_t flags, cleanup_list* cleanup) noexcept { return value.take(from, flags, cleanup); }
};

}  // namespace nanobind::detail
