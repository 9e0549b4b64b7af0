/* The part of ONNX Runtime's C interface that custom operators need, written down here because its wheel carries no
 * headers. Functions are reached by their place in the interface's table, which only ever grows at its end. */
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtContext OrtContext;
typedef struct OrtInfo OrtInfo;
typedef struct OrtShape OrtShape;
typedef struct OrtDomain OrtDomain;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtOp OrtOp;
typedef void *const *OrtApi;

typedef struct {
    OrtApi (*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

enum { ORT_API = 18 }; /* The version of the table and of OrtOp that is spoken here. */
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT32 = 6, ORT_INT64 = 7 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };

/* Places in the table. */
enum {
    ORT_CREATE_STATUS = 0,
    ORT_CREATE_DOMAIN = 26,
    ORT_ADD_TO_DOMAIN = 27,
    ORT_ADD_DOMAIN = 28,
    ORT_TENSOR_DATA = 51,
    ORT_DIMENSION_COUNT = 61,
    ORT_DIMENSIONS = 62,
    ORT_TYPE_AND_SHAPE = 65,
    ORT_ATTRIBUTE_FLOAT = 85,
    ORT_ATTRIBUTE_INT = 86,
    ORT_INPUT = 90,
    ORT_OUTPUT = 91,
    ORT_RELEASE_STATUS = 93,
    ORT_RELEASE_SHAPE = 99,
    ORT_PARALLEL_FOR = 274,
};

/* An operator as ONNX Runtime wants to be told of it. */
struct OrtOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtOp *, OrtApi, const OrtInfo *);
    const char *(*GetName)(const OrtOp *);
    const char *(*GetExecutionProviderType)(const OrtOp *);
    int (*GetInputType)(const OrtOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtOp *);
    int (*GetOutputType)(const OrtOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtOp *);
    void (*KernelCompute)(void *, OrtContext *);
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtOp *, size_t);
    int (*GetOutputCharacteristic)(const OrtOp *, size_t);
    int (*GetInputMemoryType)(const OrtOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtOp *);
    int (*GetVariadicInputHomogeneity)(const OrtOp *);
    int (*GetVariadicOutputMinArity)(const OrtOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtOp *);
    OrtStatus *(*CreateKernelV2)(const OrtOp *, OrtApi, const OrtInfo *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtContext *);
    OrtStatus *(*InferOutputShape)(const OrtOp *, void *);
    int (*GetStartVersion)(const OrtOp *);
    int (*GetEndVersion)(const OrtOp *);
    size_t (*GetMayInplace)(int **, int **);
    void (*ReleaseMayInplace)(int *, int *);
    size_t (*GetAliasMap)(int **, int **);
    void (*ReleaseAliasMap)(int *, int *);
};
