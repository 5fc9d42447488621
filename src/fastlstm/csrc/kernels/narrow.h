/* Sigmoid and tanh of narrow vectors: sigmoid.h once more. */
#define V VN
#define VM VNM
#define v_set1 vn_set1
#define v_zero vn_zero
#define v_add vn_add
#define v_sub vn_sub
#define v_mul vn_mul
#define v_div vn_div
#define v_fma vn_fma
#define v_fnma vn_fnma
#define v_max vn_max
#define v_min vn_min
#define v_abs vn_abs
#define v_copysign vn_copysign
#define v_lt vn_lt
#define v_select vn_select
#define v_pow2 vn_pow2
#define v_exp_parts vn_exp_parts
#define v_sigmoid vn_sigmoid
#define v_tanh vn_tanh
#include "sigmoid.h"
#undef V
#undef VM
#undef v_set1
#undef v_zero
#undef v_add
#undef v_sub
#undef v_mul
#undef v_div
#undef v_fma
#undef v_fnma
#undef v_max
#undef v_min
#undef v_abs
#undef v_copysign
#undef v_lt
#undef v_select
#undef v_pow2
#undef v_exp_parts
#undef v_sigmoid
#undef v_tanh
