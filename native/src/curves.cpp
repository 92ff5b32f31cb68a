// Theory of operation. Elements are taken a block at a time: the angle's cosine and sine by two look-ups and one linear
// step, then one harmonic after the other by a rotation, each used and forgotten while it is in the first-level cache.
// Keystream is drawn for a block just before its use. All numbers are integers, so the results are those of
// `torchveil.kernels.tables` to the last bit.
//
// The tables are the only ones in this module that are indexed by elements: by public openings at the parties, and by
// bits of masks, which it knows anyway, at the provider.

#include "curves.h"

#include <algorithm>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kBlock = 256;
constexpr i64 kGrain = 1 << 12;
constexpr int kCoarse = 11, kFine = 11, kTurn = 40, kInner = 31, kSlope = 30, kScale = 30, kExpSlope = 20;

TV_INLINE u64 sar(u64 x, int bits) { return static_cast<u64>(static_cast<i64>(x) >> bits); }

// floor(x / 2^bits + 1 / 2)
TV_INLINE u64 round_shift(u64 x, int bits) { return sar(x + (u64{1} << (bits - 1)), bits); }

TV_INLINE u64 low_bits(int bits) { return (u64{1} << bits) - 1; }

TV_INLINE void angle_range(u64* TV_RESTRICT cosine, u64* TV_RESTRICT sine, const u64* TV_RESTRICT phase,
                           const TrigTables& t, int bits, i64 count) {
    const u64 *TV_RESTRICT cc = t.coarse_cos, *TV_RESTRICT cs = t.coarse_sin, *TV_RESTRICT fc = t.fine_cos,
              *TV_RESTRICT fs = t.fine_sin;
    if (bits <= kCoarse) {
        for (i64 i = 0; i < count; ++i) {
            const u64 high = (phase[i] & low_bits(bits)) << (kCoarse - bits);
            cosine[i] = round_shift(cc[high], 1);
            sine[i] = round_shift(cs[high], 1);
        }
        return;
    }
    const int down = 2 * kInner - kScale, rest = bits - kCoarse;
    if (rest <= kFine) {
        for (i64 i = 0; i < count; ++i) {
            const u64 high = (phase[i] >> rest) & low_bits(kCoarse), middle = (phase[i] & low_bits(rest)) << (kFine - rest);
            cosine[i] = round_shift(cc[high] * fc[middle] - cs[high] * fs[middle], down);
            sine[i] = round_shift(cs[high] * fc[middle] + cc[high] * fs[middle], down);
        }
        return;
    }
    const int last = rest - kFine, cut = bits > kTurn ? bits - kTurn : 0, raise = bits > kTurn ? 0 : kTurn - bits;
    for (i64 i = 0; i < count; ++i) {
        const u64 high = (phase[i] >> rest) & low_bits(kCoarse), middle = (phase[i] >> last) & low_bits(kFine);
        const u64 angle = round_shift((((phase[i] & low_bits(last)) >> cut) << raise) * t.slope, kSlope);
        const u64 c = cc[high] * fc[middle] - cs[high] * fs[middle], s = cs[high] * fc[middle] + cc[high] * fs[middle];
        cosine[i] = round_shift(c - sar(s, kInner) * angle, down);
        sine[i] = round_shift(s + sar(c, kInner) * angle, down);
    }
}

TV_INLINE void rotate_range(u64* TV_RESTRICT cosine, u64* TV_RESTRICT sine, const u64* cos_a, const u64* sin_a,
                            const u64* cos_b, const u64* sin_b, i64 count) {
    for (i64 i = 0; i < count; ++i) {
        cosine[i] = round_shift(cos_a[i] * cos_b[i] - sin_a[i] * sin_b[i], kScale);
        sine[i] = round_shift(sin_a[i] * cos_b[i] + cos_a[i] * sin_b[i], kScale);
    }
}

// out += factor * piece, the factors public.
TV_INLINE void add_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT cosine, const u64* TV_RESTRICT sine, u64 a, u64 b,
                         const u64* TV_RESTRICT with_cos, const u64* TV_RESTRICT with_sin, i64 count) {
    for (i64 i = 0; i < count; ++i) {
        out[i] += round_shift(cosine[i] * a + sine[i] * b, kScale) * with_cos[i] +
                  round_shift(sine[i] * a - cosine[i] * b, kScale) * with_sin[i];
    }
}

TV_INLINE void choose_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT flip, const u64* TV_RESTRICT zero,
                            const u64* TV_RESTRICT one, i64 count) {
    for (i64 i = 0; i < count; ++i) out[i] = (one[i] & (0 - flip[i])) | (zero[i] & (flip[i] - 1));
}

TV_INLINE void part_range(u64* TV_RESTRICT with, u64* TV_RESTRICT without, const u64* TV_RESTRICT value,
                          const u64* TV_RESTRICT bit, i64 count) {
    for (i64 i = 0; i < count; ++i) {
        with[i] = value[i] & (0 - bit[i]);
        without[i] = value[i] & (bit[i] - 1);
    }
}

TV_INLINE void constant_range(u64* TV_RESTRICT out, u64 constant, const u64* flip, const u64* bit, u64 first, i64 count) {
    if (flip == nullptr) {
        for (i64 i = 0; i < count; ++i) out[i] = constant & (0 - first);
        return;
    }
    for (i64 i = 0; i < count; ++i) {
        const u64 flipped = 0 - flip[i];
        out[i] = constant * ((bit[i] ^ flipped) - flipped + (flip[i] & (0 - first)));
    }
}

TV_INLINE u64 exponential_of(u64 x, const ExponentialTables& t) {
    const u64 offset = static_cast<u64>(std::min(std::max(static_cast<i64>(x), t.low), t.high) - t.low);
    const u64 index = offset >> t.step_bits, rest = offset & low_bits(t.step_bits);
    u64 factor = t.fine[rest >> t.linear_bits];
    if (t.linear_bits != 0) {
        const u64 small = round_shift((rest & low_bits(t.linear_bits)) * t.slope, kExpSlope);
        factor += round_shift(small * factor, kInner);
    }
    // without a rest the only factor is 2^31
    return sar(sar(t.mantissas[index] * factor, static_cast<int>(t.shifts[index])) + 1, 1);
}

TV_INLINE void masked_range(u64* TV_RESTRICT zero, u64* TV_RESTRICT one, const u64* TV_RESTRICT mask, int bits,
                            const ExponentialTables& t, i64 count) {
    for (i64 i = 0; i < count; ++i) {
        const u64 factor = exponential_of(0 - (mask[i] & low_bits(bits)), t), top = 0 - ((mask[i] >> bits) & 1);
        zero[i] = factor & ~top;
        one[i] = factor & top;
    }
}

TV_INLINE void opened_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT opened, const u64* TV_RESTRICT zero,
                            const u64* TV_RESTRICT one, int bits, const ExponentialTables& t, i64 count) {
    for (i64 i = 0; i < count; ++i) {
        const u64 v = opened[i] + low_bits(bits), low = v & low_bits(bits), top = 0 - ((v >> bits) & 1);
        const u64 negative = exponential_of(low - low_bits(bits), t), positive = exponential_of(low + 1, t);
        const u64 first = (positive & top) | (negative & ~top), second = (negative & top) | (positive & ~top);
        out[i] = first * zero[i] + second * one[i];
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

TV_EACH_LEVEL(angle, (u64* cosine, u64* sine, const u64* phase, const TrigTables& t, int bits, i64 count),
              (cosine, sine, phase, t, bits, count))
TV_EACH_LEVEL(rotate,
              (u64* cosine, u64* sine, const u64* cos_a, const u64* sin_a, const u64* cos_b, const u64* sin_b, i64 count),
              (cosine, sine, cos_a, sin_a, cos_b, sin_b, count))
TV_EACH_LEVEL(add,
              (u64* out, const u64* cosine, const u64* sine, u64 a, u64 b, const u64* with_cos, const u64* with_sin,
               i64 count),
              (out, cosine, sine, a, b, with_cos, with_sin, count))
TV_EACH_LEVEL(choose, (u64* out, const u64* flip, const u64* zero, const u64* one, i64 count),
              (out, flip, zero, one, count))
TV_EACH_LEVEL(part, (u64* with, u64* without, const u64* value, const u64* bit, i64 count),
              (with, without, value, bit, count))
TV_EACH_LEVEL(constant, (u64* out, u64 constant, const u64* flip, const u64* bit, u64 first, i64 count),
              (out, constant, flip, bit, first, count))
TV_EACH_LEVEL(masked, (u64* zero, u64* one, const u64* mask, int bits, const ExponentialTables& t, i64 count),
              (zero, one, mask, bits, t, count))
TV_EACH_LEVEL(opened,
              (u64* out, const u64* opened, const u64* zero, const u64* one, int bits, const ExponentialTables& t,
               i64 count),
              (out, opened, zero, one, bits, t, count))

// A block of u64 with room for the slack of a source.
struct alignas(64) Room {
    u64 of[kBlock + Source::kSlack];
};

// The harmonics of one block after the other.
class Walk {
public:
    explicit Walk(const Angle& angle) : angle_(angle), rooms_(static_cast<std::size_t>(2 * angle.harmonics.slots)) {}

    // use(frequency, cosine, sine) for each frequency.
    template <class Use>
    void block(const u64* phase, i64 count, const Use& use) {
        const Harmonics& h = angle_.harmonics;
        angle_any(cosine(0), sine(0), phase, angle_.tables, angle_.bits, count);
        int done = 0;
        for (std::size_t f = 0; f < h.slot.size(); ++f) {
            for (; done < h.steps_before[f]; ++done) {
                const Rotation& r = h.steps[static_cast<std::size_t>(done)];
                rotate_any(cosine(r.to), sine(r.to), cosine(r.a), sine(r.a), cosine(r.b), sine(r.b), count);
            }
            use(f, cosine(h.slot[f]), sine(h.slot[f]));
        }
    }

private:
    u64* cosine(int slot) { return rooms_[static_cast<std::size_t>(2 * slot)].of; }
    u64* sine(int slot) { return rooms_[static_cast<std::size_t>(2 * slot + 1)].of; }

    const Angle& angle_;
    std::vector<Room> rooms_;
};

}  // namespace

void series_masks(const std::vector<u64*>& out, const std::vector<Pads>& pads, const u64* mask, const u64* bit,
                  const Angle& angle, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        Walk walk(angle);
        for (i64 at = begin; at < end; at += kBlock) {
            const i64 size = std::min(kBlock, end - at);
            walk.block(mask + at, size, [&](std::size_t f, const u64* cosine, const u64* sine) {
                const std::size_t each = bit == nullptr ? 1 : 2;
                const u64* const values[2] = {cosine, sine};
                for (std::size_t v = 0; v < 2; ++v) {
                    const std::size_t k = (2 * f + v) * each;
                    if (bit == nullptr) {
                        std::copy_n(values[v], size, out[k] + at);
                    } else {
                        part_any(out[k] + at, out[k + 1] + at, values[v], bit + at, size);
                    }
                    for (std::size_t e = 0; e < each; ++e) take_off(pads[k + e], out[k + e], at, at + size);
                }
            });
        }
    });
}

void series(u64* out, const u64* opened, const std::vector<Source>& pieces, const u64* flip, const u64* bit, bool first,
            const Coefficients& coefficients, const Angle& angle, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        Walk walk(angle);
        std::vector<Room> rooms(6);
        for (i64 at = begin; at < end; at += kBlock) {
            const i64 size = std::min(kBlock, end - at);
            constant_any(out + at, coefficients.constant, flip == nullptr ? nullptr : flip + at,
                         bit == nullptr ? nullptr : bit + at, first ? 1 : 0, size);
            walk.block(opened + at, size, [&](std::size_t f, const u64* cosine, const u64* sine) {
                const u64* dealt[2];
                for (std::size_t v = 0; v < 2; ++v) {
                    if (flip == nullptr) {
                        dealt[v] = pieces[2 * f + v].ring(at, size, rooms[v].of);
                        continue;
                    }
                    const std::size_t k = 4 * f + 2 * v;
                    const u64* const zero = pieces[k].ring(at, size, rooms[2 + v].of);
                    const u64* const one = pieces[k + 1].ring(at, size, rooms[4 + v].of);
                    choose_any(rooms[v].of, flip + at, zero, one, size);
                    dealt[v] = rooms[v].of;
                }
                add_any(out + at, cosine, sine, coefficients.cosines[f], coefficients.sines[f], dealt[0], dealt[1], size);
            });
        }
    });
}

void exponential_masks(u64* const (&out)[4], const Pads (&pads)[4], const u64* mask, const u64* bit, int bits,
                       const ExponentialTables& tables, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        std::vector<Room> rooms(2);
        for (i64 at = begin; at < end; at += kBlock) {
            const i64 size = std::min(kBlock, end - at);
            if (bit == nullptr) {
                masked_any(out[0] + at, out[1] + at, mask + at, bits, tables, size);
            } else {
                masked_any(rooms[0].of, rooms[1].of, mask + at, bits, tables, size);
                part_any(out[0] + at, out[1] + at, rooms[0].of, bit + at, size);
                part_any(out[2] + at, out[3] + at, rooms[1].of, bit + at, size);
            }
            for (int k = 0; k < (bit == nullptr ? 2 : 4); ++k) take_off(pads[k], out[k], at, at + size);
        }
    });
}

void exponential(u64* out, const u64* opened, const Source (&pieces)[4], const u64* flip, int bits,
                 const ExponentialTables& tables, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        std::vector<Room> rooms(6);
        for (i64 at = begin; at < end; at += kBlock) {
            const i64 size = std::min(kBlock, end - at);
            const u64* dealt[2];
            for (std::size_t v = 0; v < 2; ++v) {
                if (flip == nullptr) {
                    dealt[v] = pieces[v].ring(at, size, rooms[v].of);
                    continue;
                }
                const u64* const zero = pieces[2 * v].ring(at, size, rooms[2 + v].of);
                const u64* const one = pieces[2 * v + 1].ring(at, size, rooms[4 + v].of);
                choose_any(rooms[v].of, flip + at, zero, one, size);
                dealt[v] = rooms[v].of;
            }
            opened_any(out + at, opened + at, dealt[0], dealt[1], bits, tables, size);
        }
    });
}

}  // namespace tv
