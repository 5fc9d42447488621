/* What the tests of the library share: checks that count, memory with guards, exact random numbers, the FPU's mode. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200112L /* posix_memalign */
#endif

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define CHECK_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECK_ASAN 1
#endif
#endif
#ifndef CHECK_ASAN
#define CHECK_ASAN 0
#endif

/* ---- Checks ---- */

static long check_count, check_failures;
static char check_case[400]; /* what is being checked, for the message */

static inline int check_that(int good, const char *what, const char *file, int line) {
    check_count++;
    if (!good && ++check_failures <= 20) printf("FAIL %s:%d: %s [%s]\n", file, line, what, check_case);
    return good;
}
#define CHECK(condition) check_that(!!(condition), #condition, __FILE__, __LINE__)

/* FNV-1a of n bytes, going on from `hash`; begin with FNV_BEGIN. */
#define FNV_BEGIN 0xcbf29ce484222325u
static inline uint64_t fnv(uint64_t hash, const void *bytes, size_t n) {
    for (size_t j = 0; j < n; j++)
        hash = (hash ^ ((const unsigned char *)bytes)[j]) * 0x100000001b3u;
    return hash;
}

/* ---- Memory: blocks at 64-byte boundaries, of exactly the size asked for, filled with ones (NaN in both types).

   Plain builds put guard bytes on both sides; under ASan nothing lies between the block and its red zones. Blocks are
   freed as a stack: all that were made since a mark. ---- */

enum { MEMORY_BLOCKS = 4096, MEMORY_GUARD = CHECK_ASAN ? 0 : 64, MEMORY_GUARD_BYTE = 0xa5 };
static struct { void *base; size_t bytes; } memory_block[MEMORY_BLOCKS];
static int memory_blocks;

static inline void *memory_new(size_t bytes) {
    void **base = &memory_block[memory_blocks].base;
    if (memory_blocks == MEMORY_BLOCKS - 1 || posix_memalign(base, 64, bytes + 2 * MEMORY_GUARD + !bytes)) {
        printf("FAIL no memory: %lu bytes [%s]\n", (unsigned long)bytes, check_case);
        exit(1);
    }
    memory_block[memory_blocks++].bytes = bytes;
    memset(*base, MEMORY_GUARD_BYTE, bytes + 2 * MEMORY_GUARD);
    return memset((unsigned char *)*base + MEMORY_GUARD, 0xff, bytes);
}

static inline int memory_mark(void) { return memory_blocks; }

static inline void memory_release(int mark) {
    while (memory_blocks > mark) {
        const size_t bytes = memory_block[--memory_blocks].bytes;
        unsigned char *base = memory_block[memory_blocks].base;
        int intact = 1;
        for (int j = 0; j < MEMORY_GUARD; j++)
            intact &= base[j] == MEMORY_GUARD_BYTE && base[MEMORY_GUARD + (ptrdiff_t)bytes + j] == MEMORY_GUARD_BYTE;
        CHECK(intact && "guard bytes");
        free(base);
    }
}

static inline double *memory_zeros(ptrdiff_t n) {
    return memset(memory_new((size_t)n * sizeof(double)), 0, (size_t)n * sizeof(double));
}

/* ---- Elements of either type ---- */

static inline void *real_new(int bits, ptrdiff_t n) { return memory_new((size_t)n * (size_t)(bits / 8)); }

static inline double real_get(int bits, const void *a, ptrdiff_t at) {
    return bits == 32 ? (double)((const float *)a)[at] : ((const double *)a)[at];
}

static inline void real_put(int bits, void *a, ptrdiff_t at, double x) {
    if (bits == 32) ((float *)a)[at] = (float)x;
    else ((double *)a)[at] = x;
}

/* ---- Random numbers: the same on every machine ---- */

static uint64_t random_state = 1;

static inline uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static inline ptrdiff_t random_below(ptrdiff_t n) { return (ptrdiff_t)(random_bits() % (uint64_t)n); }

/* In [-2^exponent, 2^exponent), a multiple of 2^(exponent - 15): exact in float. */
static inline double random_number(int exponent) { return ldexp((double)(random_below(65536) - 32768), exponent - 15); }

/* ---- The mode of the FPU: control bits, and on x86 sticky flags ---- */

#if defined(__SSE__)
enum { FPU_FLUSH = 0x8040, FPU_OTHER = 0x3f, FPU_INVALID = 1 }; /* FTZ and DAZ; all sticky flags */
static inline uint64_t fpu_get(void) { return _mm_getcsr(); }
static inline void fpu_set(uint64_t mode) { _mm_setcsr((unsigned)mode); }
#elif defined(__aarch64__)
enum { FPU_FLUSH = 1 << 24, FPU_OTHER = 1 << 25, FPU_INVALID = 0 }; /* FZ; DN */
static inline uint64_t fpu_get(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode) : : "memory");
    return mode;
}
static inline void fpu_set(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
enum { FPU_FLUSH = 0, FPU_OTHER = 0, FPU_INVALID = 0 };
static inline uint64_t fpu_get(void) { return 0; }
static inline void fpu_set(uint64_t mode) { (void)mode; }
#endif

static uint64_t fpu_ours, fpu_given; /* the test's mode, and that of the call under way */
static unsigned fpu_turn;

static inline void fpu_before(void) {
    fpu_ours = fpu_get();
    fpu_set(fpu_ours | (fpu_turn & 1 ? FPU_FLUSH : 0) | (fpu_turn & 2 ? FPU_OTHER : 0));
    fpu_turn++;
    fpu_given = fpu_get();
}

static inline fastlstm_status fpu_after(fastlstm_status status) {
    const uint64_t mode = fpu_get();
    fpu_set(fpu_ours);
    /* A NaN that was refused may have been compared. */
    CHECK(((mode ^ fpu_given) & ~(uint64_t)(status ? FPU_INVALID : 0)) == 0 && "the FPU's mode is left as it was");
    return status;
}

/* A library call that computes, in a different mode of the FPU each time. */
#define CALL(call) (fpu_before(), fpu_after(call))

#endif
