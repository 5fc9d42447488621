/* Work on several threads; the only door to OpenMP. */
#ifndef FL_THREADS_H
#define FL_THREADS_H

/* Calls work(context, part, parts) for each part, part 0 on the calling thread, all at the same time; returns when all
   are done. There may be fewer parts than asked for. */
void fl_parallel(int parts, void (*work)(void *context, int part, int parts), void *context);

/* Where `parts` threads that run at the same time meet, again and again. Starts as {.parts = parts}. */
typedef struct fl_barrier {
    int parts, arrived;
    unsigned generation;
    int stop, verdict;
    char apart[64]; /* keeps what others write off these lines */
} fl_barrier;

/* Waits for the others; returns, to all of them alike, whether anyone ever wanted to stop. */
int fl_barrier_wait(fl_barrier *barrier, int stop);

#endif
