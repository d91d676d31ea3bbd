// A chunk of attention for few query rows, as a decode has: keys and values are widened on their way
// from the cache into the products, and nothing is copied.
//
// Blocks lie anywhere, so the hardware does not foresee the next page: while keys are scored their
// values are fetched, and while values are summed the next chunk's keys.
#pragma once

#include <algorithm>

#include "attention_softmax.h"

namespace pagoda {

template <class T>
class DirectChunk {
public:
    using Query = float;
    static constexpr int keys = 128;
    static constexpr int block_rows = 8;
    static constexpr int alignment = 16;  // of the first key: a register never crosses a block

    // Block sizes and head sizes that it is made for.
    static bool takes(int rows, int block_size, int head_size) {
        return rows <= block_rows && block_size % 16 == 0 && head_size % 16 == 0;
    }

    explicit DirectChunk(int head_size) : size_(head_size) {}

    int query_width() const { return size_; }
    size_t floats() const { return size_t(keys) * block_rows; }
    void use(float* memory) { scores_ = memory; }
    void begin() {}
    void end() {}

    template <class From>
    void query_row(const From* from, float* to) const {
        copy_row(from, to, size_, 1.0f);
    }

    // The piece starts where a register's worth of keys does, so that all loads stay in the block.
    void take(const T* key, const T* value, int block_size, int offset, int count, int before) {
        block_size_ = block_size;
        pieces_[num_pieces_++] = {key + offset, value + int64_t(offset) * size_, before, count};
    }

    void start() { num_pieces_ = num_next_ = 0; }

    // A piece of the next chunk.
    void foresee(const T* key, const T*) { next_[num_next_++] = key; }

    void taken(int) {}

    template <class See>
    void attend(const float* query, int rows, const Scores& how, const See& see, Running running, float* out) {
        // A few counts are compiled; rows up to the next one hold anything and are not looked at.
        if (rows == 1) return attend_rows<1>(query, how, see, running, out);
        if (rows == 2) return attend_rows<2>(query, how, see, running, out);
        if (rows <= 4) return attend_rows<4>(query, how, see, running, out);
        if (rows <= 7) return attend_rows<7>(query, how, see, running, out);
        attend_rows<8>(query, how, see, running, out);
    }

private:
    struct Piece {
        const T *keys, *values;
        int before, count;
    };

    static constexpr int sums = Vec::W == 16 ? 28 : Vec::W == 8 ? 14 : 12;  // registers for them

    // As many vectors of columns as leave room for all rows: a power of two, 8 at most.
    static constexpr int vecs(int rows) { return rows * 8 <= sums ? 8 : rows * 4 <= sums ? 4 : rows * 2 <= sums ? 2 : 1; }

    template <int Rows, class See>
    void attend_rows(const float* query, const Scores& how, const See& see, Running running, float* out) {
        for (int i = 0; i < num_pieces_; ++i) {
            const Piece& piece = pieces_[i];
            int done = 0;
            const int width = (piece.count + Vec::W - 1) / Vec::W;
            if constexpr (vecs(Rows) >= 4) for (; done + 4 <= width; done += 4) score<Rows, 4>(query, piece, done * Vec::W);
            if constexpr (vecs(Rows) >= 2) for (; done + 2 <= width; done += 2) score<Rows, 2>(query, piece, done * Vec::W);
            for (; done < width; ++done) score<Rows, 1>(query, piece, done * Vec::W);
        }
        const Piece& last = pieces_[num_pieces_ - 1];
        const int count = rounded_up(last.before + last.count, Vec::W);
        float alpha[Rows];
        int low = keys, high = 0;
#pragma GCC unroll 32
        for (int r = 0; r < Rows; ++r) {
            const auto seen = see(r);
            if (seen.first < seen.second) low = std::min(low, seen.first), high = std::max(high, seen.second);
        }
        soften<6, keys, Rows>(scores_, scores_, Rows, count, see, how, running, alpha);
        int d = 0;
        constexpr int Vecs = vecs(Rows);
        for (; d + Vecs * Vec::W <= size_; d += Vecs * Vec::W) add_values<Rows, Vecs>(alpha, d, low, high, out);
        if constexpr (Vecs > 4) for (; d + 4 * Vec::W <= size_; d += 4 * Vec::W) add_values<Rows, 4>(alpha, d, low, high, out);
        for (; d < size_; d += Vec::W) add_values<Rows, 1>(alpha, d, low, high, out);
    }

    // Few sums in flight would wait for each other: dimensions go to several sets in turn.
    template <int Rows, int Vecs>
    void score(const float* query, const Piece& piece, int first) {
        constexpr int Ways = Rows * Vecs >= 8 ? 1 : Rows * Vecs >= 4 ? 2 : 4;
        Vec found[Ways][Rows][Vecs];
        for (auto& way : found)
            for (auto& row : way)
                for (auto& vec : row) vec = Vec::zero();
        const T* key = piece.keys + first;
        const int row_bytes = first == 0 ? block_size_ * int(sizeof(T)) : 0;
        const auto* ahead = reinterpret_cast<const char*>(piece.values);
        for (int d = 0; d < size_; d += Ways) {
#pragma GCC unroll 32
            for (int w = 0; w < Ways; ++w, key += block_size_) {
                for (int at = 0; at < row_bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
                ahead += row_bytes;
                Vec column[Vecs];
#pragma GCC unroll 32
                for (int v = 0; v < Vecs; ++v) column[v] = Vec::load(key + v * Vec::W);
#pragma GCC unroll 32
                for (int r = 0; r < Rows; ++r) {
                    const Vec row = Vec::all(query[r * size_ + d + w]);
#pragma GCC unroll 32
                    for (int v = 0; v < Vecs; ++v) found[w][r][v] = fma(row, column[v], found[w][r][v]);
                }
            }
        }
#pragma GCC unroll 32
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 32
            for (int v = 0; v < Vecs; ++v) {
                Vec total = found[0][r][v];
                for (int w = 1; w < Ways; ++w) total = total + found[w][r][v];
                total.store(scores_ + r * keys + piece.before + first + v * Vec::W);
            }
        }
    }

    // Dimensions d and on of keys low to high.
    template <int Rows, int Vecs>
    void add_values(const float* alpha, int d, int low, int high, float* out) const {
        Vec found[Rows][Vecs];
#pragma GCC unroll 32
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 32
            for (int v = 0; v < Vecs; ++v)
                found[r][v] = Vec::all(alpha[r]) * Vec::load(out + r * size_ + d + v * Vec::W);
        for (int i = 0; i < num_pieces_; ++i) {
            const Piece& piece = pieces_[i];
            const int begin = std::max(low - piece.before, 0), end = std::min(high - piece.before, piece.count);
            const T* value = piece.values + int64_t(begin) * size_ + d;
            const float* p = scores_ + piece.before;
            const bool fetch = i < num_next_ && d * sizeof(T) % 64 == 0;
            const T* ahead = fetch ? next_[i] + int64_t(begin) * size_ + d : nullptr;
            for (int k = begin; k < end; ++k, value += size_) {
                if (fetch) {
                    for (size_t at = 0; at < Vecs * Vec::W; at += 64 / sizeof(T)) __builtin_prefetch(ahead + at, 0, 2);
                    ahead += size_;
                }
                Vec column[Vecs];
#pragma GCC unroll 32
                for (int v = 0; v < Vecs; ++v) column[v] = Vec::load(value + v * Vec::W);
#pragma GCC unroll 32
                for (int r = 0; r < Rows; ++r) {
                    const Vec weight = Vec::all(p[r * keys + k]);
#pragma GCC unroll 32
                    for (int v = 0; v < Vecs; ++v) found[r][v] = fma(weight, column[v], found[r][v]);
                }
            }
        }
#pragma GCC unroll 32
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 32
            for (int v = 0; v < Vecs; ++v) found[r][v].store(out + r * size_ + d + v * Vec::W);
    }

    int size_, block_size_ = 0, num_pieces_ = 0;
    float* scores_ = nullptr;
    int num_next_ = 0;
    Piece pieces_[keys / 16 + 1];
    const T* next_[keys / 16 + 1];
};

}  // namespace pagoda
