// Products of a few or many rows with a packed weight: which mode, and who does what.
#include "linear.h"

#include "linear_finish.h"

#if defined(PAGODA_AMX)
#include "linear_amx.h"
#elif defined(PAGODA_AVX512)
#include "linear_avx512.h"
#elif defined(PAGODA_AVX2)
#include "linear_avx2.h"
#else
#include "linear_portable.h"
#endif

namespace pagoda::linear {
namespace {

constexpr int64_t rows_at_once = 192;  // whole tiles; their sums for a unit are 48 KB

template <class Mode>
struct VectorUnits : Mode {
    static int64_t rows_in_cache(const Packed&) { return INT64_MAX; }  // slower than the next cache

    static void unit(const Packed& packed, const Inputs& x, int64_t panel, int count, int64_t row, int rows, float* sums) {
        unit_product<Mode>(packed, x, panel, count, row, rows, sums);
#if defined(PAGODA_AVX2)
        if constexpr (std::is_same<Mode, Bf12Mode>::value)
            for (int i = 0; i < count; ++i) add_odd<Mode::rows>(packed, panel + i, x, row, rows, sums + i * panel_width, tile_stride);
#endif
    }
};

// A thread takes units of panels as they lie in memory: each is read once, in long runs.
template <class Mode, class T>
void run_rows(const Packed& packed, const Inputs& inputs, int64_t first, int64_t rows, T* out, const After<T>& after) {
    const int64_t panels = after.gated ? packed.panels / 2 : packed.panels, width = after.gated ? packed.outputs / 2 : packed.outputs;
    // Smaller units where there would be too few for the threads.
    const int unit = panels >= 2 * unit_panels * num_threads() ? unit_panels : 2;
    parallel_runs((panels + unit - 1) / unit, [&](int64_t i, int) {
        const int64_t panel = i * unit;
        const int count = int(std::min<int64_t>(unit, panels - panel));
        constexpr int64_t size = rows_at_once * tile_stride;
        float* sums = static_cast<float*>(scratch(slot_work, 2 * size * sizeof(float)));
        float* gates = after.gated ? sums + size : nullptr;
        for (int64_t row = first; row < first + rows; row += rows_at_once) {
            const int now = int(std::min<int64_t>(rows_at_once, first + rows - row));
            Mode::unit(packed, inputs, panel, count, row, now, sums);
            if (after.gated) Mode::unit(packed, inputs, panel + panels, count, row, now, gates);
            finish_unit(packed, panel, count, now, sums, gates, out + row * width, after);
        }
    });
}

// As many rows in one go as the mode likes to have in the cache while the weights pass by.
template <class Mode, class T>
void run(const Packed& packed, const T* x, int64_t rows, T* out, const After<T>& after) {
    const Inputs inputs = Mode::inputs(packed, x, rows);
    const int64_t most = Mode::rows_in_cache(packed);
    for (int64_t first = 0; first < rows; first += most)
        run_rows<Mode>(packed, inputs, first, std::min(most, rows - first), out, after);
}

#if defined(PAGODA_AMX)
template <Weight Kind, class Few, class T>
void run_or_tiles(const Packed& packed, const T* x, int64_t rows, T* out, const After<T>& after, int rows_for_tiles) {
    if (rows >= rows_for_tiles) run<TileMode<Kind>>(packed, x, rows, out, after);
    else run<VectorUnits<Few>>(packed, x, rows, out, after);
}
#else
template <Weight Kind, class Few, class T>
void run_or_tiles(const Packed& packed, const T* x, int64_t rows, T* out, const After<T>& after, int) {
    run<VectorUnits<Few>>(packed, x, rows, out, after);
}
constexpr int rows_for_bf16_tiles = 0, rows_for_int8_tiles = 0, rows_for_int4_tiles = 0;
#endif

}  // namespace

template <class T>
void product(const Packed& packed, const T* x, int64_t rows, T* out, const After<T>& after) {
    switch (packed.weight) {
        case Weight::f32: return run<VectorUnits<FloatMode<float>>>(packed, x, rows, out, after);
        case Weight::fp16: return run<VectorUnits<FloatMode<fp16>>>(packed, x, rows, out, after);
        case Weight::bf16:
            return run_or_tiles<Weight::bf16, Bf16Mode>(packed, x, rows, out, after, rows_for_bf16_tiles);
        case Weight::bf12:
#if defined(PAGODA_AVX2)
            run<VectorUnits<Bf12Mode>>(packed, x, rows, out, after);
#endif
            return;
        case Weight::int8:
            return run_or_tiles<Weight::int8, Int8Mode>(packed, x, rows, out, after, rows_for_int8_tiles);
        case Weight::int4:
            return run_or_tiles<Weight::int4, Int4Mode>(packed, x, rows, out, after, rows_for_int4_tiles);
    }
}

template void product(const Packed&, const float*, int64_t, float*, const After<float>&);
template void product(const Packed&, const bf16*, int64_t, bf16*, const After<bf16>&);
template void product(const Packed&, const fp16*, int64_t, fp16*, const After<fp16>&);

}  // namespace pagoda::linear
