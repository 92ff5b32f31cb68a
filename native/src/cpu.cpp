#include "cpu.h"

#include <cstdlib>
#include <cstring>

namespace tv {
namespace {

Cpu detect() {
    Cpu found{Level::portable, false, false};
#ifdef TV_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")) {
        found.level = Level::avx2;
        found.aes = __builtin_cpu_supports("aes");
    }
    if (found.level == Level::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        found.level = Level::avx512;
        found.vaes = found.aes && __builtin_cpu_supports("vaes");
    }
#endif
    return found;
}

Cpu limited(Level level) {
    Cpu result = detect();
    if (level < result.level) result.level = level;
    result.aes = result.aes && result.level >= Level::avx2;
    result.vaes = result.vaes && result.level >= Level::avx512;
    return result;
}

Cpu from_environment() {
    const char* wanted = std::getenv("TORCHVEIL_CPU");
    if (wanted != nullptr && std::strcmp(wanted, "portable") == 0) return limited(Level::portable);
    if (wanted != nullptr && std::strcmp(wanted, "avx2") == 0) return limited(Level::avx2);
    return limited(Level::avx512);
}

Cpu& current() {
    static Cpu chosen = from_environment();
    return chosen;
}

}  // namespace

const Cpu& cpu() { return current(); }

bool set_level(Level level) {
    current() = limited(level);
    return current().level == level;
}

}  // namespace tv
