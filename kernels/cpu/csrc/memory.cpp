// Arenas, and who cuts from them.
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

#include "module.h"

namespace pagoda {
namespace {

constexpr size_t large_page = size_t(2) << 20;

size_t whole(size_t bytes, size_t unit) { return (std::max(bytes, size_t(1)) + unit - 1) / unit * unit; }

// Whole large pages, beginning at one.
char* map(size_t bytes) {
    void* found = mmap(nullptr, bytes + large_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    char* data = static_cast<char*>(found);
    const size_t before = (large_page - reinterpret_cast<uintptr_t>(data) % large_page) % large_page;
    if (before > 0) munmap(data, before);
    munmap(data + before + bytes, large_page - before);
#if defined(MADV_HUGEPAGE)
    madvise(data + before, bytes, MADV_HUGEPAGE);
#endif
    return data + before;
}

std::mutex turn;
std::shared_ptr<Arena> in_use;

}  // namespace

Arena::Arena(size_t bytes) : begin_(map(whole(bytes, large_page))), end_(begin_ + whole(bytes, large_page)), next_(begin_), cleared_(begin_) {
    clearer_ = std::thread([this] { clear(); });
}

Arena::~Arena() {
    end();
    munmap(begin_, size_t(end_ - begin_));
}

void Arena::clear() {
#if defined(MADV_POPULATE_WRITE)
    for (char* page = begin_; page < end_ && !ending_.load(); page += large_page) {
        if (madvise(page, large_page, MADV_POPULATE_WRITE) != 0) return;  // then whoever writes first waits
        cleared_.store(page + large_page);
    }
#endif
}

char* Arena::take(size_t bytes) {
    char* data = next_.load();
    do {
        if (ending_.load() || bytes > size_t(end_ - data)) return nullptr;
    } while (!next_.compare_exchange_weak(data, data + bytes));
    return data;
}

void Arena::give_back(char* data, size_t bytes) { madvise(data, bytes, MADV_DONTNEED); }

size_t Arena::idle() const {
    const char *taken = next_.load(), *cleared = cleared_.load();
    return cleared > taken ? size_t(cleared - taken) : 0;
}

void Arena::end() {
    ending_.store(true);
    if (clearer_.joinable()) clearer_.join();
    char* rest = next_.exchange(end_);
    if (rest < end_) madvise(rest, size_t(end_ - rest), MADV_DONTNEED);
}

Memory::Memory(size_t bytes) : bytes_(whole(bytes, bytes >= large_page ? large_page : 64)) {
    if (bytes_ < large_page) {
        data_ = static_cast<char*>(std::aligned_alloc(64, bytes_));
        if (data_ == nullptr) throw std::bad_alloc();
        return;
    }
    {
        std::lock_guard<std::mutex> lock(turn);
        arena_ = in_use;
    }
    data_ = arena_ ? arena_->take(bytes_) : nullptr;
    if (data_ != nullptr) return;
    arena_.reset();
    data_ = map(bytes_);
}

Memory::~Memory() {
    if (bytes_ < large_page) std::free(data_);
    else if (arena_) arena_->give_back(data_, bytes_);
    else munmap(data_, bytes_);
}

Provision::Provision(size_t bytes) {
    if (bytes == 0) return;
    arena_ = std::make_shared<Arena>(bytes);
    std::lock_guard<std::mutex> lock(turn);
    in_use = arena_;
}

void Provision::end() {
    if (!arena_) return;
    {
        std::lock_guard<std::mutex> lock(turn);
        if (in_use == arena_) in_use.reset();
    }
    arena_->end();
    arena_.reset();
}

namespace nb = nanobind;

static Binding bind_memory([](nb::module_& m) {
    nb::class_<Provision>(m, "Provision", "Memory for matrices, cleared by a thread before they ask for it.")
        .def(nb::init<size_t>(), nb::arg("bytes"))
        .def("idle", &Provision::idle, "Bytes that are cleared and that no matrix has taken.")
        .def("end", &Provision::end, nb::call_guard<nb::gil_scoped_release>(),
             "Give back what was not taken; matrices keep what they have.");
});

}  // namespace pagoda
