// Whole-number weights on CPUs that nothing is known of: made floats, a block at a time.
#pragma once

#include "linear_tiles.h"

namespace pagoda::linear {

template <Weight Kind>
struct WidenedMode : FloatMode<float> {
    static constexpr int expands_from = 0;
    struct Stored {};

    static void expand(const Packed& packed, int64_t panel, int64_t begin, int64_t end, float* to) {
        const char* from = packed.panel(panel);
        for (int64_t k = begin; k < end; ++k) {
            for (int n = 0; n < panel_width; ++n) {
                if constexpr (Kind == Weight::int8) {
                    *to++ = float(int8_t(from[place_of(int8_step, k, n)]));  // scaled with the bias
                } else {
                    const int level = uint8_t(from[byte_of_int4(k, n)]) >> (k % 8 / 4 * 4) & 15;
                    const bf16 scale = packed.group_scales(panel)[k / group_int4 * panel_width + n];
                    *to++ = float(level - int4_zero) * to_float(scale);
                }
            }
        }
    }
};

using Int8Mode = WidenedMode<Weight::int8>;
using Int4Mode = WidenedMode<Weight::int4>;
using Bf16Mode = FloatMode<bf16>;

}  // namespace pagoda::linear
