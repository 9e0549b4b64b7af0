/* The operators as ONNX Runtime sees them. A graph may come from a stranger: every size is checked before memory is
 * touched, and what does not fit is an error that names the operator and the input. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "attention.h"
#include "matmul.h"
#include "ort.h"

static OrtApi api; /* Set once, when ONNX Runtime loads this library. */

#define CALL(place, result, ...) ((result(*)(__VA_ARGS__))api[place])

/* The failure of one operator: NULL while all is well. */
static OrtStatus *refuse(const char *operator, const char *reason) {
    char message[160];
    snprintf(message, sizeof message, "nukkad.%s: %s", operator, reason);
    return CALL(ORT_CREATE_STATUS, OrtStatus *, int, const char *)(ORT_INVALID_ARGUMENT, message);
}

#define REQUIRE(condition, reason) \
    if (!(condition)) return refuse(NAME, reason)

enum { RANK_MAX = 4 };

typedef struct {
    bool given; /* false: the input was left out */
    void *data;
    size_t rank;
    int64_t sizes[RANK_MAX];
} Tensor;

static void *data_of(const OrtValue *value) {
    void *data = NULL;
    CALL(ORT_TENSOR_DATA, OrtStatus *, const OrtValue *, void **)(value, &data);
    return data;
}

static Tensor input(OrtContext *context, size_t place) {
    Tensor tensor = {0};
    const OrtValue *value = NULL;
    OrtShape *shape = NULL;
    CALL(ORT_INPUT, OrtStatus *, OrtContext *, size_t, const OrtValue **)(context, place, &value);
    if (!value) return tensor;
    CALL(ORT_TYPE_AND_SHAPE, OrtStatus *, const OrtValue *, OrtShape **)(value, &shape);
    CALL(ORT_DIMENSION_COUNT, OrtStatus *, OrtShape *, size_t *)(shape, &tensor.rank);
    if (tensor.rank <= RANK_MAX) CALL(ORT_DIMENSIONS, OrtStatus *, OrtShape *, int64_t *, size_t)(shape, tensor.sizes, tensor.rank);
    CALL(ORT_RELEASE_SHAPE, void, OrtShape *)(shape);
    tensor.given = true;
    tensor.data = data_of(value);
    return tensor;
}

static void *output(OrtContext *context, size_t place, size_t rank, const int64_t *sizes) {
    OrtValue *value = NULL;
    CALL(ORT_OUTPUT, OrtStatus *, OrtContext *, size_t, const int64_t *, size_t, OrtValue **)(context, place, sizes, rank, &value);
    return value ? data_of(value) : NULL;
}

static bool is_shape2(Tensor tensor, int64_t first, int64_t second) {
    return tensor.rank == 2 && tensor.sizes[0] == first && tensor.sizes[1] == second;
}

static bool is_vector(Tensor tensor, int64_t size) { return tensor.rank == 1 && tensor.sizes[0] == size; }

/* A matrix as matmul.h lays it out; false if the tensor is none. */
static bool as_matrix(Tensor tensor, Matrix *matrix) {
    if (tensor.rank != 3) return false;
    *matrix = (Matrix){tensor.data, (size_t)tensor.sizes[0], (size_t)tensor.sizes[1], tensor.sizes[2] == BLOCK4_BYTES ? 4 : 8};
    return tensor.sizes[2] == BLOCK4_BYTES || tensor.sizes[2] == BLOCK8_BYTES;
}

static bool are_rows(Tensor tensor, size_t blocks) {
    return tensor.rank == 2 && tensor.sizes[1] == (int64_t)(blocks * sizeof(RowBlock));
}

/* Attributes. */

static int64_t attribute(const OrtInfo *info, const char *name, int64_t otherwise) {
    int64_t value = otherwise;
    OrtStatus *status = CALL(ORT_ATTRIBUTE_INT, OrtStatus *, const OrtInfo *, const char *, int64_t *)(info, name, &value);
    if (!status) return value;
    CALL(ORT_RELEASE_STATUS, void, OrtStatus *)(status);
    return otherwise;
}

static float attribute_float(const OrtInfo *info, const char *name, float otherwise) {
    float value = otherwise;
    OrtStatus *status = CALL(ORT_ATTRIBUTE_FLOAT, OrtStatus *, const OrtInfo *, const char *, float *)(info, name, &value);
    if (!status) return value;
    CALL(ORT_RELEASE_STATUS, void, OrtStatus *)(status);
    return otherwise;
}

/* What a node keeps of its attributes; each operator reads its own. */
typedef struct {
    int64_t width, activation, heads, kv_heads, window;
    float epsilon, factor, scale;
} Node;

static OrtStatus *create(const OrtOp *op, OrtApi table, const OrtInfo *info, void **node) {
    (void)op, (void)table;
    Node *made = malloc(sizeof *made);
    if (!made) return refuse("create", "no memory");
    *made = (Node){
        .width = attribute(info, "width", 0),
        .activation = attribute(info, "activation", SILU),
        .heads = attribute(info, "heads", 0),
        .kv_heads = attribute(info, "kv_heads", 0),
        .window = attribute(info, "window", 0),
        .epsilon = attribute_float(info, "epsilon", 0),
        .factor = attribute_float(info, "factor", 1),
        .scale = attribute_float(info, "scale", 0),
    };
    *node = made;
    return NULL;
}

/* Work side by side: a share is at least MINIMUM multiplications, so that small things are done by one thread. */

enum { MINIMUM = 1 << 17, SHARES_MAX = 64 };

typedef struct {
    void (*run)(void *job, size_t first, size_t end);
    void *job;
    size_t items, shares;
} Work;

static void run_share(void *given, size_t share) {
    const Work *work = given;
    work->run(work->job, work->items * share / work->shares, work->items * (share + 1) / work->shares);
}

/* run(job, first, end) over all items; `effort`: multiplications in all. */
static void share_out(OrtContext *context, void (*run)(void *, size_t, size_t), void *job, size_t items, size_t effort) {
    size_t shares = effort / MINIMUM + 1;
    if (shares > SHARES_MAX) shares = SHARES_MAX;
    if (shares > items) shares = items;
    Work work = {run, job, items, shares};
    if (shares <= 1) {
        run(job, 0, items);
        return;
    }
    CALL(ORT_PARALLEL_FOR, OrtStatus *, OrtContext *, void (*)(void *, size_t), size_t, size_t, void *)(context, run_share, shares, 0, &work);
}

/* LookUp: ids int64 [T], matrix → numbers [T, K], times `factor`. `width`: rows that the matrix really has. */
#define NAME "LookUp"
typedef struct {
    Matrix matrix;
    const int64_t *ids;
    float factor, *out;
} LookUps;

static void look_up_share(void *given, size_t first, size_t end) {
    const LookUps *job = given;
    for (size_t t = first; t < end; t++) look_up(&job->matrix, (size_t)job->ids[t], job->factor, job->out + t * job->matrix.blocks * BLOCK);
}

static OrtStatus *look_up_rows(void *given, OrtContext *context) {
    const Node *node = given;
    Tensor ids = input(context, 0), table = input(context, 1);
    Matrix matrix;
    REQUIRE(ids.rank == 1, "ids must be a vector");
    REQUIRE(as_matrix(table, &matrix) && node->width <= (int64_t)matrix.groups * 16, "the table is not in blocks of its width");
    const int64_t *id = ids.data;
    for (int64_t t = 0; t < ids.sizes[0]; t++) REQUIRE(id[t] >= 0 && id[t] < node->width, "an id lies outside the table");
    size_t width = matrix.blocks * BLOCK;
    LookUps job = {matrix, id, node->factor, output(context, 0, 2, (int64_t[]){ids.sizes[0], (int64_t)width})};
    share_out(context, look_up_share, &job, (size_t)ids.sizes[0], (size_t)ids.sizes[0] * width * 64);
    return NULL;
}
#undef NAME

/* QuantizeRows: numbers [T, K] → rows [T, K / 32 * 40]. */
#define NAME "QuantizeRows"
static OrtStatus *quantize_rows(void *given, OrtContext *context) {
    (void)given;
    Tensor values = input(context, 0);
    REQUIRE(values.rank == 2 && values.sizes[1] % BLOCK == 0, "values must be [T, K] with K a multiple of 32");
    size_t blocks = (size_t)values.sizes[1] / BLOCK;
    RowBlock *out = output(context, 0, 2, (int64_t[]){values.sizes[0], (int64_t)(blocks * sizeof(RowBlock))});
    quantize_row(values.data, (size_t)values.sizes[0] * blocks * BLOCK, out);
    return NULL;
}
#undef NAME

/* AddNormQuantize: stream [T, H], norm's weight [H], change [T, H]?, change's own norm's weight [H]?
 * → quantized norm of (stream + change), and that sum. */
#define NAME "AddNormQuantize"
typedef struct {
    const float *stream, *weight, *change, *change_weight;
    size_t width;
    float epsilon;
    RowBlock *rows;
    float *sum;
} Norms;

static void norm_rows(void *given, size_t first, size_t end) {
    const Norms *job = given;
    float normed[job->width];
    for (size_t t = first; t < end; t++) {
        const float *values = job->stream + t * job->width;
        if (job->change) {
            const float *change = job->change + t * job->width;
            float *sum = job->sum + t * job->width;
            if (job->change_weight) {
                normalise(change, job->change_weight, job->width, job->epsilon, normed);
                change = normed;
            }
            for (size_t i = 0; i < job->width; i += 16) store_floats(sum + i, load_floats(values + i) + load_floats(change + i));
            values = sum;
        }
        normalise(values, job->weight, job->width, job->epsilon, normed);
        quantize_row(normed, job->width, job->rows + t * (job->width / BLOCK));
    }
}

enum { WIDTH_MAX = 1 << 16 }; /* Numbers of a row that stand on a thread's stack. */

static OrtStatus *add_norm_quantize(void *given, OrtContext *context) {
    const Node *node = given;
    Tensor stream = input(context, 0), weight = input(context, 1), change = input(context, 2), own = input(context, 3);
    REQUIRE(stream.rank == 2 && stream.sizes[1] % BLOCK == 0 && stream.sizes[1] <= WIDTH_MAX, "the stream must be [T, H] with H a multiple of 32 up to 65536");
    int64_t count = stream.sizes[0], width = stream.sizes[1];
    REQUIRE(is_vector(weight, width), "the weight must be [H]");
    REQUIRE(!change.given || is_shape2(change, count, width), "the change must be as large as the stream");
    REQUIRE(!own.given || (change.given && is_vector(own, width)), "the change's weight must be [H]");
    Norms job = {stream.data, weight.data, change.data, own.data, (size_t)width, node->epsilon, NULL, NULL};
    job.rows = output(context, 0, 2, (int64_t[]){count, width / BLOCK * (int64_t)sizeof(RowBlock)});
    if (change.given) {
        job.sum = output(context, 1, 2, (int64_t[]){count, width});
        REQUIRE(job.sum || !count, "with a change, the sum must be taken");
    }
    share_out(context, norm_rows, &job, (size_t)count, (size_t)(count * width) * 8);
    return NULL;
}
#undef NAME

/* MatMulBlocks: rows, matrix, bias [width]? → numbers [T, width]. */
#define NAME "MatMulBlocks"
typedef struct {
    Matrix matrix;
    const RowBlock *rows;
    size_t count, width;
    const float *bias;
    float *out;
    enum Activation activation;
    RowBlock *inner;
} Product;

static void multiply_share(void *given, size_t first, size_t end) {
    const Product *job = given;
    multiply_groups(&job->matrix, job->rows, job->count, first, end, job->bias, job->out, job->width);
}

static size_t effort_of(const Product *job) { return job->count * job->matrix.groups * 16 * job->matrix.blocks * BLOCK; }

static OrtStatus *multiply_blocks(void *given, OrtContext *context) {
    const Node *node = given;
    Tensor rows = input(context, 0), table = input(context, 1), bias = input(context, 2);
    Product job = {.rows = rows.data, .width = (size_t)node->width, .bias = bias.data};
    REQUIRE(as_matrix(table, &job.matrix), "the matrix is not in blocks");
    REQUIRE(node->width > ((int64_t)job.matrix.groups - 1) * 16 && node->width <= (int64_t)job.matrix.groups * 16, "the width does not fit the matrix");
    REQUIRE(are_rows(rows, job.matrix.blocks), "the rows do not fit the matrix");
    REQUIRE(!bias.given || is_vector(bias, node->width), "the bias must be [width]");
    job.count = (size_t)rows.sizes[0];
    job.out = output(context, 0, 2, (int64_t[]){rows.sizes[0], node->width});
    share_out(context, multiply_share, &job, job.matrix.groups, effort_of(&job));
    return NULL;
}
#undef NAME

/* GateUp: rows, matrix of gates and ups in units → rows of activation(gate) * up. */
#define NAME "GateUp"
static void gate_share(void *given, size_t first, size_t end) {
    const Product *job = given;
    gate_units(&job->matrix, job->rows, job->count, first, end, job->activation, job->inner);
}

static OrtStatus *gate_up(void *given, OrtContext *context) {
    const Node *node = given;
    Tensor rows = input(context, 0), table = input(context, 1);
    Product job = {.rows = rows.data, .activation = (enum Activation)node->activation};
    REQUIRE(as_matrix(table, &job.matrix) && job.matrix.groups % 4 == 0, "the matrix is not in units of four groups");
    REQUIRE(are_rows(rows, job.matrix.blocks), "the rows do not fit the matrix");
    REQUIRE(node->activation == SILU || node->activation == GELU_TANH, "there is no such activation");
    job.count = (size_t)rows.sizes[0];
    job.inner = output(context, 0, 2, (int64_t[]){rows.sizes[0], (int64_t)(job.matrix.groups / 4 * sizeof(RowBlock))});
    share_out(context, gate_share, &job, job.matrix.groups / 4, effort_of(&job));
    return NULL;
}
#undef NAME

/* CachedAttention: numbers [T, (heads + 2 kv_heads) * head], sequences int32 [B, 4] (slot, start, tokens, first token),
 * cosines and sines [positions, head / 2], keys and values uint8 [slots, kv_heads, tiles, tile bytes], norms [head]?
 * → rows [T, heads * head / 32 * 40], and the caches, which must be the memory of the inputs. */
#define NAME "CachedAttention"
enum { SLOT, START, TOKENS, FIRST, FIELDS };
enum { CUT = 8 }; /* Tokens of one piece of work, so that threads share a long prompt. */

typedef struct {
    Attention attention;
    const float *numbers;
    const int32_t *sequences;
    uint8_t *keys, *values;
    size_t slot_bytes, pieces_max;
    RowBlock *rows;
} Attending;

static Sequence sequence_of(const Attending *job, size_t number, size_t kv_head) {
    const int32_t *fields = job->sequences + number * FIELDS;
    size_t at = ((size_t)fields[SLOT] * job->attention.kv_heads + kv_head) * job->slot_bytes;
    size_t width = (job->attention.heads + 2 * job->attention.kv_heads) * job->attention.head;
    return (Sequence){job->numbers + (size_t)fields[FIRST] * width, (size_t)fields[TOKENS], (size_t)fields[START], job->keys + at, job->values + at};
}

static void append_share(void *given, size_t first, size_t end) {
    const Attending *job = given;
    for (size_t i = first; i < end; i++) {
        Sequence sequence = sequence_of(job, i / job->attention.kv_heads, i % job->attention.kv_heads);
        append(&job->attention, &sequence, i % job->attention.kv_heads);
    }
}

/* Items are all pieces of all sequences and heads; a sequence shorter than the longest has empty ones. */
static void attend_share(void *given, size_t first, size_t end) {
    const Attending *job = given;
    for (size_t i = first; i < end; i++) {
        size_t kv_head = i % job->attention.kv_heads, piece = i / job->attention.kv_heads;
        size_t number = piece / job->pieces_max, token = piece % job->pieces_max * CUT;
        Sequence sequence = sequence_of(job, number, kv_head);
        if (token >= sequence.count) continue;
        size_t until = token + CUT < sequence.count ? token + CUT : sequence.count;
        RowBlock *rows = job->rows + (size_t)job->sequences[number * FIELDS + FIRST] * job->attention.heads * (job->attention.head / BLOCK);
        attend(&job->attention, &sequence, kv_head, token, until, rows);
    }
}

static OrtStatus *cached_attention(void *given, OrtContext *context) {
    const Node *node = given;
    Tensor numbers = input(context, 0), sequences = input(context, 1), cosines = input(context, 2), sines = input(context, 3);
    Tensor keys = input(context, 4), values = input(context, 5), query_norm = input(context, 6), key_norm = input(context, 7);
    REQUIRE(node->kv_heads > 0 && node->heads > 0 && node->heads % node->kv_heads == 0 && node->heads <= 1024 && node->window >= 0, "heads must be a multiple of kv_heads");
    REQUIRE(cosines.rank == 2 && is_shape2(sines, cosines.sizes[0], cosines.sizes[1]), "cosines and sines must be [positions, head / 2]");
    int64_t head = 2 * cosines.sizes[1];
    REQUIRE(head > 0 && head % BLOCK == 0 && head <= HEAD_MAX, "a head must be a multiple of 32, up to 256");
    REQUIRE(numbers.rank == 2 && numbers.sizes[1] == (node->heads + 2 * node->kv_heads) * head, "the numbers do not fit the heads");
    REQUIRE(sequences.rank == 2 && sequences.sizes[1] == FIELDS, "sequences must be [B, 4]");
    REQUIRE(keys.rank == 4 && keys.sizes[1] == node->kv_heads && keys.sizes[3] == (int64_t)tile_bytes((size_t)head), "the cache does not fit the heads");
    REQUIRE(values.rank == 4 && !memcmp(keys.sizes, values.sizes, sizeof keys.sizes), "keys and values must be of one shape");
    REQUIRE(!query_norm.given || is_vector(query_norm, head), "the queries' norm must be [head]");
    REQUIRE(!key_norm.given || is_vector(key_norm, head), "the keys' norm must be [head]");
    int64_t capacity = keys.sizes[2] * TILE_TOKENS < cosines.sizes[0] ? keys.sizes[2] * TILE_TOKENS : cosines.sizes[0];
    int64_t taken = 0, longest = 1, seen = 0;
    const int32_t *fields = sequences.data;
    for (int64_t b = 0; b < sequences.sizes[0]; b++, fields += FIELDS) {
        REQUIRE(fields[SLOT] >= 0 && fields[SLOT] < keys.sizes[0], "a slot lies outside the cache");
        REQUIRE(fields[FIRST] == taken && fields[TOKENS] >= 0, "sequences must follow one another");
        REQUIRE(fields[START] >= 0 && (int64_t)fields[START] + fields[TOKENS] <= capacity, "a sequence is longer than the cache or the positions");
        taken += fields[TOKENS];
        seen += ((int64_t)fields[START] + fields[TOKENS]) * fields[TOKENS];
        if (fields[TOKENS] > longest) longest = fields[TOKENS];
    }
    REQUIRE(taken == numbers.sizes[0], "sequences must cover every token");
    Attending job = {
        .attention = {(size_t)node->heads, (size_t)node->kv_heads, (size_t)head, (size_t)node->window,
                      node->scale > 0 ? node->scale : 1.0f / sqrtf((float)head), node->epsilon, cosines.data, sines.data,
                      query_norm.data, key_norm.data},
        .numbers = numbers.data,
        .sequences = sequences.data,
        .slot_bytes = (size_t)(keys.sizes[2] * keys.sizes[3]),
        .pieces_max = (size_t)(longest + CUT - 1) / CUT,
    };
    job.rows = output(context, 0, 2, (int64_t[]){taken, node->heads * head / BLOCK * (int64_t)sizeof(RowBlock)});
    job.keys = output(context, 1, 4, keys.sizes);
    job.values = output(context, 2, 4, values.sizes);
    REQUIRE(job.keys == keys.data && job.values == values.data, "the caches must be written where they are read");
    size_t pairs = (size_t)(sequences.sizes[0] * node->kv_heads);
    share_out(context, append_share, &job, pairs, (size_t)(taken * node->kv_heads * head) * 64);
    share_out(context, attend_share, &job, pairs * job.pieces_max, (size_t)(seen * node->heads * head) * 2);
    return NULL;
}
#undef NAME

/* What ONNX Runtime asks of an operator. */

typedef struct {
    OrtOp op; /* First, so that a pointer to it is one to the whole. */
    const char *name;
    size_t inputs, outputs, required; /* `required` inputs come first; of the outputs, the first. */
    int input_types[8], output_types[3];
} Operator;

static const Operator *of(const OrtOp *op) { return (const Operator *)op; }
static const char *get_name(const OrtOp *op) { return of(op)->name; }
static const char *get_provider(const OrtOp *op) { return (void)op, "CPUExecutionProvider"; }
static size_t count_inputs(const OrtOp *op) { return of(op)->inputs; }
static size_t count_outputs(const OrtOp *op) { return of(op)->outputs; }
static int get_input_type(const OrtOp *op, size_t place) { return of(op)->input_types[place]; }
static int get_output_type(const OrtOp *op, size_t place) { return of(op)->output_types[place]; }
static int is_input_optional(const OrtOp *op, size_t place) { return place < of(op)->required ? ORT_REQUIRED : ORT_OPTIONAL; }
static int is_output_optional(const OrtOp *op, size_t place) { return (void)op, place ? ORT_OPTIONAL : ORT_REQUIRED; }
static int get_memory(const OrtOp *op, size_t place) { return (void)op, (void)place, 0; }
static int first_version(const OrtOp *op) { return (void)op, 1; }
static int last_version(const OrtOp *op) { return (void)op, INT32_MAX; }

#define OPERATOR(compute)                                                                                              \
    {                                                                                                                  \
        .version = ORT_API, .GetName = get_name, .GetExecutionProviderType = get_provider,                             \
        .GetInputType = get_input_type, .GetInputTypeCount = count_inputs, .GetOutputType = get_output_type,           \
        .GetOutputTypeCount = count_outputs, .KernelDestroy = free, .GetInputCharacteristic = is_input_optional,       \
        .GetOutputCharacteristic = is_output_optional, .GetInputMemoryType = get_memory, .CreateKernelV2 = create,     \
        .KernelComputeV2 = compute, .GetStartVersion = first_version, .GetEndVersion = last_version                    \
    }

static const Operator operators[] = {
    {OPERATOR(look_up_rows), "LookUp", 2, 1, 2, {ORT_INT64, ORT_UINT8}, {ORT_FLOAT}},
    {OPERATOR(quantize_rows), "QuantizeRows", 1, 1, 1, {ORT_FLOAT}, {ORT_UINT8}},
    {OPERATOR(add_norm_quantize), "AddNormQuantize", 4, 2, 2, {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT}, {ORT_UINT8, ORT_FLOAT}},
    {OPERATOR(multiply_blocks), "MatMulBlocks", 3, 1, 2, {ORT_UINT8, ORT_UINT8, ORT_FLOAT}, {ORT_FLOAT}},
    {OPERATOR(gate_up), "GateUp", 2, 1, 2, {ORT_UINT8, ORT_UINT8}, {ORT_UINT8}},
    {OPERATOR(cached_attention), "CachedAttention", 8, 3, 6,
     {ORT_FLOAT, ORT_INT32, ORT_FLOAT, ORT_FLOAT, ORT_UINT8, ORT_UINT8, ORT_FLOAT, ORT_FLOAT}, {ORT_UINT8, ORT_UINT8, ORT_UINT8}},
};

/* ONNX Runtime calls this when a session's options are given this library. */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static OrtDomain *domain; /* Made once and kept as long as the process: sessions refer to it. */
    api = base->GetApi(ORT_API);
    OrtStatus *status = NULL;
    if (!domain) {
        status = CALL(ORT_CREATE_DOMAIN, OrtStatus *, const char *, OrtDomain **)("nukkad", &domain);
        for (size_t i = 0; !status && i < sizeof operators / sizeof *operators; i++)
            status = CALL(ORT_ADD_TO_DOMAIN, OrtStatus *, OrtDomain *, const OrtOp *)(domain, &operators[i].op);
    }
    return status ? status : CALL(ORT_ADD_DOMAIN, OrtStatus *, OrtSessionOptions *, OrtDomain *)(options, domain);
}
