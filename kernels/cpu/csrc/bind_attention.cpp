// Python's way to attention and the store: arguments checked, then pointers.
#include <nanobind/stl/optional.h>

#include <optional>

#include "attention.h"
#include "module.h"
#include "store.h"

namespace nb = nanobind;

namespace pagoda {
namespace {

Pages pages_of(const Array& cache, int block_size, int64_t head_size) {
    require(cache.ndim() == 3 && contiguous(cache), "cache must be a contiguous [blocks, kv heads, page]");
    require(block_size > 0 && head_size > 0, "block_size and the head size must be above 0");
    const Kind type = kind(cache);
    require(type == Kind::f32 || type == Kind::bf16 || type == Kind::fp16 || type == Kind::int8,
            "cache must be float32, bfloat16, float16 or int8");
    const Pages pages{data<uint8_t>(cache), type, block_size, int(head_size), int(cache.shape(1))};
    require(int64_t(cache.shape(2)) * pages.element_bytes() == pages.page_bytes(), "cache's pages have another size");
    return pages;
}

void check_heads(const Array& x, const char* what) {
    require(x.ndim() == 3 && (x.stride(2) == 1 || x.shape(2) == 1), what);
}

const int32_t* int32s(const Array& x, size_t ndim, const char* what) {
    require(kind(x) == Kind::int32 && x.ndim() == ndim && contiguous(x), what);
    return data<const int32_t>(x);
}

// Nothing that the kernel will follow points outside of the cache.
void check_rows(const Attention& call, int64_t num_tokens, int64_t width, int64_t num_blocks) {
    require(call.query_start[0] == 0 && call.query_start[call.num_requests] == num_tokens, "query_start must go from 0 to T");
    for (int r = 0; r < call.num_requests; ++r) {
        const int count = call.query_start[r + 1] - call.query_start[r], len = call.seq_lens[r];
        require(count >= 0 && len >= count, "a request has more query tokens than its seq_lens");
        const int block_size = call.pages.block_size, begin = std::max(0, len - count - call.window + 1);
        require(len <= width * block_size, "block_tables are too narrow for seq_lens");
        for (int block = begin / block_size; count > 0 && block <= (len - 1) / block_size; ++block) {
            const int32_t id = call.tables[r * call.table_stride + block];
            require(id >= 0 && id < num_blocks, "block_tables name a block that is not in the cache");
        }
    }
}

void paged_attention(Array query, Array cache, Array out, Array block_tables, Array query_start, Array seq_lens,
                     int block_size, float scale, std::optional<int> window, std::optional<float> soft_cap) {
    check_heads(query, "query must be [T, heads, head size] with a dense last dimension");
    Attention call{};
    call.query = data<const void>(query);
    call.query_kind = kind(query);
    call.query_token_stride = query.stride(0);
    call.query_head_stride = query.stride(1);
    require(kind(out) == call.query_kind && contiguous(out) && out.size() == query.size(),
            "out must be a contiguous [T, heads * head size] of query's dtype");
    call.out = data<void>(out);
    call.pages = pages_of(cache, block_size, int64_t(query.shape(2)));
    call.tables = int32s(block_tables, 2, "block_tables must be a contiguous int32 [R, W]");
    call.table_stride = int64_t(block_tables.shape(1));
    call.query_start = int32s(query_start, 1, "query_start must be a contiguous int32 [R + 1]");
    call.seq_lens = int32s(seq_lens, 1, "seq_lens must be a contiguous int32 [R]");
    call.num_requests = int(seq_lens.size());
    call.num_heads = int(query.shape(1));
    call.scale = scale;
    call.window = window.value_or(no_window);
    call.soft_cap = soft_cap.value_or(0.0f);
    require(call.pages.num_kv_heads > 0 && call.num_heads % call.pages.num_kv_heads == 0, "heads must be a multiple of kv heads");
    require(int(block_tables.shape(0)) == call.num_requests && int(query_start.size()) == call.num_requests + 1,
            "block_tables, query_start and seq_lens must be of the same requests");
    require(call.window > 0 && call.soft_cap >= 0.0f, "window and soft_cap must be above 0");
    with_float(call.query_kind, "query", [](auto) {});
    check_rows(call, int64_t(query.shape(0)), call.table_stride, int64_t(cache.shape(0)));
    nb::gil_scoped_release released;
    attend(call);
}

Heads heads_of(const Array& x, const std::optional<Array>& norm, Kind type, int64_t tokens, int64_t size) {
    check_heads(x, "query, key and value must be [T, heads, head size] with a dense last dimension");
    require(kind(x) == type && int64_t(x.shape(0)) == tokens && int64_t(x.shape(2)) == size,
            "query, key and value must agree in tokens, head size and dtype");
    if (norm) require(kind(*norm) == type && contiguous(*norm) && int64_t(norm->size()) == size, "a norm must be [head size] of key's dtype");
    return {data<void>(x), x.stride(0), x.stride(1), int(x.shape(1)), norm ? data<void>(*norm) : nullptr};
}

void take_angles(Store& call, const Array& cos, const Array& sin) {
    for (const Array& x : {cos, sin})
        require(kind(x) == call.kind && x.ndim() == 3 && int(x.shape(0)) == call.num_tokens && x.shape(1) == 1 && x.stride(2) == 1,
                "cos and sin must be [T, 1, turned] of key's dtype");
    require(cos.shape(2) == sin.shape(2) && cos.stride(0) == sin.stride(0) && cos.shape(2) % 2 == 0 &&
                int(cos.shape(2)) <= call.pages.head_size, "cos and sin must be alike, even and no wider than a head");
    call.cos = data<void>(cos);
    call.sin = data<void>(sin);
    call.angle_stride = cos.stride(0);
    call.turned = int(cos.shape(2));
}

void store_kv(Array key, Array value, Array cache, Array slots, int block_size, std::optional<Array> query,
              std::optional<Array> cos, std::optional<Array> sin, std::optional<Array> query_norm,
              std::optional<Array> key_norm, float epsilon) {
    check_heads(key, "key must be [T, kv heads, head size] with a dense last dimension");
    Store call{};
    const int64_t tokens = int64_t(key.shape(0)), size = int64_t(key.shape(2));
    call.kind = kind(key);
    call.num_tokens = int(tokens);
    with_float(call.kind, "key", [](auto) {});
    call.key = heads_of(key, key_norm, call.kind, tokens, size);
    call.value = heads_of(value, std::nullopt, call.kind, tokens, size);
    if (query) call.query = heads_of(*query, query_norm, call.kind, tokens, size);
    call.pages = pages_of(cache, block_size, size);
    require(call.key.count == call.pages.num_kv_heads && call.value.count == call.key.count, "key, value and cache differ in kv heads");
    require(cos.has_value() == sin.has_value(), "cos and sin go together");
    if (cos) take_angles(call, *cos, *sin);
    call.epsilon = epsilon;
    require(kind(slots) == Kind::int64 && contiguous(slots) && int64_t(slots.size()) == tokens, "slots must be int64 [T]");
    call.slots = data<const int64_t>(slots);
    for (int64_t t = 0; t < tokens; ++t)
        require(call.slots[t] < int64_t(cache.shape(0)) * block_size, "slots name a block that is not in the cache");
    nb::gil_scoped_release released;
    store(call);
}

constexpr const char* attention_doc =
    "Causal attention of ragged queries [T, heads, D] over a paged cache, into out [T, heads * D].\n\n"
    "cache is [blocks, kv heads, page], filled by store_kv; block_tables int32 [R, W], query_start int32\n"
    "[R + 1], seq_lens int32 [R] (tokens cached, the query's own included).  ValueError for what does not fit.";

constexpr const char* store_doc =
    "Norm and turn keys and, in place, queries ([T, heads, D]), then store keys and values.\n\n"
    "slots int64 [T]: block * block_size + offset, below 0 for tokens that are not kept.  A page of the cache\n"
    "[blocks, kv heads, page] has 2 * block_size * D numbers; with int8, 2 * block_size * (D + 4) bytes.";

Binding bind_attention([](nb::module_& m) {
    using nb::arg;
    m.def("paged_attention", &paged_attention, arg("query"), arg("cache"), arg("out"), arg("block_tables"),
          arg("query_start"), arg("seq_lens"), arg("block_size"), arg("scale"), arg("window") = nb::none(),
          arg("soft_cap") = nb::none(), attention_doc);
    m.def("store_kv", &store_kv, arg("key"), arg("value"), arg("cache"), arg("slots"), arg("block_size"),
          arg("query") = nb::none(), arg("cos") = nb::none(), arg("sin") = nb::none(), arg("query_norm") = nb::none(),
          arg("key_norm") = nb::none(), arg("epsilon") = 1e-6f, store_doc);
});

}  // namespace
}  // namespace pagoda
