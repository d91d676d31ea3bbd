// What this CPU and its operating system allow, found out without any of it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <string>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace nb = nanobind;

namespace {

#if defined(__x86_64__)

struct Leaf {
    unsigned a = 0, b = 0, c = 0, d = 0;
    Leaf(unsigned leaf, unsigned sub) { __get_cpuid_count(leaf, sub, &a, &b, &c, &d); }
};

bool bits(uint64_t value, uint64_t wanted) { return (value & wanted) == wanted; }

uint64_t saved_state() {  // XCR0: the registers that the system saves for us
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}

bool may_use_tiles() {
#if defined(__linux__)
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

// The best level, and what the next one lacks.
std::pair<std::string, std::string> best_level() {
    const Leaf one(1, 0), seven(7, 0), seven_one(7, 1);
    const bool xsave = bits(one.c, 1u << 27);
    const uint64_t saved = xsave ? saved_state() : 0;
    const bool avx2 = bits(one.c, 1u << 12 | 1u << 28 | 1u << 29) && bits(seven.b, 1u << 5);
    if (!avx2) return {"portable", "the CPU has no AVX2 with FMA and F16C"};
    if (!bits(saved, 0x6)) return {"portable", "the system does not save AVX registers"};
    const bool avx512 = bits(seven.b, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) &&
                        bits(seven.c, 1u << 11) && bits(seven_one.a, 1u << 5);
    if (!avx512) return {"avx2", "the CPU has no AVX-512 with BF16 and VNNI"};
    if (!bits(saved, 0xe6)) return {"avx2", "the system does not save AVX-512 registers"};
    if (!bits(seven.d, 1u << 22 | 1u << 24 | 1u << 25)) return {"avx512", "the CPU has no AMX"};
    if (!bits(saved, 0x60000)) return {"avx512", "the system does not save AMX tiles"};
    if (!may_use_tiles()) return {"avx512", "the system refuses AMX tiles to this process"};
    return {"amx", ""};
}

#else

std::pair<std::string, std::string> best_level() {
    return {"portable", "there are no other kernels for this kind of CPU"};
}

#endif

}  // namespace

NB_MODULE(_cpuid, m) { m.def("best_level", &best_level); }
