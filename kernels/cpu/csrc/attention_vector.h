// A chunk of attention in float32 vectors: whatever the cache holds is widened first, once for all
// query rows of a tile.
#pragma once

#include "attention_softmax.h"
#include "product.h"

namespace pagoda {

class VectorChunk {
public:
    using Query = float;
    static constexpr int keys = 64;       // of a chunk
    static constexpr int block_rows = 24;  // query rows whose scores are held at a time
    static constexpr int tile_rows = 96;  // query rows of a tile, about
    static constexpr int alignment = 1;   // of the first key

    explicit VectorChunk(int head_size)
        : head_size_(head_size), width_(sums_width(head_size)) {}

    int query_width() const { return head_size_; }
    size_t floats() const { return size_t(keys) * (head_size_ + width_ + block_rows); }

    void use(float* memory) {
        keys_ = memory;
        values_ = keys_ + size_t(keys) * head_size_;
        scores_ = values_ + size_t(keys) * width_;
    }

    void start() {}

    template <class T>
    void foresee(const T*, const T*) {}

    template <class T>
    void take(const T* key, const T* value, int block_size, int offset, int count, int before) {
        for (int d = 0; d < head_size_; ++d) {
            const T* from = key + int64_t(d) * block_size + offset;
            float* to = keys_ + d * keys + before;
            for (int i = 0; i < count; i += Vec::W) {
                // What a register reads past `count` nobody looks at, as long as it is the block's.
                if (offset + i + Vec::W <= block_size && before + i + Vec::W <= keys) Vec::load(from + i).store(to + i);
                else store_first(to + i, load_first(from + i, std::min(count - i, Vec::W)), std::min(count - i, Vec::W));
            }
        }
        value += int64_t(offset) * head_size_;
        for (int i = 0; i < count; ++i, value += head_size_) {
            float* to = values_ + size_t(before + i) * width_;
            int d = 0;
            for (; d + Vec::W <= head_size_; d += Vec::W) Vec::load(value + d).store(to + d);
            if (d < head_size_) load_first(value + d, head_size_ - d).store(to + d);
        }
    }

    template <class From>
    void query_row(const From* from, float* to) const {
        copy_row(from, to, head_size_, 1.0f);
    }

    void taken(int count) { count_ = count; }

    // One block of rows: scores, probabilities, sums.  see(row) gives the keys that a row sees as
    // first and last + 1 of the chunk.
    template <class See>
    void attend(const float* query, int rows, const Scores& how, const See& see, Running running, float* out) {
        float alpha[block_rows];
        const int count = rounded_up(count_, Vec::W);
        product({query, keys_, scores_, head_size_, keys, keys, nullptr}, rows, head_size_, count);
        soften<6, keys, block_rows>(scores_, scores_, rows, count, see, how, running, alpha);
        product({scores_, values_, out, keys, width_, width_, alpha}, rows, count_, width_);
    }

    void begin() {}
    void end() {}

private:
    int head_size_, width_, count_ = 0;
    float *keys_ = nullptr, *values_ = nullptr, *scores_ = nullptr;
};

}  // namespace pagoda
