/* Optimisers: one pass over plain arrays of n elements, with the gradient g scaled first where its norm is clipped.

   SGD       g += decay w;  m = momentum m + g;  step = m, or with nesterov g + momentum m
   RMSprop   g += decay w;  v = beta2 v + (1 - beta2) g^2;  step = g / (sqrt v + eps), and with momentum m = momentum m + step,
             step = m                                              (Tieleman & Hinton 2012, lecture 6.5)
   Adam      g += decay w;  m += (1 - beta1) (g - m);  v as above;  step = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
                                                                   (Kingma & Ba 2015, algorithm 1)
   AdamW     the same without decay in g;  first w -= lr decay w   (Loshchilov & Hutter 2019, algorithm 2)
   all       w -= lr step

   in the order of operations that PyTorch's optimisers have. Learners that update at every step have plain SGD inside
   their pass over the traces (fl_descend in traces.h). */
#ifndef FL_OPTIM_H
#define FL_OPTIM_H

typedef struct fl_rule {
    REAL scale, lr, decay, momentum, beta2;
    REAL rest1, rest2; /* 1 - beta1, 1 - beta2 */
    REAL root;         /* 1 / sqrt(1 - beta2^t) */
    REAL eps, keep;    /* 1 - lr decay */
} fl_rule;

/* kind, and whether `first` and nesterov are there, are constants at the call and folded. */
FL_INLINE void fl_update_all(int kind, int has_first, int nesterov, const fl_rule *r, ptrdiff_t n, REAL *w, const REAL *gradient,
                             REAL *first, REAL *second) {
    const V scale = v_set1(r->scale), lr = v_set1(r->lr), decay = v_set1(r->decay), momentum = v_set1(r->momentum);
    const V beta2 = v_set1(r->beta2), rest1 = v_set1(r->rest1), rest2 = v_set1(r->rest2), root = v_set1(r->root);
    const V eps = v_set1(r->eps), keep = v_set1(r->keep);
    for (ptrdiff_t k = 0; k < n; k += VW) {
        const ptrdiff_t left = n - k;
        V x = fl_load_units(w + k, 1, left), g = v_mul(scale, fl_load_units(gradient + k, 1, left)), m = v_zero(), over = v_zero();
        if (has_first) m = fl_load_units(first + k, 1, left);
        if (kind == FASTLSTM_ADAMW) x = v_mul(keep, x);
        else g = v_fma(decay, x, g);
        V step = g;
        if (kind != FASTLSTM_SGD) {
            const V v = v_fma(beta2, fl_load_units(second + k, 1, left), v_mul(rest2, v_mul(g, g)));
            fl_store_units(second + k, v, 1, left);
            over = v_fma(v_sqrt(v), root, eps);
        }
        if (kind == FASTLSTM_RMSPROP) step = v_div(g, over);
        if (kind == FASTLSTM_ADAM || kind == FASTLSTM_ADAMW) {
            m = v_fma(rest1, v_sub(g, m), m);
            step = v_div(m, over);
        } else if (has_first) {
            m = v_fma(momentum, m, step);
            step = nesterov ? v_fma(momentum, m, g) : m;
        }
        if (has_first) fl_store_units(first + k, m, 1, left);
        fl_store_units(w + k, v_fnma(lr, step, x), 1, left);
    }
}

/* w -= lr velocity after velocity = momentum velocity + gradient; velocity may be NULL. */
FL_NOINLINE void fl_sgd_array(ptrdiff_t n, REAL *w, const REAL *gradient, REAL *velocity, REAL lr, REAL momentum) {
    const fl_rule r = {.scale = 1, .lr = lr, .momentum = momentum};
    if (velocity) fl_update_all(FASTLSTM_SGD, 1, 0, &r, n, w, gradient, velocity, NULL);
    else fl_update_all(FASTLSTM_SGD, 0, 0, &r, n, w, gradient, NULL, NULL);
}

/* The rule of update number `steps`, of a gradient that is scaled first. */
static fl_rule fl_rule_of(const fastlstm_optimizer *o, int64_t steps, double scale) {
    const double t = (double)steps;
    const int adam = o->kind == FASTLSTM_ADAM || o->kind == FASTLSTM_ADAMW;
    return (fl_rule){
        .scale = (REAL)scale,
        .lr = (REAL)(adam ? o->lr / (1 - pow(o->beta1, t)) : o->lr),
        .decay = (REAL)o->weight_decay,
        .momentum = (REAL)o->momentum,
        .beta2 = (REAL)o->beta2,
        .rest1 = (REAL)(1 - o->beta1),
        .rest2 = (REAL)(1 - o->beta2),
        .root = (REAL)(adam ? 1 / sqrt(1 - pow(o->beta2, t)) : 1),
        .eps = (REAL)o->eps,
        .keep = (REAL)(1 - o->lr * o->weight_decay),
    };
}

/* Elements [from, from + n) of all arrays. */
static void fl_update_range(const fastlstm_optimizer *o, const fl_rule *r, ptrdiff_t from, ptrdiff_t n, void *weights, const void *gradient) {
    const REAL *g = (const REAL *)gradient + from;
    REAL *w = (REAL *)weights + from, *first = o->first ? (REAL *)o->first + from : NULL, *second = o->second ? (REAL *)o->second + from : NULL;
    switch (o->kind) {
    case FASTLSTM_SGD:
        if (o->momentum == 0) fl_update_all(FASTLSTM_SGD, 0, 0, r, n, w, g, NULL, NULL);
        else if (o->nesterov) fl_update_all(FASTLSTM_SGD, 1, 1, r, n, w, g, first, NULL);
        else fl_update_all(FASTLSTM_SGD, 1, 0, r, n, w, g, first, NULL);
        break;
    case FASTLSTM_RMSPROP:
        if (o->momentum == 0) fl_update_all(FASTLSTM_RMSPROP, 0, 0, r, n, w, g, NULL, second);
        else fl_update_all(FASTLSTM_RMSPROP, 1, 0, r, n, w, g, first, second);
        break;
    case FASTLSTM_ADAM: fl_update_all(FASTLSTM_ADAM, 1, 0, r, n, w, g, first, second); break;
    default: fl_update_all(FASTLSTM_ADAMW, 1, 0, r, n, w, g, first, second);
    }
}

static void fl_update(fastlstm_optimizer *o, ptrdiff_t n, void *weights, const void *gradient) {
    const fl_fpu mode = fl_fpu_enter();
    double scale = 1;
    if (o->clip_norm > 0) { /* as torch.nn.utils.clip_grad_norm_ */
        o->norm = sqrt(fl_sum_squares(n, (const REAL *)gradient));
        scale = o->clip_norm / (o->norm + 1e-6);
        if (scale > 1) scale = 1;
    }
    const fl_rule r = fl_rule_of(o, ++o->steps, scale);
    fl_update_range(o, &r, 0, n, weights, gradient);
    fl_fpu_leave(mode);
}

/* Rows [row, row + rows) of all parameter matrices of a layer. */
static void fl_update_rows(const fastlstm_optimizer *o, const fl_rule *r, const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t row,
                           ptrdiff_t rows, void *params, const void *gradient) {
    const ptrdiff_t at[5] = {l->weight_ih, l->weight_hh, l->weight_gh, l->bias_ih, l->bias_hh}, width[5] = {q->I, q->P, q->A, 1, 1};
    for (int j = 0; j < 5; j++)
        if (at[j] >= 0) fl_update_range(o, r, at[j] + row * width[j], rows * width[j], params, gradient);
}

/* One update of the weights of a layer's groups [first, end), then packed anew while they are in cache; no second product. */
static void fl_update_groups(const fastlstm_optimizer *o, const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t first, ptrdiff_t end,
                             REAL *params, const void *gradient, REAL *packed) {
    const fl_rule r = fl_rule_of(o, o->steps + 1, 1);
    const ptrdiff_t from = first * VW, J = (end * VW < q->J ? end * VW : q->J) - from, gates = l->kind == FASTLSTM_LSTM ? q->gates : 0;
    for (ptrdiff_t n = 0; n < q->G - (q->S - 1); n++) /* a gate, or all cells of the blocks */
        fl_update_rows(o, &r, l, q, fl_param_row(l, q, first, 0, n, 0), n < gates ? J : J * q->S, params, gradient);
    for (ptrdiff_t gate = 0; l->peepholes && gate < q->gates; gate++)
        fl_update_range(o, &r, l->weight_peephole + gate * q->H + from * q->S, J * q->S, params, gradient);
    for (ptrdiff_t group = first; group < end; group++)
        fl_copy_group(l, q, group, params, packed + group * q->panel, 0);
    fl_copy_peepholes(l, q, params, packed + q->peephole, first, end, 0);
}

#endif
