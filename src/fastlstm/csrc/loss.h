/* Losses of one step over all lanes: the loss, its derivative dy, and which lanes carry an error.

   mse: mean of (y - t)^2 over the elements that have a target; sse: half the sum of (y - t)^2, the paper's
   (1997, appendix A.1, whose update rules drop the factor 2); binary cross-entropy: mean of -t log y - (1-t) log(1-y);
   cross-entropy: mean over the lanes that have a target of -log softmax(y)[class]. */
#ifndef FL_LOSS_H
#define FL_LOSS_H

static double fl_elementwise_loss(int loss, ptrdiff_t B, ptrdiff_t O, const REAL *y, const REAL *target, REAL *dy, int *error) {
    ptrdiff_t n = 0;
    double sum = 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        error[b] = 0;
        for (ptrdiff_t k = 0; k < O; k++)
            error[b] |= target[b * O + k] == target[b * O + k], n += target[b * O + k] == target[b * O + k];
    }
    const REAL mean = n ? 1 / (REAL)n : 0;
    for (ptrdiff_t j = 0; j < B * O; j++) {
        const REAL t = target[j], d = y[j] - t;
        if (t != t) {
            dy[j] = 0;
        } else if (loss == FASTLSTM_SSE) {
            dy[j] = d;
            sum += 0.5 * (double)d * (double)d;
        } else if (loss == FASTLSTM_MSE) {
            dy[j] = 2 * mean * d;
            sum += (double)d * (double)d;
        } else { /* as PyTorch: logarithms no lower than -100, the denominator no smaller than 1e-12 */
            REAL p = y[j] * (1 - y[j]);
            double log_y = log((double)y[j]), log_1 = log1p(-(double)y[j]);
            if (p < (REAL)1e-12) p = (REAL)1e-12;
            if (log_y < -100) log_y = -100;
            if (log_1 < -100) log_1 = -100;
            dy[j] = mean * d / p;
            sum -= (double)t * log_y + (1 - (double)t) * log_1;
        }
    }
    return loss == FASTLSTM_SSE || !n ? sum : sum / (double)n;
}

static double fl_cross_entropy(ptrdiff_t B, ptrdiff_t O, const REAL *y, const int64_t *target, REAL *dy, int *error) {
    ptrdiff_t n = 0;
    double sum = 0;
    for (ptrdiff_t b = 0; b < B; b++)
        n += error[b] = target[b] >= 0;
    const REAL mean = n ? 1 / (REAL)n : 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        const REAL *logit = y + b * O;
        REAL *d = dy + b * O, top = logit[0], total = 0;
        if (!error[b]) {
            fl_zero(d, O);
            continue;
        }
        for (ptrdiff_t k = 1; k < O; k++)
            if (logit[k] > top || logit[k] != logit[k]) top = logit[k];
        for (ptrdiff_t k = 0; k < O; k += VW) {
            const int m = O - k < VW ? (int)(O - k) : VW;
            v_store_n(d + k, v_exp_neg(v_sub(v_load_n(logit + k, m), v_set1(top))), m);
        }
        for (ptrdiff_t k = 0; k < O; k++)
            total += d[k];
        const REAL scale = mean / total;
        sum += log((double)total) + (double)top - (double)logit[target[b]];
        for (ptrdiff_t k = 0; k < O; k++)
            d[k] *= scale;
        d[target[b]] -= mean;
    }
    return n ? sum / (double)n : 0;
}

#endif
