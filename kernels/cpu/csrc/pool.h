// The threads that all kernels share: the caller and num_threads - 1 workers, which spin for a
// moment after each job and then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pagoda {

int num_threads();
void set_num_threads(int count);  // at least 1; waits for a job in flight

// Calls job(context, i) once for each i below num_threads(), spread over the threads that are awake: one
// thread may make several calls, and any thread any of them.  Callers in several threads take turns.
// Must not be called from within a job, and a job must not throw.
using Job = void (*)(const void* context, int thread);
void run_on_all(Job job, const void* context);

// A buffer of this thread's, at least so many bytes, 64-byte aligned, overwritten by the thread's
// next call with the same slot.  Slots 0 to 7.
void* scratch(int slot, size_t bytes);

template <class F>
void on_all_threads(const F& f) {
    run_on_all([](const void* context, int thread) { (*static_cast<const F*>(context))(thread); }, &f);
}

// f(begin, end, thread) over [0, count), one dense range a thread, multiples of `unit` long.
template <class F>
void parallel_ranges(int64_t count, int64_t unit, const F& f) {
    if (count <= 0) return;
    const int64_t units = (count + unit - 1) / unit, threads = num_threads();
    if (threads == 1 || units == 1) return f(int64_t{0}, count, 0);
    on_all_threads([&](int thread) {
        const int64_t begin = units * thread / threads * unit;
        const int64_t end = std::min(count, units * (thread + 1) / threads * unit);
        if (begin < end) f(begin, end, thread);
    });
}

// f(index, thread) for each of [0, count), handed out in order, `unit` at a time, to whoever is free.
template <class F>
void parallel_each(int64_t count, int64_t unit, const F& f) {
    if (num_threads() == 1 || count <= unit) {
        for (int64_t i = 0; i < count; ++i) f(i, 0);
        return;
    }
    std::atomic<int64_t> next{0};
    on_all_threads([&](int thread) {
        for (;;) {
            const int64_t begin = next.fetch_add(unit, std::memory_order_relaxed);
            if (begin >= count) return;
            const int64_t end = std::min(count, begin + unit);
            for (int64_t i = begin; i < end; ++i) f(i, thread);
        }
    });
}

// The same, but each thread first takes a dense range of its own, from front to back, and then what others
// have left of theirs: memory is read in long runs.
template <class F>
void parallel_runs(int64_t count, const F& f) {
    struct alignas(64) Run {
        std::atomic<int64_t> next;
        int64_t end;
    };
    constexpr int64_t most = 64;
    const int64_t runs = std::min<int64_t>({num_threads(), most, count});
    if (runs <= 1) {
        for (int64_t i = 0; i < count; ++i) f(i, 0);
        return;
    }
    Run all[most];
    for (int64_t i = 0; i < runs; ++i) {
        all[i].next.store(count * i / runs, std::memory_order_relaxed);
        all[i].end = count * (i + 1) / runs;
    }
    on_all_threads([&](int thread) {
        for (int64_t i = 0; i < runs; ++i) {
            Run& run = all[(thread + i) % runs];
            for (;;) {
                const int64_t at = run.next.fetch_add(1, std::memory_order_relaxed);
                if (at >= run.end) break;
                f(at, thread);
            }
        }
    });
}

}  // namespace pagoda
