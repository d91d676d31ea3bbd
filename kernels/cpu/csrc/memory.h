// Memory for packed weights, in large pages where the system has them.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>

namespace pagoda {

// One mapping, cleared by the system page after page in a thread of its own, and cut into pieces.
class Arena {
public:
    explicit Arena(size_t bytes);
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    char* take(size_t bytes);    // a multiple of a large page; nullptr when there is not enough left
    void give_back(char* data, size_t bytes);
    size_t idle() const;         // cleared and taken by nobody
    void end();                  // nothing more is taken: the rest goes back to the system

private:
    void clear();

    char *begin_, *end_;
    std::atomic<char*> next_, cleared_;
    std::atomic<bool> ending_{false};
    std::thread clearer_;
};

// Pieces of the arena in use, if there is one with room, or memory of their own.
class Memory {
public:
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    char* data() const { return data_; }

private:
    std::shared_ptr<Arena> arena_;
    size_t bytes_;
    char* data_;
};

// Has memory made ready before it is asked for, until it ends: on a virtual machine, clearing takes
// longer than packing.
class Provision {
public:
    explicit Provision(size_t bytes);  // 0: of nothing
    ~Provision() { end(); }
    Provision(const Provision&) = delete;
    Provision& operator=(const Provision&) = delete;
    size_t idle() const { return arena_ ? arena_->idle() : 0; }
    void end();

private:
    std::shared_ptr<Arena> arena_;
};

}  // namespace pagoda
