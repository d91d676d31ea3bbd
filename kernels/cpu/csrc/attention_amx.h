// A chunk of attention on AMX tiles: bfloat16 queries, keys and values in bfloat16 or int8 (which
// bfloat16 holds exactly), probabilities rounded to bfloat16, float32 sums.
//
// Tiles want their second operand in pairs of the depth: dimensions for scores, keys for values.
// Both are two neighbouring rows of a page interleaved, done once for all query rows of a tile.
#pragma once

#include <algorithm>

#include "attention_softmax_tiles.h"
#include "tiles.h"

namespace pagoda {

template <class T>
class TileChunk {
public:
    using Query = bf16;
    static constexpr int keys = 256;
    static constexpr int block_rows = 32;
    static constexpr int tile_rows = 256;
    static constexpr int alignment = 1;

    explicit TileChunk(int head_size)
        : size_(head_size), depth_(rounded_up(head_size, 32)), width_(sums_width(head_size)) {}

    int query_width() const { return depth_; }
    size_t floats() const { return size_t(keys) * (depth_ / 2 + width_ / 2 + block_rows + block_rows / 2); }

    void use(float* memory) {
        keys_ = reinterpret_cast<uint32_t*>(memory);
        values_ = keys_ + size_t(keys) * depth_ / 2;
        scores_ = reinterpret_cast<float*>(values_ + size_t(keys) * width_ / 2);
        weights_ = reinterpret_cast<bf16*>(scores_ + size_t(keys) * block_rows);
        std::fill_n(keys_, size_t(keys) * depth_ / 2, 0u);
    }

    void begin() { tiles::begin(); }
    void end() { tiles::end(); }

    template <class From>
    void query_row(const From* from, bf16* to) const {
        copy_row(from, to, size_, 1.0f);
        std::fill_n(to + size_, depth_ - size_, bf16{0});
    }

    void start() { num_next_ = num_taken_ = 0; }
    void foresee(const T* key, const T* value) { next_[num_next_++] = {key, value}; }

    void take(const T* key, const T* value, int block_size, int offset, int count, int before) {
        const Next next = num_taken_ < num_next_ ? next_[num_taken_] : Next{nullptr, nullptr};
        ++num_taken_;
        for (int i = 0; i < count;) {
            const int lane = (before + i) % 16, now = std::min(16 - lane, count - i);
            uint32_t* to = keys_ + size_t(before + i) / 16 * depth_ * 8 + lane;
            const T* from = key + offset + i;
            for (int d = 0; d < size_; d += 2, to += 16, from += 2 * block_size) {
                if (next.keys && i == 0) fetch(next.keys + int64_t(d) * block_size, 2 * block_size);
                pairs(from, d + 1 < size_ ? from + block_size : nullptr, to, now);
            }
            i += now;
        }
        value += int64_t(offset) * size_;
        for (int i = 0; i < count;) {
            const int at = before + i;
            uint32_t* to = values_ + size_t(at / 2) * width_;
            const T* from = value + int64_t(i) * size_;
            if (next.values) fetch(next.values + int64_t(i) * size_, 2 * size_);
            if (at % 2 == 1) {
                second_halves(from, to, size_);
                i += 1;
            } else {
                pairs(from, i + 1 < count ? from + size_ : nullptr, to, size_);
                i += 2;
            }
        }
    }

    void taken(int count) {
        count_ = rounded_up(count, 32);
        const int pair = (count + 1) / 2;
        std::fill(values_ + size_t(pair) * width_, values_ + size_t(count_ / 2) * width_, 0u);
    }

    template <class See>
    void attend(const bf16* query, int rows, const Scores& how, const See& see, Running running, float* out) {
        for (int key = 0; key < count_; key += 32)
            rows > 16 ? score<true>(query, key) : score<false>(query, key);
        float alpha[block_rows];
        softmax_.run(scores_, weights_, rows, count_, see, how, running, alpha);
        for (int r = 0; r < rows; ++r) {
            if (alpha[r] == 1.0f) continue;
            float* row = out + r * width_;
            for (int d = 0; d < width_; d += Vec::W) (Vec::all(alpha[r]) * Vec::load(row + d)).store(row + d);
        }
        int d = 0;
        for (; d + 32 <= width_; d += 32)
            rows > 16 ? add_values<true, true>(d, out) : add_values<false, true>(d, out);
        if (d < width_) rows > 16 ? add_values<true, false>(d, out) : add_values<false, false>(d, out);
    }

private:
    struct Next {
        const T *keys, *values;
    };

    static void fetch(const T* from, int count) {
        for (int i = 0; i < count; i += 64 / int(sizeof(T))) __builtin_prefetch(from + i, 0, 2);
    }

    // to[i] = low[i] and, in the upper half, high[i] or 0, in bfloat16.
    static void pairs(const T* low, const T* high, uint32_t* to, int count) {
        int i = 0;
        for (; i + Vec::W <= count; i += Vec::W)
            store_pairs(Vec::load(low + i), high ? Vec::load(high + i) : Vec::zero(), to + i);
        for (; i < count; ++i) to[i] = bits(low[i]) >> 16 | (high ? bits(high[i]) : 0u);
    }

    static void second_halves(const T* high, uint32_t* to, int count) {
        for (int i = 0; i < count; ++i) to[i] = (to[i] & 0xffffu) | bits(high[i]);
    }

    static uint32_t bits(T x) { return bit_cast<uint32_t>(to_float(x)); }

    // The scores of 32 keys.
    template <bool Lower>
    void score(const bf16* query, int key) {
        const uint32_t* left = keys_ + size_t(key) / 16 * depth_ * 8;
        const uint32_t* right = left + size_t(depth_) * 8;
        const int64_t stride = depth_ * 2;
        tiles::zero<0>();
        tiles::zero<1>();
        if constexpr (Lower) tiles::zero<2>(), tiles::zero<3>();
        for (int d = 0; d < depth_; d += 32) {
            tiles::load<4>(query + d, stride);
            tiles::load<6>(left + d * 8, 64);
            tiles::multiply<0, 4, 6>();
            tiles::load<7>(right + d * 8, 64);
            tiles::multiply<1, 4, 7>();
            if constexpr (Lower) {
                tiles::load<5>(query + 16 * depth_ + d, stride);
                tiles::multiply<2, 5, 6>();
                tiles::multiply<3, 5, 7>();
            }
        }
        float* to = scores_ + key;
        tiles::store<0>(to, keys * 4);
        tiles::store<1>(to + 16, keys * 4);
        if constexpr (Lower) {
            tiles::store<2>(to + 16 * keys, keys * 4);
            tiles::store<3>(to + 16 * keys + 16, keys * 4);
        }
    }

    // Dimensions d to d + 31, or to d + 15.
    template <bool Lower, bool Right>
    void add_values(int d, float* out) {
        const int64_t stride = width_ * 4;
        float* upper = out + d;
        float* lower = upper + 16 * width_;
        tiles::load<0>(upper, stride);
        if constexpr (Right) tiles::load<1>(upper + 16, stride);
        if constexpr (Lower) tiles::load<2>(lower, stride);
        if constexpr (Lower && Right) tiles::load<3>(lower + 16, stride);
        for (int key = 0; key < count_; key += 32) {
            const uint32_t* value = values_ + size_t(key / 2) * width_ + d;
            tiles::load<4>(weights_ + key, keys * 2);
            tiles::load<6>(value, stride);
            tiles::multiply<0, 4, 6>();
            if constexpr (Right) tiles::load<7>(value + 16, stride), tiles::multiply<1, 4, 7>();
            if constexpr (Lower) tiles::load<5>(weights_ + 16 * keys + key, keys * 2), tiles::multiply<2, 5, 6>();
            if constexpr (Lower && Right) tiles::multiply<3, 5, 7>();
        }
        tiles::store<0>(upper, stride);
        if constexpr (Right) tiles::store<1>(upper + 16, stride);
        if constexpr (Lower) tiles::store<2>(lower, stride);
        if constexpr (Lower && Right) tiles::store<3>(lower + 16, stride);
    }

    int size_, depth_, width_, count_ = 0, num_next_ = 0, num_taken_ = 0;
    uint32_t *keys_ = nullptr, *values_ = nullptr;
    float* scores_ = nullptr;
    bf16* weights_ = nullptr;
    TileSoftmax<keys, block_rows> softmax_;
    Next next_[keys + 1];
};

}  // namespace pagoda
