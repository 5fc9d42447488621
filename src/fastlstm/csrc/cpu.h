/* What the processor can do. */
#ifndef FL_CPU_H
#define FL_CPU_H

enum { FL_CPU_AVX2 = 1, FL_CPU_AVX512 = 2, FL_CPU_NEON = 4, FL_CPU_VNNI = 8 /* AVX-512 with dot products of bytes */ };

int fl_cpu_features(void);

#endif
