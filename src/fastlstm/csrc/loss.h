/* Losses of B rows of O elements: the value, and its derivative dy. NaN in a real target, -1 in a class, say that there is none.

   mse: mean of (y - t)^2 over the elements that have a target; sse: half the sum of (y - t)^2, the paper's
   (1997, appendix A.1, whose update rules drop the factor 2); binary cross-entropy: mean of -w t log y - (1-t) log(1-y),
   w the weight of positives, and with logits of y = sigmoid(what is given); cross-entropy: -sum_k q_k w_k log softmax(y)_k over the rows that have a target, divided by their
   sum of w_class, where q is 1 at the class, or with smoothing e (Szegedy et al. 2016, section 7) 1 - e there and e / O everywhere.

   Sums run in FL_W interleaved partial sums, those of values in double. */
#ifndef FL_LOSS_H
#define FL_LOSS_H

/* The sum of a[k]^2 in double, in which a float's square neither overflows nor underflows. */
static double fl_sum_squares(ptrdiff_t n, const REAL *a) {
    double part[FL_W] = {0};
    ptrdiff_t k = 0;
    for (; k + FL_W <= n; k += FL_W)
        for (int j = 0; j < FL_W; j++)
            part[j] += (double)a[k + j] * (double)a[k + j];
    for (int j = 0; k + j < n; j++)
        part[j] += (double)a[k + j] * (double)a[k + j];
    int half = FL_W / 2;
    while (n <= half && half > 1) /* the other half is zero */
        half /= 2;
    for (; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            part[j] += part[j + half];
    return part[0];
}

/* How many of n elements are not NaN. */
static ptrdiff_t fl_known(ptrdiff_t n, const REAL *a) {
    const V zero = v_zero(), one = v_set1(1), end = v_set1((REAL)INFINITY);
    ptrdiff_t count = n - fl_padded(n, VW); /* zeros are loaded beyond the end */
    for (ptrdiff_t k = 0; k < n; k += VW) { /* a NaN is neither less than infinity nor positive */
        const V x = fl_load_units(a + k, 1, n - k);
        count += (ptrdiff_t)v_sum(v_select(v_lt(x, end), one, v_select(v_lt(zero, x), one, zero)));
    }
    return count;
}

static void fl_scale(ptrdiff_t n, REAL *a, REAL factor) {
    for (ptrdiff_t k = 0; k < n; k += VW)
        fl_store_units(a + k, v_mul(fl_load_units(a + k, 1, n - k), v_set1(factor)), 1, n - k);
}

/* error: (B,) receives which rows have a target, or NULL; pos_weight: (O,), or NULL for ones. */
static double fl_elementwise_loss(int loss, ptrdiff_t B, ptrdiff_t O, const REAL *y, const REAL *target, const REAL *pos_weight,
                                  REAL *dy, int *error) {
    ptrdiff_t n = 0;
    double sum = 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        const ptrdiff_t row = fl_known(O, target + b * O);
        if (error) error[b] = row > 0;
        n += row;
    }
    if (!n) {
        fl_zero(dy, B * O);
        return 0;
    }
    const REAL mean = 1 / (REAL)n;
    if (loss < FASTLSTM_BINARY_CROSS_ENTROPY) {
        for (ptrdiff_t j = 0; j < B * O; j += VW) {
            const V t = fl_load_units(target + j, 1, B * O - j), d = v_sub(fl_load_units(y + j, 1, B * O - j), t);
            /* a NaN is neither positive nor less than infinity */
            const V known = v_select(v_lt(t, v_set1((REAL)INFINITY)), d, v_select(v_lt(v_zero(), t), d, v_zero()));
            fl_store_units(dy + j, known, 1, B * O - j);
        }
        sum = fl_sum_squares(B * O, dy);
        if (loss == FASTLSTM_SSE) return 0.5 * sum;
        fl_scale(B * O, dy, 2 * mean);
        return sum / (double)n;
    }
    for (ptrdiff_t j = 0, k = 0; j < B * O; j++, k = k + 1 == O ? 0 : k + 1) {
        const REAL t = target[j], w = pos_weight ? pos_weight[k] : 1;
        if (t != t) {
            dy[j] = 0;
            continue;
        }
        if (loss == FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS) {
            /* log sigmoid(y) = min(y, 0) - log(1 + e^-|y|), log(1 - sigmoid(y)) the same less y */
            const double e = exp(-fabs((double)y[j])), s = (y[j] < 0 ? e : 1) / (1 + e), log_s = (y[j] < 0 ? (double)y[j] : 0) - log1p(e);
            dy[j] = mean * (REAL)((1 - (double)t) * s - (double)w * (double)t * ((y[j] < 0 ? 1 : e) / (1 + e)));
            sum -= (double)w * (double)t * log_s + (1 - (double)t) * (log_s - (double)y[j]);
            continue;
        }
        /* as PyTorch: logarithms no lower than -100, the denominator no smaller than 1e-12 */
        REAL p = y[j] * (1 - y[j]);
        double log_y = log((double)y[j]), log_1 = log1p(-(double)y[j]);
        if (p < (REAL)1e-12) p = (REAL)1e-12;
        if (log_y < -100) log_y = -100;
        if (log_1 < -100) log_1 = -100;
        /* -w t / y + (1 - t) / (1 - y), over one denominator */
        dy[j] = mean * (y[j] - t * (w + (1 - w) * y[j])) / p;
        sum -= (double)w * (double)t * log_y + (1 - (double)t) * log_1;
    }
    return sum / (double)n;
}

/* e[k] = exp(y[k] - top), top the largest of the O scores; returns their sum. */
static REAL fl_exponentials(ptrdiff_t O, const REAL *y, REAL *e, REAL *top) {
    V part[FL_PARTS];
    ptrdiff_t k = 0;
    *top = y[0];
    if (O >= VW) { /* a NaN may get lost here: its own exponential brings it back */
        REAL lane[VW];
        V most = v_load(y);
        for (k = VW; k + VW <= O; k += VW)
            most = v_max(v_load(y + k), most);
        v_store(lane, most);
        for (int j = 0; j < VW; j++)
            if (lane[j] > *top) *top = lane[j];
    }
    for (; k < O; k++)
        if (y[k] > *top) *top = y[k];
    for (int p = 0; p < FL_PARTS; p++)
        part[p] = v_zero();
    for (k = 0; k < O; k += FL_W)
        for (int p = 0; p < FL_PARTS && k + p * VW < O; p++) {
            const ptrdiff_t at = k + p * VW, n = O - at;
            const V x = v_exp_neg(v_sub(fl_load_units(y + at, 1, n), v_set1(*top)));
            fl_store_units(e + at, x, 1, n);
            part[p] = v_add(part[p], n >= VW ? x : fl_load_units(e + at, 1, n)); /* which has zeros beyond the end */
        }
    return fl_sum_parts(part);
}

/* weight: (O,), or NULL for ones. */
static double fl_cross_entropy(ptrdiff_t B, ptrdiff_t O, const REAL *y, const int64_t *target, const REAL *weight, double smoothing,
                               REAL *dy, int *error) {
    double total_weight = 0, all_weights = (double)O, sum = 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        if (error) error[b] = target[b] >= 0;
        if (target[b] >= 0) total_weight += weight ? (double)weight[target[b]] : 1;
    }
    if (weight && smoothing > 0) {
        all_weights = 0;
        for (ptrdiff_t k = 0; k < O; k++)
            all_weights += (double)weight[k];
    }
    const double mean = total_weight > 0 ? 1 / total_weight : 0, even = smoothing / (double)O;
    for (ptrdiff_t b = 0; b < B; b++) {
        const REAL *score = y + b * O;
        REAL *d = dy + b * O, top;
        if (target[b] < 0) {
            fl_zero(d, O);
            continue;
        }
        const REAL total = fl_exponentials(O, score, d, &top);
        const double log_sum = log((double)total) + (double)top;
        const double at_class = (1 - smoothing) * (weight ? (double)weight[target[b]] : 1), everywhere = even * all_weights;
        /* d_k = ((at_class + everywhere) softmax_k - q_k w_k) mean */
        fl_scale(O, d, (REAL)((at_class + everywhere) * mean) / total);
        d[target[b]] -= (REAL)(at_class * mean);
        sum += at_class * (log_sum - (double)score[target[b]]);
        for (ptrdiff_t k = 0; k < O && smoothing > 0; k++) {
            const double share = even * (weight ? (double)weight[k] : 1);
            d[k] -= (REAL)(share * mean);
            if (share > 0) sum += share * (log_sum - (double)score[k]);
        }
    }
    return total_weight > 0 ? sum / total_weight : 0;
}

static double fl_losses_elementwise(int loss, ptrdiff_t rows, ptrdiff_t width, const void *y, const void *target, const void *pos_weight,
                                    void *dy) {
    const fl_fpu mode = fl_fpu_enter();
    const double value = fl_elementwise_loss(loss, rows, width, (const REAL *)y, (const REAL *)target, (const REAL *)pos_weight,
                                             (REAL *)dy, NULL);
    fl_fpu_leave(mode);
    return value;
}

static double fl_losses_cross_entropy(ptrdiff_t rows, ptrdiff_t classes, const void *y, const int64_t *target, const void *weight,
                                      double smoothing, void *dy) {
    const fl_fpu mode = fl_fpu_enter();
    const double value = fl_cross_entropy(rows, classes, (const REAL *)y, target, (const REAL *)weight, smoothing, (REAL *)dy, NULL);
    fl_fpu_leave(mode);
    return value;
}

/* Loss of step t of B lanes, from targets (T, B, O) or classes (T, B), and dy; error (B,) receives which lanes have a target;
   returns whether any has. fused_sigmoid: dy is the error of the last layer's net inputs, d = (y - t) / n, in which the
   logistic's own derivative has cancelled the denominator: no 0 / 0. */
static int fl_step_loss(int loss, int fused_sigmoid, ptrdiff_t B, ptrdiff_t O, const void *y, const void *targets, ptrdiff_t t, void *dy,
                        int *error, double *value) {
    int any = 0;
    if (!targets || loss == FASTLSTM_NO_LOSS) return 0;
    const REAL *out = (const REAL *)y, *real = loss == FASTLSTM_CROSS_ENTROPY ? NULL : (const REAL *)targets + t * B * O;
    REAL *d = (REAL *)dy;
    *value = real ? fl_elementwise_loss(loss, B, O, out, real, NULL, d, error)
                  : fl_cross_entropy(B, O, out, (const int64_t *)targets + t * B, NULL, 0, d, error);
    for (ptrdiff_t b = 0; b < B; b++)
        any |= error[b];
    if (!any || !fused_sigmoid) return any;
    ptrdiff_t n = 0;
    for (ptrdiff_t j = 0; j < B * O; j++)
        n += real[j] == real[j];
    for (ptrdiff_t j = 0; j < B * O; j++)
        d[j] = real[j] == real[j] ? (out[j] - real[j]) / (REAL)n : 0;
    return 1;
}

/* a kept in [-bound, bound]; NaN stays. */
static void fl_bound(ptrdiff_t n, void *a, double bound) {
    const V most = v_set1((REAL)bound), least = v_set1((REAL)-bound);
    for (ptrdiff_t k = 0; k < n; k += VW) {
        REAL *at = (REAL *)a + k;
        fl_store_units(at, v_max(least, v_min(most, fl_load_units(at, 1, n - k))), 1, n - k);
    }
}

#endif
