/* Matrices in blocks of 4 or 8 bits, multiplied by quantized rows.
 *
 * A matrix [N, K] is kept in groups of 16 outputs, a group in blocks of 32 inputs. Bytes of a block:
 *   4 bits: 16 half-precision scales, 16 half-precision lows, then codes: byte 64 j + 4 n + i holds, of output n, input
 *           4 j + i in its low and input 16 + 4 j + i in its high half;   weight = code * scale + low
 *   8 bits: 16 half-precision scales, then codes: byte 64 j + 4 n + i is output n, input 4 j + i;
 *           weight = (code - 128) * scale
 */
#pragma once
#include "rows.h"

enum { BLOCK4_BYTES = 320, BLOCK8_BYTES = 544 };

typedef struct {
    const uint8_t *data;
    size_t groups, blocks; /* N / 16 rounded up, K / 32 */
    int bits;
} Matrix;

/* Groups [first, end) of rows times matrix, into out [rows, width]; outputs beyond `width` are left out. */
void multiply_groups(const Matrix *matrix, const RowBlock *rows, size_t count, size_t first, size_t end,
                     const float *bias, float *out, size_t width);

enum Activation { SILU = 0, GELU_TANH = 1 };

/* Four groups make a unit: 16 gates, their 16 ups, twice. Units [first, end): activation(gate) * up, quantized into
 * block `unit` of out [rows, groups / 4]. */
void gate_units(const Matrix *matrix, const RowBlock *rows, size_t count, size_t first, size_t end,
                enum Activation activation, RowBlock *out);

/* Row `id` of the matrix as numbers [K]. */
void look_up(const Matrix *matrix, size_t id, float factor, float *out);
