/* Detection only. The compiler's own support asks the operating system too, whether it saves the wide registers. */
#include "cpu.h"

#if defined(_MSC_VER) && !defined(__clang__) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
int fl_cpu_features(void) {
    int r[4], features = 0;
    __cpuid(r, 1);
    const int fma = r[2] >> 12 & 1, xsave = r[2] >> 27 & 1, f16c = r[2] >> 29 & 1;
    if (!xsave || !fma || !f16c) return 0;
    const unsigned long long saved = _xgetbv(0);
    __cpuidex(r, 7, 0);
    if ((saved & 0x6) == 0x6 && (r[1] >> 5 & 1)) features |= FL_CPU_AVX2;
    if ((saved & 0xe6) == 0xe6 && (r[1] >> 16 & 1) && (r[1] >> 17 & 1) && (r[1] >> 30 & 1) && (r[1] >> 31 & 1)) features |= FL_CPU_AVX512;
    if (features & FL_CPU_AVX512 && (r[2] >> 11 & 1)) features |= FL_CPU_VNNI;
    return features;
}
#elif defined(__x86_64__) || defined(__i386__)
int fl_cpu_features(void) {
    int features = 0;
    __builtin_cpu_init();
    const int fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (fma) features |= FL_CPU_AVX2;
    if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
        features |= FL_CPU_AVX512;
    if (features & FL_CPU_AVX512 && __builtin_cpu_supports("avx512vnni")) features |= FL_CPU_VNNI;
    return features;
}
#elif defined(__aarch64__) || defined(_M_ARM64)
int fl_cpu_features(void) { return FL_CPU_NEON; }
#else
int fl_cpu_features(void) { return 0; }
#endif
