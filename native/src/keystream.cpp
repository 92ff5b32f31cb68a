// Theory of operation. Counter mode of NIST SP 800-38A, section 6.5: block i of a label is AES(key, label || i), both
// halves big-endian. The blocks are independent, so 8 registers are encrypted at a time to fill the pipeline of the AES
// unit; the keystream is combined with its use while it is in registers.

#include "keystream.h"

#include <algorithm>
#include <cstring>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kGrain = 1 << 19;  // bytes per task

// The S-box from arithmetic in GF(2^8) (FIPS 197, section 5.1.1), without a table that is indexed by key bytes.
u8 multiply(u8 a, u8 b) {
    u32 product = 0;
    for (int i = 0; i < 8; ++i) product ^= (static_cast<u32>(a) << i) & (0u - ((b >> i) & 1u));
    for (int i = 14; i >= 8; --i) product ^= (0x11Bu << (i - 8)) & (0u - ((product >> i) & 1u));
    return static_cast<u8>(product);
}

u8 substitute(u8 x) {
    u8 inverse = 1, power = x;  // x^254 = x^(2 + 4 + ... + 128)
    for (int i = 1; i < 8; ++i) {
        power = multiply(power, power);
        inverse = multiply(inverse, power);
    }
    u32 out = inverse;
    for (int i = 1; i < 5; ++i) out ^= (static_cast<u32>(inverse) << i) | (static_cast<u32>(inverse) >> (8 - i));
    return static_cast<u8>(out ^ 0x63u);
}

struct Use {
    u8* out;
    const u8* in;
    u8* kept;
    u64 keep;
};

#ifdef TV_X86

// --- AES-NI ------------------------------------------------------------------------------------------------------

template <Combine how>
TV_AESNI TV_INLINE __m128i combined(__m128i in, __m128i ks) {
    if (how == Combine::add) return _mm_add_epi64(in, ks);
    if (how == Combine::subtract) return _mm_sub_epi64(in, ks);
    if (how == Combine::exclusive) return _mm_xor_si128(in, ks);
    return ks;
}

template <Combine how>
TV_AESNI void run_aesni(const u8* round_keys, u64 label, const Use& use, i64 begin, i64 end) {
    __m128i keys[11];
    for (int r = 0; r < 11; ++r) keys[r] = _mm_load_si128(reinterpret_cast<const __m128i*>(round_keys) + r);
    const __m128i keep = _mm_set1_epi64x(static_cast<long long>(use.keep));
    const long long high = static_cast<long long>(__builtin_bswap64(label));
    for (i64 at = begin; at < end; at += 128) {
        __m128i s[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            const u64 index = __builtin_bswap64(static_cast<u64>(at / 16 + i));
            s[i] = _mm_xor_si128(_mm_set_epi64x(static_cast<long long>(index), high), keys[0]);
        }
#pragma GCC unroll 9
        for (int r = 1; r < 10; ++r) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) s[i] = _mm_aesenc_si128(s[i], keys[r]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) s[i] = _mm_and_si128(_mm_aesenclast_si128(s[i], keys[10]), keep);
        const i64 size = std::min<i64>(128, end - at);
        alignas(16) u8 edge[2][128];
        const u8* in = use.in == nullptr ? edge[0] : use.in + at;
        u8* out = use.out + at;
        if (size < 128) {
            if (use.in != nullptr) std::memcpy(edge[0], in, static_cast<std::size_t>(size));
            in = out = edge[0];
        }
        u8* kept = use.kept == nullptr ? nullptr : size < 128 ? edge[1] : use.kept + at;
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            const __m128i old = how == Combine::fill ? s[i] : _mm_loadu_si128(reinterpret_cast<const __m128i*>(in) + i);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + i, combined<how>(old, s[i]));
            if (kept != nullptr) _mm_storeu_si128(reinterpret_cast<__m128i*>(kept) + i, s[i]);
        }
        if (size < 128) {
            std::memcpy(use.out + at, edge[0], static_cast<std::size_t>(size));
            if (kept != nullptr) std::memcpy(use.kept + at, edge[1], static_cast<std::size_t>(size));
        }
    }
}

// --- VAES --------------------------------------------------------------------------------------------------------

template <Combine how>
TV_VAES TV_INLINE __m512i combined(__m512i in, __m512i ks) {
    if (how == Combine::add) return _mm512_add_epi64(in, ks);
    if (how == Combine::subtract) return _mm512_sub_epi64(in, ks);
    if (how == Combine::exclusive) return _mm512_xor_si512(in, ks);
    return ks;
}

template <Combine how>
TV_VAES void run_vaes(const u8* round_keys, u64 label, const Use& use, i64 begin, i64 end) {
    __m512i keys[11];
#pragma GCC unroll 11
    for (int r = 0; r < 11; ++r) {
        keys[r] = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(round_keys) + r));
    }
    const __m512i keep = _mm512_set1_epi64(static_cast<long long>(use.keep));
    const long long high = static_cast<long long>(label);
    // Counters as little-endian quadwords (label, index), turned round byte by byte just before use.
    const __m512i turn = _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    const __m512i four = _mm512_set_epi64(4, 0, 4, 0, 4, 0, 4, 0);
    const long long block = begin / 16;
    __m512i counter = _mm512_set_epi64(block + 3, high, block + 2, high, block + 1, high, block, high);
    for (i64 at = begin; at < end; at += 512) {
        __m512i s[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            s[i] = _mm512_xor_si512(_mm512_shuffle_epi8(counter, turn), keys[0]);
            counter = _mm512_add_epi64(counter, four);
        }
#pragma GCC unroll 9
        for (int r = 1; r < 10; ++r) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) s[i] = _mm512_aesenc_epi128(s[i], keys[r]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) s[i] = _mm512_and_si512(_mm512_aesenclast_epi128(s[i], keys[10]), keep);
        if (end - at >= 512) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                const __m512i old = how == Combine::fill ? s[i] : _mm512_loadu_si512(use.in + at + 64 * i);
                _mm512_storeu_si512(use.out + at + 64 * i, combined<how>(old, s[i]));
                if (use.kept != nullptr) _mm512_storeu_si512(use.kept + at + 64 * i, s[i]);
            }
        } else {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                const i64 place = at + 64 * i, left = std::clamp<i64>(end - place, 0, 64);
                const __mmask64 real = left == 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
                const __m512i old = how == Combine::fill ? s[i] : _mm512_maskz_loadu_epi8(real, use.in + place);
                _mm512_mask_storeu_epi8(use.out + place, real, combined<how>(old, s[i]));
                if (use.kept != nullptr) _mm512_mask_storeu_epi8(use.kept + place, real, s[i]);
            }
        }
    }
}

#endif  // TV_X86

using Run = void (*)(const u8*, u64, const Use&, i64, i64);

Run choose(Combine how) {
#ifdef TV_X86
    static const Run aesni[] = {run_aesni<Combine::fill>, run_aesni<Combine::add>, run_aesni<Combine::subtract>,
                                run_aesni<Combine::exclusive>};
    static const Run vaes[] = {run_vaes<Combine::fill>, run_vaes<Combine::add>, run_vaes<Combine::subtract>,
                               run_vaes<Combine::exclusive>};
    if (cpu().vaes) return vaes[static_cast<int>(how)];
    if (cpu().aes) return aesni[static_cast<int>(how)];
#endif
    (void)how;
    return nullptr;
}

}  // namespace

Keystream::Keystream(const u8 (&key)[16]) {
    std::memcpy(round_keys_, key, 16);
    u8 constant = 1;
    for (int i = 16; i < 176; i += 4) {
        u8 word[4];
        std::memcpy(word, round_keys_ + i - 4, 4);
        if (i % 16 == 0) {
            const u8 first = word[0];
            for (int j = 0; j < 3; ++j) word[j] = substitute(word[j + 1]);
            word[3] = substitute(first);
            word[0] ^= constant;
            constant = multiply(constant, 2);
        }
        for (int j = 0; j < 4; ++j) round_keys_[i + j] = round_keys_[i - 16 + j] ^ word[j];
    }
}

Keystream::~Keystream() {
    std::memset(round_keys_, 0, sizeof round_keys_);
    __asm__ __volatile__("" : : "r"(round_keys_) : "memory");  // the compiler must not drop a write nobody reads
}

const u8* Source::bytes(i64 begin, i64 size, u8* scratch) const {
    if (at != nullptr) return at + begin;
    const i64 start = begin & ~i64{15};
    choose(Combine::fill)(key->round_keys(), label, Use{scratch - start, nullptr, nullptr, keep}, start, begin + size);
    return scratch + (begin - start);
}

void combine_range(const Source& source, Combine how, u8* out, i64 begin, i64 end) {
    choose(how)(source.key->round_keys(), source.label, Use{out, out, nullptr, source.keep}, begin, end);
}

void take_off(const Pads& pads, u64* out, i64 begin, i64 end) {
    for (const Source& pad : pads) combine_range(pad, Combine::subtract, reinterpret_cast<u8*>(out), 8 * begin, 8 * end);
}

void blind(const Pads& pads, u8* out, i64 begin, i64 size) {
    for (const Source& pad : pads) {
        if (begin % 16 == 0) {
            combine_range(pad, Combine::exclusive, out - begin, begin, begin + size);
            continue;
        }
        for (i64 at = 0; at < size; at += 512) {
            alignas(64) u8 drawn[512 + Source::kSlack];
            const i64 piece = std::min<i64>(512, size - at);
            const u8* const from = pad.bytes(begin + at, piece, drawn);
            for (i64 i = 0; i < piece; ++i) out[at + i] = static_cast<u8>(out[at + i] ^ from[i]);
        }
    }
}

bool keystream(const Keystream& key, u64 label, Combine how, u8* out, const u8* in, u8* kept, u64 keep, i64 bytes,
               int threads) {
    const Run run = choose(how);
    if (run == nullptr) return false;
    const Use use{out, in, kept, keep};
    parallel_ranges(threads, bytes, kGrain, 512,
                    [&](i64 begin, i64 end) { run(key.round_keys(), label, use, begin, end); });
    return true;
}

}  // namespace tv
