/* The engine for one instruction set, compiled once for float and once, with FL_F64, for double. */
#define FL_ISA_AVX2
#define FL_ISA_NAME avx2
#include "real.h"
#include "simd_avx2.h"
#include "../body.h"
