// Loops without branches, compiled for each instruction set.

#include "elementwise.h"

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kGrain = 1 << 15;

TV_INLINE void select_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT flip, const u64* TV_RESTRICT opened,
                            const u64* TV_RESTRICT bit, const u64* TV_RESTRICT dealt, const u64* TV_RESTRICT share,
                            i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        const u64 flipped = 0 - flip[i], chosen = opened[i] * bit[i] - dealt[i];
        out[i] = (share[i] & flipped) + ((chosen ^ flipped) - flipped);
    }
}

TV_INLINE void multiply_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT dealt, const u64* x, const u64* a,
                              const u64* y, const u64* b, u64 first, i64 begin, i64 end) {
    const u64 adds = 0 - first;
    for (i64 i = begin; i < end; ++i) out[i] = dealt[i] + x[i] * ((y[i] & adds) - b[i]) - a[i] * y[i];
}

TV_INLINE void ring_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT flip, const u64* TV_RESTRICT bit, u64 first,
                          i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        const u64 flipped = 0 - flip[i];
        out[i] = (bit[i] ^ flipped) - flipped + (flip[i] & (0 - first));
    }
}

#ifdef TV_X86
#define TV_EACH_LEVEL(name, signature, arguments)                       \
    TV_AVX512 void name##_avx512 signature { name##_range arguments; }  \
    TV_AVX2 void name##_avx2 signature { name##_range arguments; }      \
    void name##_portable signature { name##_range arguments; }          \
    void name##_any signature {                                         \
        switch (cpu().level) {                                          \
            case Level::avx512: return name##_avx512 arguments;         \
            case Level::avx2: return name##_avx2 arguments;             \
            case Level::portable: return name##_portable arguments;     \
        }                                                               \
    }
#else
#define TV_EACH_LEVEL(name, signature, arguments) \
    void name##_any signature { name##_range arguments; }
#endif

TV_EACH_LEVEL(select,
              (u64* out, const u64* flip, const u64* opened, const u64* bit, const u64* dealt, const u64* share,
               i64 begin, i64 end),
              (out, flip, opened, bit, dealt, share, begin, end))
TV_EACH_LEVEL(multiply,
              (u64* out, const u64* dealt, const u64* x, const u64* a, const u64* y, const u64* b, u64 first, i64 begin,
               i64 end),
              (out, dealt, x, a, y, b, first, begin, end))
TV_EACH_LEVEL(ring, (u64* out, const u64* flip, const u64* bit, u64 first, i64 begin, i64 end),
              (out, flip, bit, first, begin, end))

}  // namespace

void select(u64* out, const u64* flip, const u64* opened, const u64* bit, const u64* dealt, const u64* share,
            i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, 64, [&](i64 begin, i64 end) {
        select_any(out, flip, opened, bit, dealt, share, begin, end);
    });
}

void multiply(u64* out, const u64* dealt, const u64* x, const u64* a, const u64* y, const u64* b, bool first, i64 count,
              int threads) {
    parallel_ranges(threads, count, kGrain, 64, [&](i64 begin, i64 end) {
        multiply_any(out, dealt, x, a, y, b, first ? 1 : 0, begin, end);
    });
}

void bit_to_ring(u64* out, const u64* flip, const u64* bit, bool first, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, 64, [&](i64 begin, i64 end) {
        ring_any(out, flip, bit, first ? 1 : 0, begin, end);
    });
}

}  // namespace tv
