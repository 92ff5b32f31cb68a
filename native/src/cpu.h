// Which instruction sets this processor has, and which of them to use.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define TV_X86 1
#include <immintrin.h>
#define TV_AVX2 __attribute__((target("avx2,bmi,bmi2")))
#define TV_AESNI __attribute__((target("avx2,aes")))
#ifdef __clang__
#define TV_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2")))
#else
#define TV_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,prefer-vector-width=512")))
#endif
#define TV_VAES __attribute__((target("vaes,aes,avx512f,avx512bw,avx512dq,avx512vl,avx2")))
#endif

#define TV_INLINE inline __attribute__((always_inline))
#define TV_RESTRICT __restrict__

namespace tv {

using i64 = std::int64_t;
using u64 = std::uint64_t;
using u32 = std::uint32_t;
using u16 = std::uint16_t;
using u8 = std::uint8_t;

enum class Level { portable = 0, avx2 = 1, avx512 = 2 };

struct Cpu {
    Level level;
    bool aes;   // AES-NI at level avx2 or above
    bool vaes;  // 512-bit AES at level avx512
};

// What is in use. The environment variable TORCHVEIL_CPU lowers it when the module is loaded.
const Cpu& cpu();

// Use at most this level from now on; false if the processor lacks it. Not to be called while a kernel runs.
bool set_level(Level level);

}  // namespace tv
