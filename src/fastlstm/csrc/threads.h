/* Work on several threads; the only door to OpenMP. */
#ifndef FL_THREADS_H
#define FL_THREADS_H

/* Calls work(context, part) for part 0..parts-1, part 0 on the calling thread; returns when all are done. */
void fl_parallel(int parts, void (*work)(void *context, int part), void *context);

#endif
