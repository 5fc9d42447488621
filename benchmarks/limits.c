/* What a core can do: multiply-adds, products of matrices, waiting, reads, and widening of halves. limits.py compiles this for the machine at hand.

   Vectors are the compiler's own, as wide as the machine's registers, so one source serves all instruction sets.
   That they are multiply-adds is left to the compiler too (-ffp-contract=fast, no other relaxation). */
#include <stddef.h>
#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

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

#define UNROLL _Pragma("GCC unroll 32")
#if defined(__x86_64__)
#define VECTOR "v"
#else
#define VECTOR "w"
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

/* A product of matrices in tiles of registers as libraries make it: ROWS rows of x, held against a panel of SOURCES times COLUMNS
   vectors of w, added to what is there. All rows pass a panel, which is asked for while they pass the one before. Loads, and
   bringing w nearer, are what it has beyond `limits_fma`. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ROWS 6
#else
#define ROWS 3
#endif
#define COLUMNS 4
#define SOURCES 64
enum { PANEL = SOURCES * COLUMNS };

/* Bytes of a panel, rows of a tile, and bytes of what a tile has beside w. */
long limits_panel(void) { return PANEL * BYTES; }
long limits_rows(void) { return ROWS; }
long limits_tile(void) { return ROWS * (SOURCES * (long)sizeof(float) + COLUMNS * BYTES); }

/* w (panels, SOURCES, COLUMNS, vector); sums (tiles * ROWS, COLUMNS, vector) and behind them x (tiles * ROWS, SOURCES). */
void limits_product(const float *w, float *sums, long panels, long tiles, long times) {
    const float *x = (const float *)((floats *)sums + tiles * ROWS * COLUMNS);
    const long asked = panels > 1 ? (PANEL * BYTES / 64 + tiles - 1) / tiles : 0; /* lines, by each tile */
    const floats *panel = (const floats *)w, *end = panel + panels * PANEL;
    for (long p = 0; p < panels * times; p++) {
        const floats *next = panel + PANEL == end ? (const floats *)w : panel + PANEL;
        const char *ask = (const char *)next;
        for (long t = 0; t < tiles; t++) {
            const float *row = x + t * ROWS * SOURCES;
            floats *sum = (floats *)sums + t * ROWS * COLUMNS, a[ROWS * COLUMNS];
            UNROLL for (int k = 0; k < ROWS * COLUMNS; k++) a[k] = (floats){0};
            for (long s = 0; s < SOURCES; s++) {
                floats v[COLUMNS];
                if (s < asked) __builtin_prefetch(ask + 64 * s, 0, 2);
                UNROLL for (int n = 0; n < COLUMNS; n++) v[n] = panel[s * COLUMNS + n];
                UNROLL for (int r = 0; r < ROWS; r++)
                    UNROLL for (int n = 0; n < COLUMNS; n++) a[r * COLUMNS + n] += row[r * SOURCES + s] * v[n];
            }
            UNROLL for (int k = 0; k < ROWS * COLUMNS; k++) sum[k] += a[k];
            ask += 64 * asked;
        }
        panel = next;
        __asm__ volatile("" : : "r"(w) : "memory");
    }
}

/* Each operation waits for the one before: `fmas` multiply-adds and two divisions a step, whose result is written, and read
   by the next one. `spill`: room for a vector. */
float limits_chain(long steps, long fmas, float *spill) {
    floats a, one = {0};
    one += 1.0f;
    *(floats *)spill = one;
    for (long i = 0; i < steps; i++) {
        a = one - one + spill[0];
        for (long k = 0; k < fmas; k++) {
            a = a * one + one;
            __asm__ volatile("" : "+" VECTOR(a)); /* or it is worked out beforehand */
        }
        a = one / a;
        __asm__ volatile("" : "+" VECTOR(a));
        a = one / a;
        *(floats *)spill = a * 0.5f;
        __asm__ volatile("" : : "r"(spill) : "memory");
    }
    return spill[0];
}

/* One pass over `bytes`, a multiple of 1,024, at `from`, aligned to a vector; every other `turn` from the last 32 kB to the first:
   what a cache still holds of the end is then read before it is driven out. */
static inline void read_pass(const void *from, size_t bytes, long turn, words *s) {
    const size_t block = (bytes % 32768 ? bytes : 32768) / sizeof(words), all = bytes / sizeof(words);
    for (size_t at = 0; at < all; at += block) {
        const words *p = (const words *)from + (turn % 2 ? all - block - at : at);
        for (size_t i = 0; i < block; i += 8)
            for (int k = 0; k < 8; k++) s[k] += p[i + k];
    }
    __asm__ volatile("" : : "r"(from) : "memory"); /* or one reading would do for all */
}

static unsigned read_sum(const words *s) {
    words sum = {0};
    for (int k = 0; k < 8; k++) sum += s[k];
    return sum[0];
}

unsigned limits_read(const void *from, size_t bytes, long times) {
    words s[8] = {{0}};
    for (long t = 0; t < times; t++) read_pass(from, bytes, t, s);
    return read_sum(s);
}

/* The same, one pass in each call of `limits_once`, which takes nothing and so costs Python as little as a call can. */
static struct {
    const void *from;
    size_t bytes;
    long turn;
    unsigned sum;
} once;

void limits_once_prepare(const void *from, size_t bytes) { once.from = from, once.bytes = bytes; }

void limits_once(void) {
    words s[8] = {{0}};
    read_pass(once.from, once.bytes, once.turn++, s);
    once.sum += read_sum(s);
}

/* Widen float16 numbers from the first-level cache and multiply-add each: how many in one of the `times`; 0: this is not known here. */
enum { HALVES = 4096 };
#if defined(__AVX512F__)
#define WIDENED(p) ((floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p))))
#elif defined(__F16C__) && defined(__AVX__)
#define WIDENED(p) ((floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))
#elif defined(__aarch64__)
#define WIDENED(p) ((floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))))
#endif
#ifdef WIDENED
long limits_half_count(void) { return HALVES; }

float limits_half(const unsigned short *from, long times, float factor) {
    floats a[8] = {{0}}, f = {0}, sum = {0};
    f += factor;
    for (long t = 0; t < times; t++) {
        for (size_t i = 0; i < HALVES; i += 8 * BYTES / 4)
            UNROLL for (int k = 0; k < 8; k++) a[k] += f * WIDENED(from + i + k * BYTES / 4);
        __asm__ volatile("" : : "r"(from) : "memory");
    }
    for (int k = 0; k < 8; k++) sum += a[k];
    return sum[0];
}
#else
long limits_half_count(void) { return 0; }

float limits_half(const unsigned short *from, long times, float factor) {
    (void)from, (void)times;
    return factor;
}
#endif
