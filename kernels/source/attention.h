/* Grouped-query attention over a cache of whole numbers.
 *
 * The cache of one sequence and one key/value head is a run of tiles of 16 tokens. Bytes of a tile, d the head's size:
 *   keys:   codes: byte 64 j + 4 t + i is token t, number 4 j + i, plus 128; then d / 32 times 16 half-precision scales
 *   values: codes: byte t d + i is token t, number i (signed); then d / 32 times 16 half-precision scales
 * A token's result depends on the tokens before it alone, bit for bit, however they came: in one step or many.
 */
#pragma once
#include "rows.h"

enum { TILE_TOKENS = 16, HEAD_MAX = 256 }; /* HEAD_MAX: numbers of a head that stand on a thread's stack */

static inline size_t tile_bytes(size_t head) { return TILE_TOKENS * head + head; }

typedef struct {
    size_t heads, kv_heads, head; /* head: numbers per head, a multiple of 32 */
    size_t window;                /* tokens that are seen, the own one included; 0: all */
    float scale, epsilon;
    const float *cosines, *sines;       /* [positions, head / 2] */
    const float *query_norm, *key_norm; /* [head], or NULL */
} Attention;

/* New tokens of one sequence: numbers [count, heads + 2 kv_heads, head] (queries, keys, values), the first at position
 * `start`; and the sequence's cache of one key/value head. */
typedef struct {
    const float *numbers;
    size_t count, start;
    uint8_t *keys, *values;
} Sequence;

/* Put the keys and values of the new tokens into the cache. */
void append(const Attention *attention, const Sequence *sequence, size_t kv_head);

/* The query heads that share `kv_head`, of tokens [first, end): out [count, heads * head / 32]. */
void attend(const Attention *attention, const Sequence *sequence, size_t kv_head, size_t first, size_t end, RowBlock *out);
