/* How a forward call is divided among threads: each takes some of the lanes, or all lanes and some of the units. */
#ifndef FL_SHARE_H
#define FL_SHARE_H

#include <stddef.h>
#include <stdint.h>

#include "threads.h"

/* One thread's share. */
typedef struct fl_share {
    int part, parts;
    const ptrdiff_t *order; /* lanes by falling length, of which it takes every parts-th; NULL: a range of lanes */
    fl_barrier *barrier;    /* NULL: it takes lanes. Otherwise all lanes and its part of every layer's units, and all */
    void *scratch;          /*   meet here after each step, with what passes between layers in this prepared scratch */
} fl_share;

static inline ptrdiff_t fl_share_lanes(ptrdiff_t lanes, int part, int parts) { return (lanes - part + parts - 1) / parts; }

static inline ptrdiff_t fl_share_start(ptrdiff_t lanes, int part, int parts) {
    return part * (lanes / parts) + (part < lanes % parts ? part : lanes % parts);
}

/* Lanes 0..n-1 by falling length, equal ones in their order: Shell's sort. */
static inline void fl_sort_lanes(ptrdiff_t *order, const int64_t *length, ptrdiff_t n) {
    for (ptrdiff_t b = 0; b < n; b++)
        order[b] = b;
    for (ptrdiff_t gap = n / 2; length && gap > 0; gap /= 2)
        for (ptrdiff_t b = gap; b < n; b++) {
            const ptrdiff_t lane = order[b];
            ptrdiff_t at = b;
            for (; at >= gap; at -= gap) {
                const ptrdiff_t other = order[at - gap];
                if (length[other] > length[lane] || (length[other] == length[lane] && other < lane)) break;
                order[at] = other;
            }
            order[at] = lane;
        }
}

#endif
