/* Prints the names of the instruction sets that this machine can run, for tests/c/Makefile. Keeps its own
   list on purpose: detection in the library is one of the things under test. */
#include <stdio.h>

int main(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        printf("avx512 ");
    if (avx2)
        printf("avx2 ");
#elif defined(__aarch64__)
    printf("neon ");
#endif
    printf("generic\n");
    return 0;
}
