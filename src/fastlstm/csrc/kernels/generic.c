/* The engine for one instruction set, compiled once for float and once, with FL_F64, for double. */
#define FL_ISA_GENERIC
#define FL_ISA_NAME generic
#include "real.h"
#include "simd_generic.h"
#include "../body.h"
