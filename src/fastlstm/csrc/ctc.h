/* Connectionist temporal classification (Graves et al. 2006), in the log domain.

   The states of a lane are its target's S labels with blanks between and around them, l'_0 .. l'_2S (their section 4.1).
   With e_t(s) = log softmax(y_t) of l'_s:

     alpha_t(s) = e_t(s) + log sum exp of alpha_{t-1} at s, s - 1, and s - 2 if that may be skipped     (eqs 6 and 7)
     beta_t(s)  = log sum exp of beta_{t+1} + e_{t+1} at s, s + 1, and s + 2 if s + 1 may be skipped    (eqs 10 and 11,
                  without the step's own emission)
     dL/dy_t(k) = softmax(y_t)_k - sum over s with l'_s = k of gamma_t(s)                               (eq. 16)
     gamma_t(s) = exp(alpha_t(s) + beta_t(s)) / its sum over s, which is p(target) at every t           (eq. 14)

   A state may be skipped if it is a blank between different labels. A row is computed from left to right whatever its
   states; what cannot be is FL_NEVER, which is finite, so that no infinity is subtracted from another. Each row is shifted
   by the largest element of the row before: rows stay near zero, and the shifts are added up in double. */
#ifndef FL_CTC_H
#define FL_CTC_H

#define FL_NEVER ((REAL)-1e30)

/* log(exp a + exp b + exp c); a NaN in `a` stays. */
FL_INLINE V fl_log_sum(V a, V b, V c) {
    const V high = v_max(v_max(c, b), a), least = v_min(v_min(a, b), c);
    const V middle = v_max(v_min(a, b), v_min(v_max(a, b), c));
    const V sum = v_add(v_set1(1), v_add(v_exp_neg(v_sub(middle, high)), v_exp_neg(v_sub(least, high))));
    return v_add(high, v_log_1_3(sum));
}

FL_INLINE REAL fl_largest(V most) {
    REAL lane[VW];
    v_store(lane, most);
    for (int j = 1; j < VW; j++)
        if (lane[j] > lane[0]) lane[0] = lane[j];
    return lane[0];
}

static void fl_fill(REAL *a, ptrdiff_t n, REAL x) {
    for (ptrdiff_t k = 0; k < n; k++)
        a[k] = x;
}

/* One lane: a target of S labels, and scores and dy of T steps, `stride` elements apart. dy is scaled by `mean`.
   Returns -log p(target). */
static double fl_ctc_lane(const fl_ctc_plan *p, char *scratch, ptrdiff_t T, ptrdiff_t C, const REAL *y, REAL *dy, ptrdiff_t stride,
                          const int64_t *target, ptrdiff_t S, ptrdiff_t blank, double mean) {
    const ptrdiff_t L = 2 * S + 1, W = (L + FL_CTC_PAD) / FL_CTC_PAD * FL_CTC_PAD; /* W > L */
    ptrdiff_t *label = (ptrdiff_t *)(scratch + p->label);
    REAL *skip = (REAL *)(scratch + p->skip), *emission = (REAL *)(scratch + p->emission), *posterior = (REAL *)(scratch + p->posterior);
    REAL *alpha = (REAL *)(scratch + p->log_alpha) + FL_CTC_PAD, *beta = (REAL *)(scratch + p->log_beta) + FL_CTC_PAD;
    const V never = v_set1(FL_NEVER);
    double shifts = 0;
    REAL shift = 0;

    fl_fill(skip, W + FL_CTC_PAD, FL_NEVER);
    for (ptrdiff_t s = 0; s < L; s++) {
        label[s] = s % 2 ? (ptrdiff_t)target[s / 2] : blank;
        if (s % 2 && (s == 1 || label[s] != label[s - 2])) skip[s] = 0;
    }
    skip[L] = 0; /* as if a label followed: the last one may be left without its blank */

    /* Before the first step there is a state -1, from which 0 and 1 are reached. */
    fl_fill(alpha - FL_CTC_PAD, p->row, FL_NEVER);
    alpha[-1] = 0;
    for (ptrdiff_t t = 0; t < T; t++, alpha += p->row) {
        REAL top, *next = alpha + p->row, *e = emission + t * p->width, *d = dy + t * stride;
        const REAL *score = y + t * stride;
        for (ptrdiff_t s = 0; s < L; s++) /* now: dy may be y */
            e[s] = score[label[s]];
        fl_fill(e + L, W - L, FL_NEVER);
        const REAL total = fl_exponentials(C, score, d, &top);
        const V vtop = v_set1(top), log_total = v_set1((REAL)log((double)total)), vshift = v_set1(shift);
        fl_scale(C, d, (REAL)mean / total);
        fl_fill(next - FL_CTC_PAD, FL_CTC_PAD, FL_NEVER);
        V most = never;
        for (ptrdiff_t s = 0; s < W; s += VW) {
            const V log_y = v_max(never, v_sub(v_sub(v_load(e + s), vtop), log_total)); /* -inf is lifted, NaN is kept */
            const V from = fl_log_sum(v_load(alpha + s), v_load(alpha + s - 1), v_add(v_load(alpha + s - 2), v_load(skip + s)));
            const V to = v_add(from, v_sub(log_y, vshift));
            v_store(e + s, log_y);
            v_store(next + s, to);
            most = v_max(to, most);
        }
        shifts += (double)shift;
        shift = fl_largest(most);
    }
    const double last = (double)alpha[L - 1], before = S ? (double)alpha[L - 2] : (double)FL_NEVER;
    const double high = last > before ? last : before, low = last > before ? before : last;
    const double log_p = shifts + high + log1p(exp(low - high));

    /* After the last step there is a state L, which L - 1 and L - 2 reach. */
    fl_fill(beta - FL_CTC_PAD, W + 2 * FL_CTC_PAD, FL_NEVER);
    beta[L] = 0;
    shift = 0;
    for (ptrdiff_t t = T - 1; t >= 0; t--, alpha -= p->row) {
        const REAL *e = emission + t * p->width;
        REAL *d = dy + t * stride;
        V most = never, most_beta = never, part[FL_PARTS];
        const V vshift = v_set1(shift);
        for (ptrdiff_t s = 0; s < W; s += VW) { /* in place: what lies ahead is still that of t + 1 */
            const V b = fl_log_sum(v_load(beta + s), v_load(beta + s + 1), v_add(v_load(beta + s + 2), v_load(skip + s + 2)));
            const V ab = v_add(v_load(alpha + s), b), x = v_add(b, v_sub(v_load(e + s), vshift));
            v_store(posterior + s, ab);
            v_store(beta + s, x);
            most = v_max(ab, most);
            most_beta = v_max(x, most_beta);
        }
        most = v_set1(fl_largest(most));
        shift = fl_largest(most_beta);
        for (int q = 0; q < FL_PARTS; q++)
            part[q] = v_zero();
        for (ptrdiff_t s = 0; s < W; s += VW) {
            const V gamma = v_exp_neg(v_sub(v_load(posterior + s), most));
            v_store(posterior + s, gamma);
            part[s / VW % FL_PARTS] = v_add(part[s / VW % FL_PARTS], gamma);
        }
        const REAL scale = (REAL)mean / fl_sum_parts(part);
        REAL blanks = posterior[0];
        for (ptrdiff_t s = 1; s < L; s += 2) {
            d[label[s]] -= scale * posterior[s];
            blanks += posterior[s + 1];
        }
        d[blank] -= scale * blanks;
    }
    if (log_p < (double)(FL_NEVER / 2)) { /* every path meets a score of -inf */
        for (ptrdiff_t t = 0; t < T; t++)
            fl_fill(dy + t * stride, C, (REAL)NAN);
        return INFINITY;
    }
    return -log_p;
}

static fastlstm_status fl_ctc(const fastlstm_ctc_batch *m, void *scratch, double *value, fastlstm_poll poll, void *context) {
    fl_patience patience = {poll, context, 0, fl_fpu_enter()};
    const ptrdiff_t B = m->lanes, C = m->classes, stride = B * C;
    const int64_t *target = m->targets;
    ptrdiff_t longest = 0;
    double sum = 0;
    int stop = 0;
    for (ptrdiff_t b = 0; b < B; b++)
        if (m->target_lengths[b] > longest) longest = (ptrdiff_t)m->target_lengths[b];
    const fl_ctc_plan plan = fl_plan_ctc(m->steps, longest, (ptrdiff_t)sizeof(REAL));
    for (ptrdiff_t b = 0; b < B && !stop; b++) {
        const ptrdiff_t T = m->lengths ? (ptrdiff_t)m->lengths[b] : m->steps, S = (ptrdiff_t)m->target_lengths[b];
        const double length = S > 1 ? (double)S : 1;
        REAL *dy = (REAL *)m->dy + b * C;
        sum += fl_ctc_lane(&plan, (char *)scratch, T, C, (const REAL *)m->y + b * C, dy, stride, target, S, (ptrdiff_t)m->blank,
                           1 / (length * (double)B)) / length;
        for (ptrdiff_t t = T; t < m->steps; t++)
            fl_zero(dy + t * stride, C);
        if (S) target += S;
        stop = b + 1 < B && fl_interrupted(&patience, T * (32 * (2 * S + 17) + 8 * C));
    }
    if (!stop) *value = sum / (double)B;
    fl_fpu_leave(patience.mode);
    return stop ? FASTLSTM_INTERRUPTED : FASTLSTM_OK;
}

#endif
