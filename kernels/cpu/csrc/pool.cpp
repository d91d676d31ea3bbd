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

// A job is as many calls as there are threads.  Whoever is awake takes the next: a caller need not wait
// for a worker that the system has put aside and that has taken none.
class Pool {
public:
    int size() const { return size_.load(std::memory_order_relaxed); }

    void resize(int count) {
        std::lock_guard<std::mutex> turn(turn_);
        if (count == size()) return;
        stop();
        size_.store(count, std::memory_order_relaxed);
        for (int i = 1; i < count; ++i) workers_.emplace_back([this] { work(); });
    }

    void run(Job job, const void* context) {
        std::lock_guard<std::mutex> turn(turn_);
        const int calls = size();
        if (calls == 1) return job(context, 0);
        start(job, context, calls);
        take_calls(state_.load(std::memory_order_relaxed));
        for (int i = 0; left_.load(std::memory_order_acquire) > 0; ++i) {
            if (i < spins) pause();
            else std::this_thread::yield();
        }
    }

private:
    // state_: which job above, calls not taken yet below.
    static constexpr uint64_t job_one = uint64_t(1) << 32;

    void start(Job job, const void* context, int calls) {
        job_.store(job, std::memory_order_relaxed);
        context_.store(context, std::memory_order_relaxed);
        left_.store(calls, std::memory_order_relaxed);
        const uint64_t last = state_.load(std::memory_order_relaxed);
        state_.store((last / job_one + 1) * job_one + uint64_t(calls), std::memory_order_seq_cst);
        if (asleep_.load(std::memory_order_seq_cst) == 0) return;
        { std::lock_guard<std::mutex> lock(mutex_); }  // a worker between its last look and its sleep
        wake_.notify_all();
    }

    // Takes calls of the job that `state` is of until there are none; what it read of the job is valid
    // if the state is still that job's when it takes a call.
    void take_calls(uint64_t state) {
        const uint64_t id = state / job_one;
        while (state / job_one == id && state % job_one > 0) {
            const Job job = job_.load(std::memory_order_relaxed);
            const void* context = context_.load(std::memory_order_relaxed);
            if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acquire)) continue;
            job(context, int(state % job_one) - 1);
            left_.fetch_sub(1, std::memory_order_release);
            state = state_.load(std::memory_order_acquire);
        }
    }

    void stop() {
        stopping_.store(true, std::memory_order_seq_cst);
        { std::lock_guard<std::mutex> lock(mutex_); }
        wake_.notify_all();
        for (auto& worker : workers_) worker.join();
        workers_.clear();
        stopping_.store(false, std::memory_order_relaxed);
    }

    bool called(uint64_t state) const { return state % job_one > 0 || stopping_.load(std::memory_order_seq_cst); }

    void work() {
        while (!stopping_.load(std::memory_order_relaxed)) take_calls(next());
    }

    uint64_t next() {
        for (int i = 0; i < spins; ++i) {
            const uint64_t now = state_.load(std::memory_order_acquire);
            if (called(now)) return now;
            pause();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return called(state_.load(std::memory_order_seq_cst)); });
        asleep_.fetch_sub(1, std::memory_order_relaxed);
        return state_.load(std::memory_order_acquire);
    }

    std::mutex turn_, mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
    std::atomic<int> size_{1}, left_{0}, asleep_{0};
    std::atomic<bool> stopping_{false};
    std::atomic<uint64_t> state_{0};
    std::atomic<Job> job_{nullptr};
    std::atomic<const void*> context_{nullptr};
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
