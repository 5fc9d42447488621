/* The vector vocabulary against scalar C, and the activations against libm.

   Compiled once per instruction set (FL_ISA_AVX512, FL_ISA_AVX2, FL_ISA_NEON or FL_ISA_GENERIC) and
   element type (FL_F64 or not). f32 activations run over every 257th bit pattern, or over all of them
   with --all; f64 over a sample, twenty times denser with --all. The last line hashes the outputs over a
   fixed sample: it is the same on every instruction set with fma. */
#define _DEFAULT_SOURCE 1

#if defined(FL_ISA_AVX512)
#define ISA "avx512"
#include "../../src/fastlstm/csrc/kernels/simd_avx512.h"
#include "../../src/fastlstm/csrc/kernels/narrow_avx512.h"
#elif defined(FL_ISA_AVX2)
#define ISA "avx2"
#include "../../src/fastlstm/csrc/kernels/simd_avx2.h"
#elif defined(FL_ISA_NEON)
#define ISA "neon"
#include "../../src/fastlstm/csrc/kernels/simd_neon.h"
#else
#define ISA "generic"
#include "../../src/fastlstm/csrc/kernels/simd_generic.h"
#endif

#include "fastlstm.h"
#include "../../src/fastlstm/csrc/kernels/activation.h"
#include "../../src/fastlstm/csrc/kernels/fpu.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#ifdef FL_F64
typedef uint64_t BITS;
typedef long double REF; /* the reference */
#define TYPE "f64"
#define BITS_FMT "%016llx"
#define MANT 52
#define BIAS 1023
#define REAL_MIN DBL_MIN
#define REAL_EPS DBL_EPSILON
#define REAL_LIMIT DBL_MAX
#define R(x) x
#define REF_EXP expl
#define REF_TANH tanhl
#define REF_LOG logl
#define REF_EXPM1 expm1l
#define REF_LOG1P log1pl
/* from here on: sigmoid and tanh are 1, sigmoid is 0, tanh(x) is x */
#define SIGMOID_ONE 37.0
#define SIGMOID_ZERO (-708.4)
#define TANH_ONE 19.1
#define TANH_TINY 0x1p-54
#else
typedef uint32_t BITS;
typedef double REF;
#define TYPE "f32"
#define BITS_FMT "%08llx"
#define MANT 23
#define BIAS 127
#define REAL_MIN FLT_MIN
#define REAL_EPS FLT_EPSILON
#define REAL_LIMIT FLT_MAX
#define R(x) x##f
#define REF_EXP exp
#define REF_TANH tanh
#define REF_LOG log
#define REF_EXPM1 expm1
#define REF_LOG1P log1p
#define SIGMOID_ONE 17.4f
#define SIGMOID_ZERO (-87.34f)
#define TANH_ONE 9.02f
#define TANH_TINY 0x1p-25f
#endif
#define MAX_ULP 4.0
#define SIGN ((BITS)1 << (8 * sizeof(BITS) - 1))
#define INF_BITS ((BITS)(2 * BIAS + 1) << MANT)

static int failures;

static BITS bits(REAL x) {
    BITS b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static REAL real(BITS b) {
    REAL x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* By the bits: under DAZ a comparison would call a subnormal zero. */
static int is_nan(REAL x) { return (bits(x) & ~SIGN) > INF_BITS; }

static void fail(const char *what, REAL a, REAL b, REAL c, REAL got, REAL want) {
    if (++failures > 20) return;
    printf("FAIL %s: (%a, %a, %a) gives %a [" BITS_FMT "], not %a [" BITS_FMT "]\n", what, (double)a, (double)b,
           (double)c, (double)got, (unsigned long long)bits(got), (double)want, (unsigned long long)bits(want));
}

static void summary(const char *what, int before, const char *note) {
    printf("%-4s %-8s %s %-16s %s\n", failures == before ? "ok" : "FAIL", ISA, TYPE, what, note);
}

static uint64_t state;

static uint64_t rnd(void) { /* splitmix64 */
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Exact in both types, hence the same everywhere. */
static REAL uniform(int range) { return (REAL)((int64_t)(rnd() >> 41) - (1 << 22)) * (REAL)range / (REAL)(1 << 22); }

/* ---- vocabulary ---- */

static REAL s_fma(REAL a, REAL b, REAL c) {
#if defined(FL_ISA_AVX512) || defined(FL_ISA_AVX2) || defined(FL_ISA_NEON)
    return R(fma)(a, b, c);
#else
    return a * b + c;
#endif
}

#define SPECIALS 14
static REAL special(int i) {
    static const BITS magnitude[] = {0, 1, ((BITS)1 << MANT) - 1, (BITS)1 << MANT, (BITS)BIAS << MANT,
                                     INF_BITS - 1, INF_BITS};
    return real(magnitude[i >> 1] | (i & 1 ? SIGN : 0));
}

static REAL operand(void) {
    switch (rnd() % 8) {
    case 0: return special((int)(rnd() % SPECIALS));
    case 1: return real(INF_BITS | (BITS)1 << (MANT - 1) | (BITS)(rnd() & 0xff) | (rnd() & 1 ? SIGN : 0));
    case 2: return real((BITS)rnd() & (SIGN | (((BITS)1 << MANT) - 1))); /* subnormal */
    case 3: return real((BITS)rnd() & ~((BITS)1 << (MANT + 1)));
    default: return uniform(4);
    }
}

/* exact: moves bits about, so that NaNs compare too, by their bits */
static void same(const char *what, int exact, const REAL *a, const REAL *b, const REAL *c, V v, const REAL *want) {
    REAL got[VW];
    v_store(got, v);
    for (int i = 0; i < VW; i++) {
        if (!exact && is_nan(got[i]) && is_nan(want[i])) continue;
        if (bits(got[i]) != bits(want[i])) fail(what, a[i], b[i], c[i], got[i], want[i]);
    }
}

#define CHECK(what, exact, v, scalar)                                                                                \
    do {                                                                                                             \
        for (int i = 0; i < VW; i++) {                                                                               \
            const REAL x = a[i], y = b[i], z = c[i];                                                                 \
            (void)x, (void)y, (void)z;                                                                               \
            want[i] = (scalar);                                                                                      \
        }                                                                                                            \
        same(what, exact, a, b, c, v, want);                                                                         \
    } while (0)

static void vocabulary_on(const REAL *a, const REAL *b, const REAL *c) {
    const V va = v_load(a), vb = v_load(b), vc = v_load(c);
    REAL want[VW];
    CHECK("v_load, v_store", 1, va, x);
    CHECK("v_bcast", 1, v_bcast(b + VW - 1), ((void)x, b[VW - 1]));
    CHECK("v_set1", 1, v_set1(b[0]), b[0]);
    CHECK("v_zero", 1, v_zero(), 0);
    CHECK("v_add", 0, v_add(va, vb), x + y);
    CHECK("v_sub", 0, v_sub(va, vb), x - y);
    CHECK("v_mul", 0, v_mul(va, vb), x * y);
    CHECK("v_div", 0, v_div(va, vb), x / y);
    CHECK("v_sqrt", 0, v_sqrt(va), R(sqrt)(x));
    CHECK("v_fma", 0, v_fma(va, vb, vc), s_fma(x, y, z));
    CHECK("v_fnma", 0, v_fnma(va, vb, vc), s_fma(-x, y, z));
    CHECK("v_max", 1, v_max(va, vb), x > y ? x : y);
    CHECK("v_min", 1, v_min(va, vb), x < y ? x : y);
    CHECK("v_abs", 1, v_abs(va), real(bits(x) & ~SIGN));
    CHECK("v_copysign", 1, v_copysign(va, vb), real((bits(x) & ~SIGN) | (bits(y) & SIGN)));
    CHECK("v_lt, v_select", 1, v_select(v_lt(va, vb), va, vc), x < y ? x : z);
}

static void vocabulary(void) {
    const int before = failures;
    REAL a[VW], b[VW], c[VW], want[VW];
    for (int i = 0; i < SPECIALS + 1; i++)
        for (int j = 0; j < SPECIALS + 1; j++)
            for (int k = 0; k < SPECIALS + 1; k++) {
                for (int l = 0; l < VW; l++) {
                    a[l] = i < SPECIALS ? special(i) : (REAL)NAN;
                    b[l] = j < SPECIALS ? special(j) : (REAL)NAN;
                    c[l] = k < SPECIALS ? special(k) : (REAL)NAN;
                }
                vocabulary_on(a, b, c);
            }
    for (int k = 0; k < 20000; k++) {
        for (int l = 0; l < VW; l++) a[l] = operand(), b[l] = operand(), c[l] = operand();
        vocabulary_on(a, b, c);
    }
    for (int n = 1 - BIAS; n <= BIAS; n++) {
        for (int l = 0; l < VW; l++) {
            a[l] = b[l] = c[l] = (REAL)n + FL_ROUND;
            want[l] = (REAL)ldexp(1, n);
        }
        same("v_pow2", 1, a, b, c, v_pow2(v_load(a)), want);
    }
    summary("vocabulary", before, "");
}

static void tail_at(REAL *p, int n) {
    REAL data[VW], want[VW], got[VW];
    for (int i = 0; i < VW; i++) {
        data[i] = (REAL)(i + 1);
        want[i] = i < n ? data[i] : 0;
    }
    if (n) memcpy(p, data, (size_t)n * sizeof *p);
    v_store(got, v_load_n(p, n));
    for (int i = 0; i < VW; i++)
        if (bits(got[i]) != bits(want[i])) fail("v_load_n", (REAL)n, (REAL)i, 0, got[i], want[i]);
    if (n) memset(p, 0, (size_t)n * sizeof *p);
    v_store_n(p, v_load(data), n);
    for (int i = 0; i < n; i++)
        if (bits(p[i]) != bits(data[i])) fail("v_store_n", (REAL)n, (REAL)i, 0, p[i], data[i]);
}

static void tails(void) {
    const int before = failures;
    for (int n = 0; n <= VW; n++)
        for (int at = 0; at < VW; at++) {
            REAL buffer[4 * VW];
            const REAL canary = (REAL)-12345;
            for (int i = 0; i < 4 * VW; i++) buffer[i] = canary;
            tail_at(buffer + VW + at, n);
            for (int i = 0; i < 4 * VW; i++)
                if ((i < VW + at || i >= VW + at + n) && buffer[i] != canary)
                    fail("v_store_n canary", (REAL)n, (REAL)i, 0, buffer[i], canary);
        }
    const char *note = "";
#if defined(__unix__) || defined(__APPLE__)
    /* The last n elements before a page that faults, and the first n after one. */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (map == MAP_FAILED || mprotect(map, page, PROT_NONE) || mprotect(map + 2 * page, page, PROT_NONE)) {
        printf("FAIL no guard pages\n");
        failures++;
    } else {
        for (int n = 0; n <= VW; n++) {
            tail_at((REAL *)(void *)(map + 2 * page) - n, n);
            tail_at((REAL *)(void *)(map + page), n);
        }
        munmap(map, 3 * page);
        note = "with guard pages";
    }
#endif
    summary("tails", before, note);
}

static void fpu(void) {
    const int before = failures;
    volatile REAL small = REAL_MIN, half = (REAL)0.5, tiny = REAL_MIN / 2;
    const REAL outside = small * half;
    const fl_fpu mode = fl_fpu_enter();
    const fl_fpu inner = fl_fpu_enter();
    const BITS result = bits(small * half), operand_ = bits(tiny * 4);
    fl_fpu_leave(inner);
    const BITS still = bits(small * half);
    fl_fpu_leave(mode);
    const REAL after = small * half;
#if defined(__SSE__) || defined(__aarch64__)
    if (result || operand_ || still) fail("flush to zero", real(result), real(operand_), real(still), 1, 0);
#else
    (void)result, (void)operand_, (void)still;
#endif
    if (!outside || bits(after) != bits(outside)) fail("fl_fpu_leave", 0, 0, 0, after, outside);
    summary("fpu", before, "");
}

/* ---- activations ---- */

enum { EXP, SIGMOID, TANH, LOG, EXPM1, LOG1P_EXP, FUNCTIONS };
static const char *const function_name[] = {"v_exp_neg", "v_sigmoid", "v_tanh", "v_log_1_3", "v_expm1_neg", "v_log1p_exp_neg"};

static V apply(int f, V x) {
    switch (f) {
    case EXP: return v_exp_neg(x);
    case SIGMOID: return v_sigmoid(x);
    case TANH: return v_tanh(x);
    case LOG: return v_log_1_3(x);
    case EXPM1: return v_expm1_neg(x);
    default: return v_log1p_exp_neg(x);
    }
}

/* What f is for. */
static int takes(int f, REAL x) { return f == SIGMOID || f == TANH || (f == LOG ? is_nan(x) || (x >= 1 && x <= 3) : !(x > 0)); }

static REF reference(int f, REAL x) {
    switch (f) {
    case EXP: return REF_EXP((REF)x);
    case SIGMOID: return 1 / (1 + REF_EXP(-(REF)x));
    case TANH: return REF_TANH((REF)x);
    case LOG: return REF_LOG((REF)x);
    case EXPM1: return REF_EXPM1((REF)x);
    default: return REF_LOG1P(REF_EXP((REF)x));
    }
}

static REF ulp(REF x) {
    const double d = (double)x;
    uint64_t b;
    memcpy(&b, &d, sizeof b);
    int e = (int)(b >> 52 & 2047) - 1023;
    if (e < 1 - BIAS) e = 1 - BIAS;
#ifdef FL_F64
    return ldexpl(1, e - MANT);
#else
    b = (uint64_t)(e - MANT + 1023) << 52;
    REF u;
    memcpy(&u, &b, sizeof u);
    return u;
#endif
}

static struct {
    double max;
    REAL at;
    unsigned long long count;
} worst[FUNCTIONS];

/* err in ulp; a result below the smallest normal number may be 0 instead, and log1p(exp) below twice that */
static double ulps(REAL got, REF want, int halved) {
    const REF size = want < 0 ? -want : want;
    if (got == 0 && size < (REF)REAL_MIN * (1 + halved) * (1 + 4 * (REF)REAL_EPS)) return 0;
    const REF d = (REF)got - want;
    return (double)((d < 0 ? -d : d) / ulp(want));
}

static void measure_one(int f, REAL x, REAL y) {
    const BITS magnitude = bits(x) & ~SIGN;
    worst[f].count++;
    if (magnitude > INF_BITS) {
        if (!is_nan(y)) fail(function_name[f], x, 0, 0, y, x);
        return;
    }
    const REF want = reference(f, x);
    const double err = is_nan(y) ? INFINITY : ulps(y, want, f == LOG1P_EXP);
    if (err > worst[f].max) worst[f].max = err, worst[f].at = x;
    if (!(err <= MAX_ULP)) fail(function_name[f], x, 0, 0, y, (REAL)want);
    if (f == SIGMOID) {
        if (x >= SIGMOID_ONE && y != 1) fail("sigmoid is 1", x, 0, 0, y, 1);
        if (x <= SIGMOID_ZERO && bits(y)) fail("sigmoid is 0", x, 0, 0, y, 0);
    } else if (f == TANH) {
        if ((bits(x) ^ bits(y)) & SIGN) fail("tanh sign", x, 0, 0, y, (REAL)want);
        if (magnitude >= bits(TANH_ONE) && (bits(y) & ~SIGN) != bits(1)) fail("tanh is 1", x, 0, 0, y, (REAL)want);
        if (magnitude >= (BITS)1 << MANT && magnitude <= bits(TANH_TINY) && bits(y) != bits(x))
            fail("tanh(x) is x", x, 0, 0, y, x);
    }
}

#define BLOCK 1024

/* Vectors of half the width give the same bits, all of one at once or a few alone; what is not asked for they leave alone. */
static void run_narrow(int f, const REAL *in, const REAL *out) {
#ifdef FL_NARROW
    REAL narrow[2 * FL_NARROW + 1];
    if (f != SIGMOID && f != TANH) return;
    for (int i = 0; i < BLOCK; i += FL_NARROW) {
        const int n = 1 + i / FL_NARROW % FL_NARROW;
        const VN y = f == SIGMOID ? vn_sigmoid(vn_load(in + i)) : vn_tanh(vn_load_n(in + i, n));
        for (int j = 0; j <= 2 * FL_NARROW; j++) narrow[j] = 3;
        if (f == SIGMOID) vn_store_wide(narrow, y);
        else vn_store_n(narrow, y, n);
        for (int j = 0; j <= 2 * FL_NARROW; j++) {
            const REAL want = j < (f == SIGMOID ? FL_NARROW : n) ? out[i + j] : f == SIGMOID && j < 2 * FL_NARROW ? 0 : 3;
            if (bits(narrow[j]) != bits(want) && !(is_nan(narrow[j]) && is_nan(want))) fail("narrow", in[i + j % FL_NARROW], j, n, narrow[j], want);
        }
    }
#else
    (void)f, (void)in, (void)out;
#endif
}

static void run(int f, const REAL *in, REAL *out) {
    const fl_fpu mode = fl_fpu_enter();
    for (int i = 0; i < BLOCK; i += VW) v_store(out + i, apply(f, v_load(in + i)));
    run_narrow(f, in, out);
    fl_fpu_leave(mode);
}

static REAL block[BLOCK];
static int filled;

static void flush(void) {
    REAL in[BLOCK], out[BLOCK];
    for (int f = 0; f < FUNCTIONS; f++) {
        int n = 0;
        for (int i = 0; i < filled; i++)
            if (takes(f, block[i])) in[n++] = block[i];
        for (int i = n; i < BLOCK; i++) in[i] = f == LOG;
        run(f, in, out);
        for (int i = 0; i < n; i++) measure_one(f, in[i], out[i]);
    }
    filled = 0;
}

static void measure(REAL x) {
    block[filled++] = x;
    if (filled == BLOCK) flush();
}

static void accuracy(int all) {
    state = 2; /* the vocabulary checks draw as many as the lanes ask for */
    const int before = failures;
    for (int i = 0; i < SPECIALS; i++) measure(special(i));
    measure((REAL)NAN);
#ifdef FL_F64
    const int density = all ? 20 : 1;
    for (int s = 0; s < 2; s++) {
        /* every binade, subnormals included */
        for (BITS e = 0; e <= 2 * BIAS; e++)
            for (int k = 0; k < 16 * density; k++)
                measure(real((s ? SIGN : 0) | e << MANT | (rnd() & (((BITS)1 << MANT) - 1))));
        /* where n changes, of exp and sigmoid (odd multiples of ln2 / 2) and of tanh (of ln2 / 4) */
        for (int k = 1; k < 4200; k++)
            for (int j = -4 * density; j <= 4 * density; j++)
                measure(real(bits((REAL)k * 0.17328679513998632) + (BITS)(int64_t)j) * (s ? -1 : 1));
    }
    for (int k = 0; k < 50000 * density; k++) measure(2 + uniform(1) * (1 - 0x1p-24) + uniform(1) * 0x1p-26);
    static const int range[] = {1, 4, 40, 800};
    for (size_t r = 0; r < sizeof range / sizeof *range; r++)
        for (int k = 0; k < 50000 * density; k++) measure(uniform(range[r]) * (1 + uniform(1) * 0x1p-24));
#else
    for (uint64_t b = 0; b < (uint64_t)1 << 32; b += all ? 1 : 257) measure(real((BITS)b));
#endif
    flush();
    char note[160];
    for (int f = 0; f < FUNCTIONS; f++) {
        snprintf(note, sizeof note, "max %.3f ulp at %a, %llu values", worst[f].max, (double)worst[f].at,
                 worst[f].count);
        summary(function_name[f], before, note);
    }
}

static void same_value(const char *what, int f, REAL x, REAL want) {
    REAL got[VW];
    v_store(got, apply(f, v_set1(x)));
    for (int i = 0; i < VW; i++)
        if (bits(got[i]) != bits(want)) fail(what, x, 0, 0, got[i], want);
}

static void exact(void) {
    const int before = failures;
    const REAL inf = (REAL)INFINITY;
    for (int flushed = 0; flushed < 2; flushed++) {
        const fl_fpu mode = flushed ? fl_fpu_enter() : (fl_fpu)0;
        for (int s = 0; s < 2; s++) {
            same_value("sigmoid", SIGMOID, s ? (REAL)-0.0 : 0, (REAL)0.5);
            same_value("sigmoid", SIGMOID, s ? -inf : inf, (REAL)!s);
            same_value("sigmoid", SIGMOID, s ? -REAL_LIMIT : REAL_LIMIT, (REAL)!s);
            same_value("tanh", TANH, s ? (REAL)-0.0 : 0, s ? (REAL)-0.0 : 0);
            same_value("tanh", TANH, s ? -inf : inf, (REAL)(s ? -1 : 1));
            same_value("tanh", TANH, s ? -REAL_LIMIT : REAL_LIMIT, (REAL)(s ? -1 : 1));
            same_value("exp", EXP, s ? (REAL)-0.0 : 0, 1);
            same_value("exp", EXP, s ? -REAL_LIMIT : -inf, 0);
            same_value("exp", EXP, -FL_EXP_END * (1 + REAL_EPS), 0);
            if (!flushed)
                for (int k = 0; k < MANT; k++) {
                    const REAL x = real((BITS)1 << k | (s ? SIGN : 0));
                    same_value("tanh", TANH, x, x);
                }
        }
        if (flushed) fl_fpu_leave(mode);
    }
    summary("exact values", before, "");
}

/* Rising, in steps of the given number of representable values, over [lo, hi] of one sign. */
static void rising(int f, REAL lo, REAL hi, int64_t steps) {
    const BITS first = bits(lo), last = bits(hi);
    const BITS distance = first < last ? last - first : first - last, step = distance / (BITS)steps + 1;
    REAL previous = f == TANH ? -1 : 0;
    for (BITS d = 0; d <= distance - distance % step; d += step * VW) {
        REAL x[VW], y[VW];
        for (int i = 0; i < VW; i++) {
            const BITS at = d + step * (BITS)i < distance ? d + step * (BITS)i : distance;
            x[i] = real(first < last ? first + at : first - at);
        }
        const fl_fpu mode = fl_fpu_enter();
        v_store(y, apply(f, v_load(x)));
        fl_fpu_leave(mode);
        for (int i = 0; i < VW; i++) {
            if (!(y[i] >= previous)) fail("rises", x[i], (REAL)f, 0, y[i], previous);
            previous = y[i];
        }
    }
}

static void saturation(void) {
    const int before = failures;
    rising(TANH, TANH_ONE * R(0.98), TANH_ONE * 2, 1 << 18);
    rising(TANH, -TANH_ONE * 2, -TANH_ONE * R(0.98), 1 << 18);
    rising(SIGMOID, SIGMOID_ONE * R(0.98), SIGMOID_ONE * 2, 1 << 18);
    rising(SIGMOID, SIGMOID_ZERO * 2, SIGMOID_ZERO * R(0.9), 1 << 18);
    rising(EXP, SIGMOID_ZERO * 2, SIGMOID_ZERO * R(0.9), 1 << 18);
    summary("saturation", before, "");
}

/* Every kind, with constants that are exact in float and those that are not. */
static const fastlstm_activation kind_case[] = {
    {FASTLSTM_SIGMOID, 0, 0}, {FASTLSTM_TANH, 0, 0}, {FASTLSTM_IDENTITY, 0, 0}, {FASTLSTM_RELU, 0, 0}, {FASTLSTM_G1997, 0, 0},
    {FASTLSTM_H1997, 0, 0}, {FASTLSTM_AFFINE, 1, 0}, {FASTLSTM_AFFINE, -0.7, 0.3}, {FASTLSTM_LEAKY_RELU, 0.01, 0}, {FASTLSTM_LEAKY_RELU, 3, 0},
    {FASTLSTM_THRESHOLDED_RELU, 1, 0}, {FASTLSTM_THRESHOLDED_RELU, 0, 0}, {FASTLSTM_THRESHOLDED_RELU, -0.5, 0},
    {FASTLSTM_SCALED_TANH, 1.7159, 0.6666}, {FASTLSTM_SCALED_TANH, -0.3, -2}, {FASTLSTM_HARD_SIGMOID, 0.2, 0.5},
    {FASTLSTM_HARD_SIGMOID, -0.3, 0.4}, {FASTLSTM_ELU, 1, 1}, {FASTLSTM_ELU, 1.6732632, 1.0507}, {FASTLSTM_ELU, 0, 0.5},
    {FASTLSTM_SOFTSIGN, 0, 0}, {FASTLSTM_SOFTPLUS, 0, 0}};
enum { KIND_CASES = sizeof kind_case / sizeof *kind_case };

static REF kind_value(const fastlstm_activation *f, REAL x) {
    const REF alpha = (REAL)f->alpha, beta = (REAL)f->beta, line = s_fma((REAL)f->alpha, x, (REAL)f->beta), size = x < 0 ? -(REF)x : x;
    switch (f->kind) {
    case FASTLSTM_SIGMOID: return reference(SIGMOID, x);
    case FASTLSTM_TANH: return reference(TANH, x);
    case FASTLSTM_RELU: return x > 0 ? x : 0;
    case FASTLSTM_G1997: return 2 * REF_TANH((REF)x / 2);
    case FASTLSTM_H1997: return REF_TANH((REF)x / 2);
    case FASTLSTM_AFFINE: return line;
    case FASTLSTM_LEAKY_RELU: return x > 0 ? x : alpha * x;
    case FASTLSTM_THRESHOLDED_RELU: return x > (REAL)f->alpha ? x : 0;
    case FASTLSTM_SCALED_TANH: return alpha * REF_TANH(beta * x);
    case FASTLSTM_HARD_SIGMOID: return line < 0 ? 0 : line > 1 ? 1 : line;
    case FASTLSTM_ELU: return beta * (x > 0 ? x : alpha * REF_EXPM1((REF)x));
    case FASTLSTM_SOFTSIGN: return size > 1e31 ? x > 0 ? 1 : -1 : x / (1 + size);
    case FASTLSTM_SOFTPLUS: return (x > 0 ? x : 0) + REF_LOG1P(REF_EXP(-size));
    default: return x;
    }
}

static REF kind_slope(const fastlstm_activation *f, REF y) {
    const REF alpha = (REAL)f->alpha, beta = (REAL)f->beta, size = y < 0 ? -y : y;
    switch (f->kind) {
    case FASTLSTM_SIGMOID: return y * (1 - y);
    case FASTLSTM_TANH: return 1 - y * y;
    case FASTLSTM_RELU: return y > 0;
    case FASTLSTM_G1997: return 1 - y * y / 4;
    case FASTLSTM_H1997: return (1 - y * y) / 2;
    case FASTLSTM_AFFINE: return alpha;
    case FASTLSTM_LEAKY_RELU: return y > 0 ? 1 : alpha;
    case FASTLSTM_THRESHOLDED_RELU: return y != 0;
    case FASTLSTM_SCALED_TANH: return beta * (alpha - y * y / alpha);
    case FASTLSTM_HARD_SIGMOID: return y > 0 && y < 1 ? alpha : 0;
    case FASTLSTM_ELU: return y > 0 ? beta : alpha * beta + y;
    case FASTLSTM_SOFTSIGN: return (1 - size) * (1 - size);
    case FASTLSTM_SOFTPLUS: return -REF_EXPM1(-y);
    default: return 1;
    }
}

/* The k-th input: NaN, the infinities and zeros, then of all sizes; the same for every instruction set. */
static REAL kind_input(int k) {
    static const REAL ends[] = {(REAL)NAN, (REAL)INFINITY, (REAL)-INFINITY, 0, (REAL)-0.0};
    const REAL x = uniform(k & 1 ? 2 : 100);
    return k < 5 ? ends[k] : k % 4 == 2 ? x * (REAL)ldexp(1, (int)(rnd() % 100) - 70) : x;
}

static void kinds(int n) {
    const int before = failures;
    char note[160];
    for (int c = 0; c < KIND_CASES; c++) {
        const fastlstm_activation *f = kind_case + c; /* scaled tanh rounds once before tanh and once after */
        double most = 0, most_slope = 0;
        state = 3;
        for (int k = 0; k < n; k++) {
            REAL x[VW], y[VW], g[VW];
            const fl_fpu mode = fl_fpu_enter();
            for (int i = 0; i < VW; i++) x[i] = k < 5 ? kind_input(k) : kind_input(k * VW + i);
            v_store(y, v_activate(f, v_load(x)));
            v_store(g, v_activate_grad(f, v_load(y)));
            fl_fpu_leave(mode);
            for (int i = 0; i < VW; i++) {
                if (is_nan(x[i])) {
                    if (!is_nan(y[i])) fail("v_activate keeps NaN", x[i], (REAL)f->kind, 0, y[i], x[i]);
                    continue;
                }
                const REF value = kind_value(f, x[i]), d = (REF)g[i] - kind_slope(f, y[i]);
                const double err = bits((REAL)value) == bits(y[i]) ? 0 : ulps(y[i], value, f->kind == FASTLSTM_SOFTPLUS);
                const double err_slope = (double)((d < 0 ? -d : d) / REAL_EPS / (1 + R(fabs)((REAL)f->alpha)) / (1 + R(fabs)((REAL)f->beta)));
                if (x[i] != x[i] + x[i] || x[i] == 0) { /* finite */
                    if (err > most) most = err;
                    if (err_slope > most_slope) most_slope = err_slope;
                    if (!(err <= MAX_ULP + (f->kind == FASTLSTM_SCALED_TANH))) fail("v_activate", x[i], (REAL)f->kind, (REAL)f->alpha, y[i], (REAL)value);
                } else if (bits(y[i]) != bits((REAL)value) && (y[i] != 0 || value != 0)) {
                    fail("v_activate's limit", x[i], (REAL)f->kind, (REAL)f->alpha, y[i], (REAL)value);
                }
                if (!(err_slope <= 1)) fail("v_activate_grad", y[i], (REAL)f->kind, 0, g[i], (REAL)kind_slope(f, y[i]));
            }
        }
        snprintf(note, sizeof note, "%d alpha %g beta %g: max %.3f ulp, slope %.3f eps", f->kind, f->alpha, f->beta, most, most_slope);
        summary("kind", before, note);
    }
}

/* FNV-1a over the bytes, low ones first. NaN is left out: its sign and payload are the CPU's. */
static unsigned long long hash(int f) {
    uint64_t h = 0xcbf29ce484222325u;
    state = 1997;
    for (int k = 0; k < 128; k++) {
        REAL in[BLOCK], out[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            const REAL any = real((BITS)rnd()), x = uniform(k % 2 ? 2 : 100);
            in[i] = k % 4 || is_nan(any) ? x : any;
            if (f == EXP || f == EXPM1 || f == LOG1P_EXP) in[i] = real(bits(in[i]) | SIGN);
            if (f == LOG) in[i] = 2 + uniform(1);
        }
        run(f, in, out);
        for (int i = 0; i < BLOCK; i++)
            for (size_t j = 0; j < sizeof(BITS); j++)
                h = (h ^ (uint64_t)(bits(out[i]) >> 8 * j & 255)) * 0x100000001b3u;
    }
    return h;
}

/* The same of all kinds and their derivatives. */
static unsigned long long hash_kinds(void) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int c = 0; c < KIND_CASES; c++) {
        state = 1997;
        for (int k = 1; k < 8192; k++) {
            REAL x[16], y[2][16];
            const fl_fpu mode = fl_fpu_enter();
            for (int i = 0; i < 16; i++) x[i] = k < 5 ? kind_input(k) : kind_input(k * 16 + i);
            for (int i = 0; i < 16; i += VW) {
                const V v = v_activate(kind_case + c, v_load(x + i));
                v_store(y[0] + i, v);
                v_store(y[1] + i, v_activate_grad(kind_case + c, v));
            }
            fl_fpu_leave(mode);
            for (int i = 0; i < 32; i++)
                for (size_t j = 0; j < sizeof(BITS) && !is_nan(y[i / 16][i % 16]); j++)
                    h = (h ^ (uint64_t)(bits(y[i / 16][i % 16]) >> 8 * j & 255)) * 0x100000001b3u;
        }
    }
    return h;
}

int main(int argc, char **argv) {
    state = 1;
    vocabulary();
    tails();
    fpu();
    exact();
    saturation();
    kinds(argc > 1 && !strcmp(argv[1], "--all") ? 1000000 : 20000);
    accuracy(argc > 1 && !strcmp(argv[1], "--all"));
    if (failures) printf("%d failures\n", failures);
    printf("hash exp=%016llx expm1=%016llx log1p_exp=%016llx\n", hash(EXP), hash(EXPM1), hash(LOG1P_EXP));
    const unsigned long long sigmoid = hash(SIGMOID), tanh_ = hash(TANH), log_ = hash(LOG);
    printf("hash sigmoid=%016llx tanh=%016llx log=%016llx kinds=%016llx\n", sigmoid, tanh_, log_, hash_kinds());
    return failures != 0;
}
