// The one device, which says that it is an H200, and CUDA's errors.
#include "standin.h"

#include <cstring>
#include <string>

static constexpr int kVersion = 13000;
static constexpr size_t kPropertiesSize = 1008;

static void put(void* properties, size_t offset, int value) {
  memcpy(static_cast<char*>(properties) + offset, &value, sizeof value);
}
static void put_size(void* properties, size_t offset, size_t value) {
  memcpy(static_cast<char*>(properties) + offset, &value, sizeof value);
}

extern "C" {
int cudaGetDeviceCount(int* found) {
  *found = 1;
  return kOk;
}
int cudaGetDevice(int* found) {
  *found = 0;
  return failure();
}
int cudaSetDevice(int number) { return number ? 101 : failure(); }
int cudaDriverGetVersion(int* found) {
  *found = kVersion;
  return kOk;
}
int cudaRuntimeGetVersion(int* found) {
  *found = kVersion;
  return kOk;
}
// Of cudaDeviceProp only what is asked for, at its offsets.
int cudaGetDeviceProperties(void* found, int) {
  memset(found, 0, kPropertiesSize);
  strcpy(static_cast<char*>(found), "NVIDIA H200 (a stand-in)");
  put_size(found, 288, size_t(140) << 30);  // totalGlobalMem
  put_size(found, 296, 49152);              // sharedMemPerBlock
  put(found, 304, 65536);                   // regsPerBlock
  put(found, 308, 32);                      // warpSize
  put(found, 320, 1024);                    // maxThreadsPerBlock
  put(found, 324, 1024);                    // maxThreadsDim
  put(found, 328, 1024);
  put(found, 332, 64);
  put(found, 336, 2147483647);  // maxGridSize
  put(found, 340, 65535);
  put(found, 344, 65535);
  put_size(found, 352, 65536);   // totalConstMem
  put(found, 360, 9);            // major
  put(found, 364, 0);            // minor
  put(found, 384, 132);          // multiProcessorCount
  put(found, 560, 1);            // concurrentKernels
  put(found, 588, 1);            // unifiedAddressing
  put(found, 596, 60 << 20);     // l2CacheSize
  put(found, 604, 2048);         // maxThreadsPerMultiProcessor
  put_size(found, 624, 233472);  // sharedMemPerMultiprocessor
  put(found, 632, 65536);        // regsPerMultiprocessor
  put(found, 668, 1);            // cooperativeLaunch
  put_size(found, 672, 232448);  // sharedMemPerBlockOptin
  put(found, 720, 1);            // memoryPoolsSupported
  return failure();
}
int cudaDeviceGetAttribute(int* found, int attribute, int) {
  switch (attribute) {
    case 1: *found = 1024; break;     // MaxThreadsPerBlock
    case 8: *found = 49152; break;    // MaxSharedMemoryPerBlock
    case 10: *found = 32; break;      // WarpSize
    case 16: *found = 132; break;     // MultiProcessorCount
    case 39: *found = 2048; break;    // MaxThreadsPerMultiProcessor
    case 75: *found = 9; break;       // ComputeCapabilityMajor
    case 76: *found = 0; break;       // ComputeCapabilityMinor
    case 97: *found = 232448; break;  // MaxSharedMemoryPerBlockOptin
    default: *found = 1;
  }
  return failure();
}
int cudaDeviceGetDefaultMemPool(void** found, int) {
  *found = nullptr;
  return failure();
}
int cudaMemPoolCreate(void** found, const void*) {
  static int pool;
  *found = &pool;
  return failure();
}
int cudaMemPoolDestroy(void*) { return kOk; }
int cudaMemPoolGetAttribute(void*, int, void* found) {
  memset(found, 0, 8);
  return failure();
}
int cudaMemPoolSetAttribute(void*, int, void*) { return failure(); }
int cudaMemPoolTrimTo(void*, size_t) { return failure(); }
int cudaGetDriverEntryPointByVersion(const char*, void** found, unsigned, unsigned long long,
                                     int* status) {
  *found = nullptr;
  if (status) *status = 1;  // there is none
  return kOk;
}
int cudaGetLastError() { return failure(); }
int cudaPeekAtLastError() { return failure(); }
const char* cudaGetErrorName(int code) {
  switch (code) {
    case kOk: return "cudaSuccess";
    case kInvalidValue: return "cudaErrorInvalidValue";
    case kOutOfMemory: return "cudaErrorMemoryAllocation";
    case 700: return "cudaErrorIllegalAddress";
    case kUnsupportedInCapture: return "cudaErrorStreamCaptureUnsupported";
    case kCaptureInvalid: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(int code) {
  switch (code) {
    case kOk: return "no error";
    case kInvalidValue: return "invalid argument";
    case kOutOfMemory: return "out of memory";
    case 700: return "an illegal memory access was encountered";
    case kUnsupportedInCapture: return "operation not permitted when stream is capturing";
    case kCaptureInvalid: return "operation failed due to a previous error during capture";
    default: return "unknown error";
  }
}
}
