// Loops without branches, compiled for each instruction set.

#include "elementwise.h"

#include <algorithm>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kGrain = 1 << 16;
constexpr i64 kBlock = 512;  // elements: what is drawn for them stays in the first-level cache

TV_INLINE void select_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT flip, const u64* TV_RESTRICT opened,
                            const u64* TV_RESTRICT bit, const u64* TV_RESTRICT dealt, const u64* TV_RESTRICT share,
                            i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        const u64 flipped = 0 - flip[i], chosen = opened[i] * bit[i] - dealt[i];
        out[i] = (share[i] & flipped) + ((chosen ^ flipped) - flipped);
    }
}

TV_INLINE void and_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT bit, const u64* TV_RESTRICT mask, i64 begin,
                         i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] = mask[i] & (0 - bit[i]);
}

TV_INLINE void weigh_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT flip, const u64* TV_RESTRICT bit, u64 weight,
                           u64 first, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        const u64 flipped = 0 - flip[i];
        out[i] += weight * ((bit[i] ^ flipped) - flipped + (flip[i] & (0 - first)));
    }
}

// `out` may be `a`.
TV_INLINE void add_range(u64* out, const u64* a, const u64* b, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] = a[i] + b[i];
}

TV_INLINE void exclusive_range(u8* out, const u8* a, const u8* b, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] = static_cast<u8>(a[i] ^ b[i]);
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

TV_EACH_LEVEL(weigh, (u64* out, const u64* flip, const u64* bit, u64 weight, u64 first, i64 begin, i64 end),
              (out, flip, bit, weight, first, begin, end))
TV_EACH_LEVEL(and, (u64* out, const u64* bit, const u64* mask, i64 begin, i64 end), (out, bit, mask, begin, end))
TV_EACH_LEVEL(add, (u64* out, const u64* a, const u64* b, i64 begin, i64 end), (out, a, b, begin, end))
TV_EACH_LEVEL(exclusive, (u8* out, const u8* a, const u8* b, i64 begin, i64 end), (out, a, b, begin, end))

template <class Body>
void each_block(i64 count, int threads, const Body& body) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        for (i64 at = begin; at < end; at += kBlock) body(at, std::min(kBlock, end - at));
    });
}

}  // namespace

void select_masks(u64* out, const Pads& pads, const u64* bit, const u64* mask, i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        and_any(out, bit, mask, at, at + size);
        take_off(pads, out, at, at + size);
    });
}

void select(u64* out, const u64* flip, const u64* opened, const u64* bit, const Source& dealt, const u64* share,
            i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        alignas(64) u64 drawn[kBlock + Source::kSlack];
        const u64* const piece = dealt.ring(at, size, drawn);
        select_any(out + at, flip + at, opened + at, bit + at, piece, share + at, 0, size);
    });
}

void multiply(u64* out, const Source& dealt, const u64* x, const u64* a, const u64* y, const u64* b, bool first,
              i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        alignas(64) u64 drawn[kBlock + Source::kSlack];
        const u64* const piece = dealt.ring(at, size, drawn);
        multiply_any(out + at, piece, x + at, a + at, y + at, b + at, first ? 1 : 0, 0, size);
    });
}

void bit_to_ring(u64* out, const u64* flip, const u64* bit, bool first, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, 64, [&](i64 begin, i64 end) {
        ring_any(out, flip, bit, first ? 1 : 0, begin, end);
    });
}

void weigh_bits(u64* out, const u64* const* flips, const u64* const* bits, const u64* weights, int n, u64 constant,
                bool first, i64 count, int threads) {
    // Long pieces: many bits are many streams, and the hardware fetches ahead only along those that go on for a while.
    parallel_ranges(threads, count, kGrain / 4, kBlock, [&](i64 begin, i64 end) {
        for (i64 at = begin; at < end; at += 32 * kBlock) {
            const i64 stop = std::min(end, at + 32 * kBlock);
            std::fill(out + at, out + stop, first ? constant : 0);
            for (int j = 0; j < n; ++j) weigh_any(out, flips[j], bits[j], weights[j], first ? 1 : 0, at, stop);
        }
    });
}

void add_pieces(u64* out, const u64* const* pieces, int n, i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        add_any(out, pieces[0], pieces[1], at, at + size);
        for (int i = 2; i < n; ++i) add_any(out, out, pieces[i], at, at + size);
    });
}

void xor_pieces(u8* out, const u8* const* pieces, int n, i64 count, int threads) {
    parallel_ranges(threads, count, 8 * kGrain, 8 * kBlock, [&](i64 begin, i64 end) {
        exclusive_any(out, pieces[0], pieces[1], begin, end);
        for (int i = 2; i < n; ++i) exclusive_any(out, out, pieces[i], begin, end);
    });
}

}  // namespace tv
