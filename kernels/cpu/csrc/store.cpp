// Norm, turn and store, a token at a time; see store.h.
#include "store.h"

#include <cmath>

#include "pool.h"
#include "vec.h"

namespace pagoda {
namespace {

template <class T>
void widen(const T* from, float* to, int count) {
    int i = 0;
    for (; i + Vec::W <= count; i += Vec::W) Vec::load(from + i).store(to + i);
    for (; i < count; ++i) to[i] = to_float(from[i]);
}

template <class T>
void narrow(const float* from, T* to, int count) {
    int i = 0;
    for (; i + Vec::W <= count; i += Vec::W) Vec::load(from + i).store(to + i);
    if (i < count) store_first(to + i, load_first(from + i, count - i), count - i);
}

void norm(float* x, const float* weight, int count, float epsilon) {
    float square = 0.0f;
    int i = 0;
    Vec squares = Vec::zero();
    for (; i + Vec::W <= count; i += Vec::W) squares = fma(Vec::load(x + i), Vec::load(x + i), squares);
    for (; i < count; ++i) square += x[i] * x[i];
    const float scale = 1.0f / std::sqrt((sum(squares) + square) / float(count) + epsilon);
    for (i = 0; i < count; ++i) x[i] *= scale * weight[i];
}

void turn(float* x, const float* cos, const float* sin, int turned) {
    const int half = turned / 2;
    for (int i = 0; i < half; ++i) {
        const float left = x[i], right = x[i + half];
        x[i] = left * cos[i] + right * sin[i];
        x[i + half] = right * cos[i + half] + left * sin[i + half];
    }
}

// What x is divided by to fit -127..127; zeros get the scale 0.
float int8_scale(const float* x, int count) {
    float most = 0.0f;
    for (int i = 0; i < count; ++i) most = std::fmax(most, std::fabs(x[i]));
    return most / 127.0f;
}

template <class K>
float to_cache(const float* x, K* out, int count) {
    narrow(x, out, count);
    return 1.0f;
}

float to_cache(const float* x, int8_t* out, int count) {
    const float scale = int8_scale(x, count), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    int i = 0;
    for (; i + Vec::W <= count; i += Vec::W) (Vec::load(x + i) * Vec::all(inverse)).store(out + i);
    if (i < count) store_first(out + i, load_first(x + i, count - i) * Vec::all(inverse), count - i);
    return scale;
}

template <class T, class K>
class TokenStore {
public:
    explicit TokenStore(const Store& call) : call_(call), size_(call.pages.head_size) {
        auto* memory = static_cast<float*>(scratch(0, size_t(size_) * 6 * sizeof(float)));
        row_ = memory;
        cos_ = row_ + size_;
        sin_ = cos_ + size_;
        query_norm_ = sin_ + size_;
        key_norm_ = query_norm_ + size_;
        narrow_ = reinterpret_cast<K*>(key_norm_ + size_);
        if (call.query.norm) widen(static_cast<const T*>(call.query.norm), query_norm_, size_);
        if (call.key.norm) widen(static_cast<const T*>(call.key.norm), key_norm_, size_);
    }

    void run(int token) {
        if (call_.cos) {
            widen(static_cast<const T*>(call_.cos) + token * call_.angle_stride, cos_, call_.turned);
            widen(static_cast<const T*>(call_.sin) + token * call_.angle_stride, sin_, call_.turned);
        }
        if (call_.query.base != nullptr && (call_.query.norm || call_.cos)) {
            for (int head = 0; head < call_.query.count; ++head) {
                T* row = at(call_.query, token, head);
                turned_row(row, call_.query.norm ? query_norm_ : nullptr);
                narrow(row_, row, size_);
            }
        }
        const int64_t slot = call_.slots[token];
        if (slot < 0) return;
        for (int head = 0; head < call_.key.count; ++head)
            keep(token, head, slot / call_.pages.block_size, int(slot % call_.pages.block_size));
    }

private:
    static T* at(const Heads& heads, int token, int head) {
        return static_cast<T*>(heads.base) + token * heads.token_stride + head * heads.head_stride;
    }

    void turned_row(const T* row, const float* weight) {
        widen(row, row_, size_);
        if (weight) norm(row_, weight, size_, call_.epsilon);
        if (call_.cos) turn(row_, cos_, sin_, call_.turned);
    }

    void keep(int token, int head, int64_t block, int offset) {
        uint8_t* page = call_.pages.page(block, head);
        const int block_size = call_.pages.block_size;
        turned_row(at(call_.key, token, head), call_.key.norm ? key_norm_ : nullptr);
        const float key_scale = to_cache(row_, narrow_, size_);
        K* keys = call_.pages.template keys<K>(page) + offset;
        for (int d = 0; d < size_; ++d) keys[int64_t(d) * block_size] = narrow_[d];
        widen(at(call_.value, token, head), row_, size_);
        const float value_scale = to_cache(row_, call_.pages.template values<K>(page) + int64_t(offset) * size_, size_);
        if (call_.pages.kind == Kind::int8) call_.pages.write_scales(page, offset, key_scale, value_scale);
    }

    const Store& call_;
    int size_;
    float *row_, *cos_, *sin_, *query_norm_, *key_norm_;
    K* narrow_;
};

template <class T, class K>
void store_as(const Store& call) {
    parallel_ranges(call.num_tokens, 1, [&](int64_t begin, int64_t end, int) {
        TokenStore<T, K> one(call);
        for (int64_t token = begin; token < end; ++token) one.run(int(token));
    });
}

}  // namespace

void store(const Store& call) {
    with_float(call.kind, "key", [&](auto type) {
        using T = decltype(type);
        switch (call.pages.kind) {
            case Kind::f32: return store_as<T, float>(call);
            case Kind::bf16: return store_as<T, bf16>(call);
            case Kind::fp16: return store_as<T, fp16>(call);
            default: return store_as<T, int8_t>(call);
        }
    });
}

}  // namespace pagoda
