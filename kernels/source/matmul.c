#include "matmul.h"

enum { TILE = 8 }; /* Rows that share the unpacking of a block; more would not fit in the registers. */

static inline __attribute__((always_inline)) void tile4(const Matrix *m, const uint8_t *block, const RowBlock *rows, size_t count, Floats *sums) {
    for (size_t b = 0; b < m->blocks; b++, block += BLOCK4_BYTES) {
        Floats scale = load_halves((const uint16_t *)block), low = load_halves((const uint16_t *)(block + 32));
        Bytes codes[8];
        for (int j = 0; j < 4; j++) {
            Bytes both = load_bytes(block + 64 + 64 * j);
            codes[j] = both & 15;
            codes[j + 4] = both >> 4;
        }
        for (size_t r = 0; r < count; r++) {
            const RowBlock *row = rows + r * m->blocks + b;
            Ints dots = all_ints(0);
            for (int j = 0; j < 8; j++) dots = dot4(dots, codes[j], row->codes + 4 * j);
            sums[r] = multiply_add(to_floats(dots), scale * row->scale, sums[r]);
            sums[r] = multiply_add(low, all_floats(row->scale * (float)row->sum), sums[r]);
        }
    }
}

static inline __attribute__((always_inline)) void tile8(const Matrix *m, const uint8_t *block, const RowBlock *rows, size_t count, Floats *sums) {
    for (size_t b = 0; b < m->blocks; b++, block += BLOCK8_BYTES) {
        Floats scale = load_halves((const uint16_t *)block);
        Bytes codes[8];
        for (int j = 0; j < 8; j++) codes[j] = load_bytes(block + 32 + 64 * j);
        for (size_t r = 0; r < count; r++) {
            const RowBlock *row = rows + r * m->blocks + b;
            Ints dots = start8(row->sum);
            for (int j = 0; j < 8; j++) dots = dot8(dots, codes[j], row->codes + 4 * j);
            sums[r] = multiply_add(to_floats(dots), scale * row->scale, sums[r]);
        }
    }
}

/* With the count known to the compiler, the sums stay in registers. */
#define FOR_COUNT(tile)                                       \
    switch (count) {                                          \
        case 1: tile(m, block, rows, 1, sums); break;         \
        case 2: tile(m, block, rows, 2, sums); break;         \
        case 3: tile(m, block, rows, 3, sums); break;         \
        case 4: tile(m, block, rows, 4, sums); break;         \
        case 5: tile(m, block, rows, 5, sums); break;         \
        case 6: tile(m, block, rows, 6, sums); break;         \
        case 7: tile(m, block, rows, 7, sums); break;         \
        default: tile(m, block, rows, 8, sums);               \
    }

/* One group times up to TILE rows, on top of what `sums` holds. */
static void multiply_tile(const Matrix *m, size_t group, const RowBlock *rows, size_t count, Floats *sums) {
    const uint8_t *block = m->data + group * m->blocks * (m->bits == 4 ? BLOCK4_BYTES : BLOCK8_BYTES);
    if (m->bits == 4) {
        FOR_COUNT(tile4)
    } else {
        FOR_COUNT(tile8)
    }
}

static void start_at(Floats *sums, size_t count, Floats with) {
    for (size_t r = 0; r < count; r++) sums[r] = with;
}

void multiply_groups(const Matrix *m, const RowBlock *rows, size_t count, size_t first, size_t end, const float *bias, float *out, size_t width) {
    for (size_t group = first; group < end; group++) {
        size_t at = group * 16, wide = width - at < 16 ? width - at : 16;
        Floats start = all_floats(0);
        if (bias) memcpy(&start, bias + at, wide * sizeof(float));
        for (size_t t = 0; t < count; t += TILE) {
            size_t some = count - t < TILE ? count - t : TILE;
            Floats sums[TILE];
            start_at(sums, some, start);
            multiply_tile(m, group, rows + t * m->blocks, some, sums);
            for (size_t r = 0; r < some; r++) memcpy(out + (t + r) * width + at, sums + r, wide * sizeof(float));
        }
    }
}

static Floats activate(enum Activation kind, Floats x) {
    /* gelu_tanh(x) = x * sigmoid(2 * 0.79788456 * (x + 0.044715 x^3)), and silu(x) = x * sigmoid(x). */
    Floats inner = kind == SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
    return x / (exponential(-inner) + 1.0f);
}

void gate_units(const Matrix *m, const RowBlock *rows, size_t count, size_t first, size_t end, enum Activation activation, RowBlock *out) {
    for (size_t unit = first; unit < end; unit++)
        for (size_t t = 0; t < count; t += TILE) {
            size_t some = count - t < TILE ? count - t : TILE;
            float inner[TILE][BLOCK];
            for (size_t half = 0; half < 2; half++) {
                Floats gates[TILE], ups[TILE];
                start_at(gates, some, all_floats(0));
                start_at(ups, some, all_floats(0));
                multiply_tile(m, 4 * unit + 2 * half, rows + t * m->blocks, some, gates);
                multiply_tile(m, 4 * unit + 2 * half + 1, rows + t * m->blocks, some, ups);
                for (size_t r = 0; r < some; r++) store_floats(inner[r] + 16 * half, activate(activation, gates[r]) * ups[r]);
            }
            for (size_t r = 0; r < some; r++) quantize_row(inner[r], BLOCK, out + (t + r) * (m->groups / 4) + unit);
        }
}

void look_up(const Matrix *m, size_t id, float factor, float *out) {
    size_t n = id % 16, bytes = m->bits == 4 ? BLOCK4_BYTES : BLOCK8_BYTES;
    const uint8_t *block = m->data + id / 16 * m->blocks * bytes;
    for (size_t b = 0; b < m->blocks; b++, block += bytes) {
        const uint16_t *scales = (const uint16_t *)block;
        float scale = from_half(scales[n]) * factor, low = from_half(scales[16 + n]) * factor;
        for (size_t k = 0; k < BLOCK; k++) {
            if (m->bits == 4) {
                uint8_t both = block[64 + 64 * (k % 16 / 4) + 4 * n + k % 4];
                out[b * BLOCK + k] = (float)(k < 16 ? both & 15 : both >> 4) * scale + low;
            } else {
                out[b * BLOCK + k] = (float)(block[32 + 64 * (k / 4) + 4 * n + k % 4] - 128) * scale;
            }
        }
    }
}
