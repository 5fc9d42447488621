/* Flush-to-zero for the length of a call: subnormal operands and results cost a hundred cycles and more
   on many CPUs, and gates saturate into them. The caller's mode comes back on leaving, sticky exception
   flags included. */
#ifndef FL_FPU_H
#define FL_FPU_H

#if defined(__SSE__) || defined(_M_X64)

#include <xmmintrin.h>

typedef unsigned int fl_fpu;

static inline fl_fpu fl_fpu_enter(void) {
    const fl_fpu old = _mm_getcsr();
    _mm_setcsr(old | 0x8040u); /* FTZ, DAZ */
    return old;
}

static inline void fl_fpu_leave(fl_fpu old) { _mm_setcsr(old); }

#elif defined(__aarch64__)

typedef unsigned long long fl_fpu;

static inline void fl_fpu_leave(fl_fpu old) { __asm__ volatile("msr fpcr, %0" : : "r"(old) : "memory"); }

static inline fl_fpu fl_fpu_enter(void) {
    fl_fpu old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old) : : "memory");
    fl_fpu_leave(old | (1ull << 24)); /* FZ */
    return old;
}

#else

typedef int fl_fpu;

static inline fl_fpu fl_fpu_enter(void) { return 0; }

static inline void fl_fpu_leave(fl_fpu old) { (void)old; }

#endif
#endif
