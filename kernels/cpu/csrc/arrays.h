// What bindings take: arrays in CPU memory by DLPack (NumPy, torch), checked and turned to pointers.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "numbers.h"

namespace pagoda {

using Array = nanobind::ndarray<nanobind::device::cpu>;

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
