#include "attention.h"

enum { QUERIES = 4 };   /* Queries that share the unpacking of a value. */

/* Halves turned against each other by the position's angles, after the norm if there is one. */
static void rotate(const Attention *a, const float *x, size_t position, const float *norm, float *out) {
    size_t half = a->head / 2;
    const float *cosines = a->cosines + position * half, *sines = a->sines + position * half;
    float normed[HEAD_MAX];
    if (norm) {
        normalise(x, norm, a->head, a->epsilon, normed);
        x = normed;
    }
    for (size_t i = 0; i < half; i += 16) {
        Floats first = load_floats(x + i), second = load_floats(x + half + i);
        Floats cosine = load_floats(cosines + i), sine = load_floats(sines + i);
        store_floats(out + i, first * cosine - second * sine);
        store_floats(out + half + i, second * cosine + first * sine);
    }
}

/* A block of 32 as codes, and its scale in half precision, which is the one that the codes are made with. */
static uint16_t quantize_block(const float *x, int8_t *codes) {
    Floats a = load_floats(x), b = load_floats(x + 16);
    float most = largest(larger(absolute(a), absolute(b))), sum = total(absolute(a) + absolute(b));
    uint16_t half = to_half(sum != sum ? sum : most / 127.0f);
    float scale = from_half(half), stretch = scale > 0 ? 1.0f / scale : 0;
    Floats limit = all_floats(127.0f);
    store_codes(codes, to_nearest(larger(smaller(a * stretch, limit), -limit)));
    store_codes(codes + 16, to_nearest(larger(smaller(b * stretch, limit), -limit)));
    return half;
}

void append(const Attention *a, const Sequence *s, size_t kv_head) {
    size_t width = (a->heads + 2 * a->kv_heads) * a->head, bytes = tile_bytes(a->head);
    for (size_t t = 0; t < s->count; t++) {
        size_t position = s->start + t, lane = position % TILE_TOKENS;
        uint8_t *keys = s->keys + position / TILE_TOKENS * bytes, *values = s->values + position / TILE_TOKENS * bytes;
        const float *numbers = s->numbers + t * width;
        float key[HEAD_MAX];
        int8_t codes[BLOCK];
        rotate(a, numbers + (a->heads + kv_head) * a->head, position, a->key_norm, key);
        const float *value = numbers + (a->heads + a->kv_heads + kv_head) * a->head;
        for (size_t b = 0; b < a->head / BLOCK; b++) {
            size_t scale_at = TILE_TOKENS * a->head + 2 * (TILE_TOKENS * b + lane);
            uint16_t scale = quantize_block(key + BLOCK * b, codes);
            memcpy(keys + scale_at, &scale, 2);
            for (size_t j = 0; j < 8; j++) {
                uint32_t four;
                memcpy(&four, codes + 4 * j, 4);
                four ^= 0x80808080u;
                memcpy(keys + 64 * (8 * b + j) + 4 * lane, &four, 4);
            }
            scale = quantize_block(value + BLOCK * b, (int8_t *)values + lane * a->head + BLOCK * b);
            memcpy(values + scale_at, &scale, 2);
        }
    }
}

/* Queries under way: softmax is kept as what it is relative to the largest score so far. */
typedef struct {
    size_t count, position[QUERIES];
    RowBlock codes[QUERIES][HEAD_MAX / BLOCK];
    float most[QUERIES], sum[QUERIES];
    float mixed[QUERIES][HEAD_MAX];
} Queries;

/* Scores of one query with the 16 tokens of a tile. */
static inline Floats score(const Attention *a, const RowBlock *query, const uint8_t *keys) {
    Floats scores = all_floats(0);
    for (size_t b = 0; b < a->head / BLOCK; b++) {
        Ints even = start8(query[b].sum), odd = all_ints(0);
        for (size_t j = 0; j < 8; j += 2) {
            even = dot8(even, load_bytes(keys + 64 * (8 * b + j)), query[b].codes + 4 * j);
            odd = dot8(odd, load_bytes(keys + 64 * (8 * b + j + 1)), query[b].codes + 4 * j + 4);
        }
        Floats scales = load_halves((const uint16_t *)(keys + TILE_TOKENS * a->head) + TILE_TOKENS * b);
        scores = multiply_add(to_floats(even + odd), scales * query[b].scale, scores);
    }
    return scores;
}

/* Adds shares [queries, 16] of a tile's values, 32 numbers of each from `from` on. */
static inline __attribute__((always_inline)) void mix(size_t count, const int8_t *values, size_t head, size_t tokens,
                                                      const float shares[QUERIES][TILE_TOKENS], const float *shrink,
                                                      float mixed[QUERIES][HEAD_MAX], size_t from) {
    Floats sums[QUERIES][2];
    for (size_t q = 0; q < count; q++)
        for (size_t v = 0; v < 2; v++) sums[q][v] = load_floats(mixed[q] + from + 16 * v) * shrink[q];
    for (size_t t = 0; t < tokens; t++)
        for (size_t v = 0; v < 2; v++) {
            Floats value = load_codes(values + t * head + from + 16 * v);
            for (size_t q = 0; q < count; q++) sums[q][v] = multiply_add(value, all_floats(shares[q][t]), sums[q][v]);
        }
    for (size_t q = 0; q < count; q++)
        for (size_t v = 0; v < 2; v++) store_floats(mixed[q] + from + 16 * v, sums[q][v]);
}

static void take_tile(const Attention *a, Queries *queries, size_t tile, const uint8_t *keys, const uint8_t *values, size_t last) {
    const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Floats weights[QUERIES];
    Ints seen[QUERIES];
    float shrink[QUERIES];
    for (size_t q = 0; q < queries->count; q++) {
        Floats scores = score(a, queries->codes[q], keys);
        Ints behind = (int32_t)queries->position[q] - (int32_t)(TILE_TOKENS * tile) - lanes;
        seen[q] = behind >= 0;
        if (a->window) seen[q] &= behind < (int32_t)a->window;
        scores = choose(seen[q], scores, all_floats(-INFINITY));
        float most = largest(scores), before = queries->most[q];
        if (!(most <= before)) queries->most[q] = most; /* NaN goes on, so that it shows. */
        shrink[q] = before == queries->most[q] || before == -INFINITY ? 1.0f : expf(before - queries->most[q]);
        weights[q] = (Floats)(seen[q] & (Ints)exponential(scores - queries->most[q]));
        queries->sum[q] = queries->sum[q] * shrink[q] + total(weights[q]);
    }
    size_t tokens = last + 1 - TILE_TOKENS * tile < TILE_TOKENS ? last + 1 - TILE_TOKENS * tile : TILE_TOKENS;
    for (size_t b = 0; b < a->head / BLOCK; b++) {
        Floats scales = load_halves((const uint16_t *)(values + TILE_TOKENS * a->head) + TILE_TOKENS * b);
        float shares[QUERIES][TILE_TOKENS];
        for (size_t q = 0; q < queries->count; q++)
            store_floats(shares[q], (Floats)(seen[q] & (Ints)(weights[q] * scales))); /* What is not seen may be anything. */
        const int8_t *codes = (const int8_t *)values;
        switch (queries->count) {
            case 1: mix(1, codes, a->head, tokens, shares, shrink, queries->mixed, BLOCK * b); break;
            case 2: mix(2, codes, a->head, tokens, shares, shrink, queries->mixed, BLOCK * b); break;
            case 3: mix(3, codes, a->head, tokens, shares, shrink, queries->mixed, BLOCK * b); break;
            default: mix(4, codes, a->head, tokens, shares, shrink, queries->mixed, BLOCK * b);
        }
    }
}

void attend(const Attention *a, const Sequence *s, size_t kv_head, size_t first, size_t end, RowBlock *out) {
    size_t shared = a->heads / a->kv_heads, width = (a->heads + 2 * a->kv_heads) * a->head, blocks = a->head / BLOCK;
    size_t all = (end - first) * shared;
    for (size_t at = 0; at < all; at += QUERIES) {
        Queries queries = {.count = all - at < QUERIES ? all - at : QUERIES};
        size_t oldest = SIZE_MAX, last = 0;
        for (size_t q = 0; q < queries.count; q++) {
            size_t token = first + (at + q) / shared, head = kv_head * shared + (at + q) % shared;
            size_t position = s->start + token, begin = a->window && position >= a->window ? position + 1 - a->window : 0;
            float turned[HEAD_MAX];
            rotate(a, s->numbers + token * width + head * a->head, position, a->query_norm, turned);
            for (size_t i = 0; i < a->head; i++) turned[i] *= a->scale;
            quantize_row(turned, a->head, queries.codes[q]);
            queries.position[q] = position;
            queries.most[q] = -INFINITY;
            if (begin < oldest) oldest = begin;
            if (position > last) last = position;
        }
        size_t bytes = tile_bytes(a->head);
        for (size_t tile = oldest / TILE_TOKENS; tile <= last / TILE_TOKENS; tile++)
            take_tile(a, &queries, tile, s->keys + tile * bytes, s->values + tile * bytes, last);
        for (size_t q = 0; q < queries.count; q++) {
            size_t token = first + (at + q) / shared, head = kv_head * shared + (at + q) % shared;
            for (size_t i = 0; i < a->head; i++) queries.mixed[q][i] /= queries.sum[q];
            quantize_row(queries.mixed[q], a->head, out + (token * a->heads + head) * blocks);
        }
    }
}
