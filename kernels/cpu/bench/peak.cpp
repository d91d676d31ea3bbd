// What this CPU can do at most, measured: fused multiply-adds, AMX tile products, plain reads.
//
//   c++ -O2 -std=c++17 -pthread peak.cpp -o peak && ./peak THREADS
//
// Prints one JSON object: GFLOP/s of float32 FMAs (AVX2, AVX-512) and of bf16 tiles, GB/s read.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

template <class F>
double seconds(int threads, const F& f) {
    double best = 1e9;
    for (int round = 0; round < 5; ++round) {
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::thread> all;
        for (int i = 0; i < threads; ++i) all.emplace_back([&, i] { f(i); });
        for (auto& one : all) one.join();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        best = took.count() < best ? took.count() : best;
    }
    return best;
}

constexpr long steps = 20000000;
volatile float sink;

__attribute__((target("avx2,fma"))) void fma8(int) {
    __m256 sums[10], x = _mm256_set1_ps(0.999f);
    for (auto& sum : sums) sum = x;
    for (long i = 0; i < steps; ++i)
#pragma GCC unroll 10
        for (auto& sum : sums) sum = _mm256_fmadd_ps(sum, x, x);
    for (auto& sum : sums) sink = _mm256_cvtss_f32(sum);
}

__attribute__((target("avx512f"))) void fma16(int) {
    __m512 sums[10], x = _mm512_set1_ps(0.999f);
    for (auto& sum : sums) sum = x;
    for (long i = 0; i < steps; ++i)
#pragma GCC unroll 10
        for (auto& sum : sums) sum = _mm512_fmadd_ps(sum, x, x);
    for (auto& sum : sums) sink = _mm512_cvtss_f32(sum);
}

void tiles(int) {
    struct alignas(64) {
        uint8_t palette = 1, rest[15] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    __asm__ volatile("ldtilecfg %0\ntilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n"
                     "tilezero %%tmm4\ntilezero %%tmm5\ntilezero %%tmm6\ntilezero %%tmm7" ::"m"(shape) : "memory");
    for (long i = 0; i < steps / 8; ++i)
        __asm__ volatile("tdpbf16ps %tmm6, %tmm4, %tmm0\ntdpbf16ps %tmm7, %tmm4, %tmm1\n"
                         "tdpbf16ps %tmm6, %tmm5, %tmm2\ntdpbf16ps %tmm7, %tmm5, %tmm3");
    __asm__ volatile("tilerelease");
}

__attribute__((target("avx2"))) void read_all(const char* memory, size_t bytes) {
    __m256i all = _mm256_setzero_si256();
    for (size_t i = 0; i < bytes; i += 128)
        for (size_t j = 0; j < 128; j += 32)
            all = _mm256_xor_si256(all, _mm256_load_si256(reinterpret_cast<const __m256i*>(memory + i + j)));
    sink = float(_mm256_extract_epi32(all, 0));
}

int main(int count, char** words) {
    const int threads = count > 1 ? std::atoi(words[1]) : 1;
    const double work = 20.0 * double(steps) * threads / 1e9;
    const bool wide = __builtin_cpu_supports("avx512f");
    const bool amx = wide && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    const size_t each = size_t(512) << 20;
    std::vector<char*> memory;
    for (int i = 0; i < threads; ++i) {
        memory.push_back(static_cast<char*>(std::aligned_alloc(4096, each)));
        for (size_t at = 0; at < each; at += 4096) memory.back()[at] = 1;
    }
    std::printf("{\"threads\": %d, \"fma_avx2\": %.1f", threads, work * 8 / seconds(threads, fma8));
    if (wide) std::printf(", \"fma_avx512\": %.1f", work * 16 / seconds(threads, fma16));
    if (amx) std::printf(", \"amx_bf16\": %.1f", double(steps / 8) * 4 * 16384 * threads / 1e9 / seconds(threads, tiles));
    std::printf(", \"read\": %.1f}\n", double(each) * threads / 1e9 / seconds(threads, [&](int i) { read_all(memory[i], each); }));
}
