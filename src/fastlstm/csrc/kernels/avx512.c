/* The engine for one instruction set, compiled once for float and once, with FL_F64, for double. */
#define FL_ISA_AVX512
#define FL_ISA_NAME avx512
#include "real.h"
#include "simd_avx512.h"
#include "narrow_avx512.h"
#include "../body.h"
