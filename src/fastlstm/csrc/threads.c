/* OpenMP is reached through this file alone. A build without it runs everything on the calling thread. */
#include "threads.h"

#include "fastlstm.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(_OPENMP) && !defined(_WIN32)
#include <sched.h>
#endif

void fl_parallel(int parts, void (*work)(void *context, int part, int parts), void *context) {
#if defined(_OPENMP) && defined(__GNUC__)
    if (parts > 1) {
#pragma omp parallel num_threads(parts)
        work(context, omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    (void)parts;
    work(context, 0, 1);
}

#if defined(_OPENMP) && defined(__GNUC__)

/* Some microseconds, the time of a step (a pause is up to 140 cycles long); then another thread may need this core. */
enum { FL_SPINS = 200 };

static void relax(int turn) {
    if (turn < FL_SPINS) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield");
#endif
        return;
    }
#ifndef _WIN32
    sched_yield();
#endif
}

/* The last to arrive settles the verdict for all and opens the door. Nobody can pass the next one before everyone has
   read it here. */
int fl_barrier_wait(fl_barrier *b, int stop) {
    const unsigned generation = __atomic_load_n(&b->generation, __ATOMIC_RELAXED);
    if (stop) __atomic_store_n(&b->stop, 1, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_ACQ_REL) == b->parts) {
        b->arrived = 0;
        b->verdict = __atomic_load_n(&b->stop, __ATOMIC_RELAXED);
        __atomic_store_n(&b->generation, generation + 1, __ATOMIC_RELEASE);
        return b->verdict;
    }
    for (int turn = 0; __atomic_load_n(&b->generation, __ATOMIC_ACQUIRE) == generation; turn += turn < FL_SPINS)
        relax(turn);
    return b->verdict;
}

#else

int fl_barrier_wait(fl_barrier *b, int stop) { return b->stop |= stop; } /* there is one part */

#endif

/* The runtime's idle threads do not survive a fork, and a child that waits for them hangs: end them before. */
void fastlstm_threads_release(void) {
#if defined(_OPENMP) && (_OPENMP >= 201811 || __GNUC__ >= 9) /* GCC has it long before it claims OpenMP 5 */
    omp_pause_resource_all(omp_pause_hard);
#endif
}
