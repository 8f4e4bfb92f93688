// cuBLAS and cuBLASLt: each product is a launch on the stream that it was given.
#include "standin.h"

#include <cstring>

struct Handle {
  Stream stream = 0;
};

// What follows the handle does not matter to a launch, and a caller's registers are its own.
#define PRODUCT(name) \
  int name(Handle* handle) { return standin_launch(#name, handle->stream); }
#define DESCRIBED(name)          \
  int name##Create(void** found) { \
    static int one;              \
    *found = &one;               \
    return 0;                    \
  }                              \
  int name##Destroy(void*) { return 0; }
#define NOTHING(name) \
  int name() { return 0; }

extern "C" {
int cublasCreate_v2(Handle** found) {
  *found = new Handle;
  standin_handle("cublasCreate_v2");
  return 0;
}
int cublasDestroy_v2(Handle* handle) {
  delete handle;
  return 0;
}
int cublasSetStream_v2(Handle* handle, Stream stream) {
  handle->stream = stream;
  return 0;
}
int cublasGetMathMode(Handle*, int* found) {
  *found = 0;
  return 0;
}
NOTHING(cublasSetMathMode)
const char* cublasGetStatusName(int) { return "CUBLAS_STATUS_OF_THE_STAND_IN"; }
const char* cublasGetStatusString(int) { return "the stand-in has failed"; }
PRODUCT(cublasDgeam)
PRODUCT(cublasDgemmBatched)
PRODUCT(cublasDgemmStridedBatched)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasDgetrfBatched)
PRODUCT(cublasDgetriBatched)
PRODUCT(cublasGemmBatchedEx)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasScopy_v2)
PRODUCT(cublasSgeam)
PRODUCT(cublasSgemmBatched)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgetrfBatched)
PRODUCT(cublasSgetriBatched)
PRODUCT(cublasSscal_v2)

DESCRIBED(cublasLt)
DESCRIBED(cublasLtMatmulDesc)
DESCRIBED(cublasLtMatmulPreference)
DESCRIBED(cublasLtMatrixLayout)
DESCRIBED(cublasLtMatrixTransformDesc)
NOTHING(cublasLtMatmulAlgoConfigSetAttribute)
NOTHING(cublasLtMatmulAlgoInit)
NOTHING(cublasLtMatmulDescSetAttribute)
NOTHING(cublasLtMatmulPreferenceSetAttribute)
NOTHING(cublasLtMatrixLayoutSetAttribute)
struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int,
                                   Heuristic* found, int* count) {
  *found = {};
  *count = 1;
  return 0;
}
int cublasLtMatmul(void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*,
                   void*, void*, void*, size_t, Stream stream) {
  return standin_launch("cublasLtMatmul", stream);
}
int cublasLtMatrixTransform(void*, void*, void*, void*, void*, void*, void*, void*, void*, void*,
                            Stream stream) {
  return standin_launch("cublasLtMatrixTransform", stream);
}
}
