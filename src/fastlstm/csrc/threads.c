/* OpenMP is reached through this file alone. A build without it runs the parts one after the other. */
#include "threads.h"

#include "fastlstm.h"

#ifdef _OPENMP
#include <omp.h>
#endif

void fl_parallel(int parts, void (*work)(void *context, int part), void *context) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(parts) schedule(static, 1)
#endif
    for (int part = 0; part < parts; part++)
        work(context, part);
}

/* The runtime's idle threads do not survive a fork, and a child that waits for them hangs: end them before. */
void fastlstm_threads_release(void) {
#if defined(_OPENMP) && (_OPENMP >= 201811 || __GNUC__ >= 9) /* GCC has it long before it claims OpenMP 5 */
    omp_pause_resource_all(omp_pause_hard);
#endif
}
