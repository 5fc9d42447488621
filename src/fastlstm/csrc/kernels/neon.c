/* The engine for one instruction set, compiled once for float and once, with FL_F64, for double. */
#define FL_ISA_NEON
#define FL_ISA_NAME neon
#include "real.h"
#include "simd_neon.h"
#include "../body.h"
