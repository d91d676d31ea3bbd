// The pool behind pool.h.
#include "pool.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "module.h"

namespace pagoda {
namespace {

constexpr int spins = 4000;  // some 50 to 100 us: the gap between two kernels of a layer

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

class Pool {
public:
    int size() const { return size_.load(std::memory_order_relaxed); }

    void resize(int count) {
        std::lock_guard<std::mutex> turn(turn_);
        if (count == size()) return;
        stop();
        size_.store(count, std::memory_order_relaxed);
        for (int i = 1; i < count; ++i) workers_.emplace_back([this, i, at = epoch_.load()] { work(i, at); });
    }

    void run(Job job, const void* context) {
        std::lock_guard<std::mutex> turn(turn_);
        if (!workers_.empty()) start(job, context);
        job(context, 0);
        for (int i = 0; left_.load(std::memory_order_acquire) > 0; ++i) {
            if (i < spins) pause();
            else std::this_thread::yield();
        }
    }

private:
    void start(Job job, const void* context) {
        job_ = job;
        context_ = context;
        left_.store(int(workers_.size()), std::memory_order_relaxed);
        epoch_.fetch_add(1, std::memory_order_seq_cst);
        if (asleep_.load(std::memory_order_seq_cst) == 0) return;
        { std::lock_guard<std::mutex> lock(mutex_); }  // a worker between its last look and its sleep
        wake_.notify_all();
    }

    void stop() {
        if (workers_.empty()) return;
        start(nullptr, nullptr);
        for (auto& worker : workers_) worker.join();
        workers_.clear();
        left_.store(0);
    }

    void work(int thread, uint64_t seen) {
        for (;;) {
            seen = next(seen);
            if (job_ == nullptr) return;
            job_(context_, thread);
            left_.fetch_sub(1, std::memory_order_release);
        }
    }

    uint64_t next(uint64_t seen) {
        for (int i = 0; i < spins; ++i) {
            const uint64_t now = epoch_.load(std::memory_order_acquire);
            if (now != seen) return now;
            pause();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return epoch_.load(std::memory_order_seq_cst) != seen; });
        asleep_.fetch_sub(1, std::memory_order_relaxed);
        return epoch_.load(std::memory_order_acquire);
    }

    std::mutex turn_, mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
    std::atomic<int> size_{1}, left_{0}, asleep_{0};
    std::atomic<uint64_t> epoch_{0};
    Job job_ = nullptr;
    const void* context_ = nullptr;
};

// Never destroyed: workers that sleep at exit end with the process.
Pool& pool() {
    static Pool* one = new Pool;
    return *one;
}

struct Buffers {
    struct Buffer {
        void* memory = nullptr;
        size_t bytes = 0;
    } slots[8];
    ~Buffers() {
        for (auto& slot : slots) std::free(slot.memory);
    }
};

}  // namespace

int num_threads() { return pool().size(); }

void set_num_threads(int count) { pool().resize(count < 1 ? 1 : count); }

void run_on_all(Job job, const void* context) { pool().run(job, context); }

void* scratch(int slot, size_t bytes) {
    thread_local Buffers mine;
    auto& buffer = mine.slots[slot];
    if (buffer.bytes < bytes) {
        std::free(buffer.memory);
        buffer.bytes = (bytes + bytes / 4 + 63) / 64 * 64;
        buffer.memory = std::aligned_alloc(64, buffer.bytes);
        if (buffer.memory == nullptr) std::abort();  // in a worker there is nobody to tell
    }
    return buffer.memory;
}

namespace nb = nanobind;

static Binding bind_pool([](nb::module_& m) {
    m.def("num_threads", &num_threads, "Threads that kernels run on, the caller's included.");
    m.def("set_num_threads", &set_num_threads, nb::arg("count"),
          nb::call_guard<nb::gil_scoped_release>(), "Run kernels on so many threads from now on.");
});

}  // namespace pagoda
