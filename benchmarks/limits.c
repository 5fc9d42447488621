/* What a core can do: multiply-adds in registers, and reads. limits.py compiles this for the machine at hand.

   Vectors are the compiler's own, as wide as the machine's registers, so one source serves all instruction sets.
   That they are multiply-adds is left to the compiler too (-ffp-contract=fast, no other relaxation). */
#include <stddef.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

/* Chains that do not wait for one another. Latency times ports is 8 to 10 on x86, up to 16 on ARM; with both operands
   they must fit into 32 registers, or into 16. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define CHAINS 16
#else
#define CHAINS 12
#endif

typedef float floats __attribute__((vector_size(BYTES)));
typedef unsigned words __attribute__((vector_size(BYTES)));

/* Floating-point operations in one step of `limits_fma`. */
long limits_fma_flops(void) { return 2L * CHAINS * (BYTES / 4); }

/* Arguments that the compiler does not know, and chains that start apart: or else it merges some of them. */
float limits_fma(long steps, float factor, float term) {
    floats a[CHAINS], f = {0}, t = {0}, sum = {0};
    f += factor;
    t += term;
    for (int k = 0; k < CHAINS; k++) a[k] = t + (float)k;
    for (long i = 0; i < steps; i++)
        for (int k = 0; k < CHAINS; k++) a[k] = a[k] * f + t;
    for (int k = 0; k < CHAINS; k++) sum += a[k];
    return sum[0];
}

/* Read `bytes`, a multiple of 1,024, at `from`, aligned to a vector; `times` over. */
unsigned limits_read(const void *from, size_t bytes, long times) {
    const words *p = from;
    words s[8] = {{0}}, sum = {0};
    for (long t = 0; t < times; t++) {
        for (size_t i = 0; i < bytes / sizeof(words); i += 8)
            for (int k = 0; k < 8; k++) s[k] += p[i + k];
        __asm__ volatile("" : : "r"(p) : "memory"); /* or one reading would do for all */
    }
    for (int k = 0; k < 8; k++) sum += s[k];
    return sum[0];
}
