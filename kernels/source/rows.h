/* Rows of activations as whole numbers: blocks of 32 signed bytes with a scale each. */
#pragma once
#include "simd.h"

enum { BLOCK = 32 };

typedef struct {
    int8_t codes[BLOCK]; /* value = code * scale */
    float scale;
    int32_t sum; /* of the codes */
} RowBlock;

/* `count` numbers, a multiple of 32. A block that holds a number that is none gets the scale NaN, so that it shows. */
static inline void quantize_row(const float *values, size_t count, RowBlock *out) {
    for (size_t at = 0; at < count; at += BLOCK, out++) {
        Floats a = load_floats(values + at), b = load_floats(values + at + 16);
        Floats sizes = absolute(a), others = absolute(b);
        float most = largest(larger(sizes, others)), sum = total(sizes + others);
        if (sum != sum) most = sum;
        float stretch = most > 0 ? 127.0f / most : 0;
        Ints first = to_nearest(a * stretch), second = to_nearest(b * stretch);
        store_codes(out->codes, first);
        store_codes(out->codes + 16, second);
        out->scale = most / 127.0f;
        out->sum = total_ints(first + second);
    }
}

/* x / root of the mean square, times `weight`; `out` may be `x`. `count` is a multiple of 16. */
static inline void normalise(const float *x, const float *weight, size_t count, float epsilon, float *out) {
    Floats squares = all_floats(0);
    for (size_t i = 0; i < count; i += 16) {
        Floats part = load_floats(x + i);
        squares = multiply_add(part, part, squares);
    }
    float factor = 1.0f / sqrtf(total(squares) / (float)count + epsilon);
    for (size_t i = 0; i < count; i += 16) store_floats(out + i, load_floats(x + i) * factor * load_floats(weight + i));
}
