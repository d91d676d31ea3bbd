// Loops whose counter is a constant to the compiler.  Arrays that are indexed by nothing else stay in
// registers; with a pragma's unrolling, which comes later, GCC leaves many of them in memory.
#pragma once

#include <type_traits>
#include <utility>

#define PAGODA_INLINE __attribute__((always_inline))

namespace pagoda {

template <class F, int... I>
PAGODA_INLINE inline void call_each(std::integer_sequence<int, I...>, const F& f) {
    (f(std::integral_constant<int, I>{}), ...);
}

// f(0), f(1) ... f(N - 1); a lambda is to be marked PAGODA_INLINE.
template <int N, class F>
PAGODA_INLINE inline void unrolled(const F& f) {
    call_each(std::make_integer_sequence<int, N>{}, f);
}

}  // namespace pagoda
