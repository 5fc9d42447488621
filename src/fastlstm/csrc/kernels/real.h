/* The element type of this compilation.

   Every file of the engine is compiled once per instruction set and element type: with FL_F64 defined
   REAL is double, otherwise float. Nothing else in the bodies depends on the type. */
#ifndef FL_REAL_H
#define FL_REAL_H

#ifdef FL_F64
typedef double REAL;
#define FL_SUFFIX f64
/* Sums over units run in FL_W interleaved partial sums on every instruction set, however wide its
   registers are, so that they round alike everywhere. */
#define FL_W 8
#else
typedef float REAL;
#define FL_SUFFIX f32
#define FL_W 16
#endif

#define FL_PASTE2(a, b) a##_##b
#define FL_PASTE1(a, b) FL_PASTE2(a, b)
/* fl_engine_avx2 -> fl_engine_avx2_f32 */
#define FL_NAME(name) FL_PASTE1(name, FL_SUFFIX)

#if defined(_MSC_VER) && !defined(__clang__)
#define FL_INLINE static __forceinline
#define FL_NOINLINE static __declspec(noinline)
#define FL_UNROLL
#else
#define FL_INLINE static inline __attribute__((always_inline))
#define FL_NOINLINE static __attribute__((noinline))
#define FL_PRAGMA(x) _Pragma(#x)
#ifdef __clang__
#define FL_UNROLL FL_PRAGMA(clang loop unroll(full))
#else
#define FL_UNROLL FL_PRAGMA(GCC unroll 32)
#endif
#endif

#endif
