// Kernels: they have names, are launched, and do nothing.
#include "standin.h"

#include <string>
#include <unordered_map>

static std::unordered_map<const void*, const char*> names;

extern "C" void standin_handle(const char* name) {
  Guard guard(lock);
  note(kHandle, name);
}

extern "C" int standin_launch(const char* name, Stream stream) {
  Guard guard(lock);
  count_down_failure();
  if (int error = failure()) return error;
  Recording* recording = recording_of(stream);
  note(kLaunch, name, 0, stream, recording ? kCaptured : 0);
  if (recording) ++recording->nodes;
  return kOk;
}

static int launch(const void* function, Stream stream) {
  const char* name = "a kernel without a name";
  {
    Guard guard(lock);
    auto found = names.find(function);
    if (found != names.end()) name = found->second;
  }
  return standin_launch(name, stream);
}

struct LaunchConfig {
  Dim3 grid, block;
  size_t shared;
  Stream stream;
  void* attributes;
  unsigned count;
};
struct Call {
  Dim3 grid, block;
  size_t shared;
  Stream stream;
};
static thread_local Call call;

extern "C" {
int cudaLaunchKernel(const void* function, Dim3, Dim3, void**, size_t, Stream stream) {
  return launch(function, stream);
}
int __cudaLaunchKernel(const void* function, Dim3, Dim3, void**, size_t, Stream stream) {
  return launch(function, stream);
}
int cudaLaunchCooperativeKernel(const void* function, Dim3, Dim3, void**, size_t, Stream stream) {
  return launch(function, stream);
}
int cudaLaunchKernelExC(const LaunchConfig* config, const void* function, void**) {
  return launch(function, config->stream);
}
int __cudaGetKernel(const void** found, const void* function) {
  *found = function;
  return kOk;
}
unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, Stream stream) {
  call = {grid, block, shared, stream};
  return 0;
}
int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, Stream* stream) {
  *grid = call.grid;
  *block = call.block;
  *shared = call.shared;
  *stream = call.stream;
  return kOk;
}
void** __cudaRegisterFatBinary(void*) {
  static void* nothing[4];
  return nothing;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const void* function, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  Guard guard(lock);
  names[function] = name;  // which lies in the provider
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

struct FunctionAttributes {
  size_t shared, constants, local;
  int threads, registers, ptx, binary, cache, dynamic, carveout;
};
int cudaFuncGetAttributes(FunctionAttributes* found, const void*) {
  *found = {0, 0, 0, 1024, 32, 90, 90, 0, 232448, -1};
  return failure();
}
int cudaFuncSetAttribute(const void*, int, int) { return failure(); }
int cudaKernelSetAttributeForDevice(const void*, int, int, int) { return failure(); }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* found, const void*, int, size_t,
                                                           unsigned) {
  *found = 4;
  return failure();
}
int cudaLibraryLoadData(void** library, const void* code, void*, void*, unsigned, void*, void*,
                        unsigned) {
  *library = const_cast<void*>(code);
  return failure();
}
int cudaLibraryGetKernel(const void** found, void* library, const char*) {
  *found = library;
  return failure();
}
int cudaLibraryUnload(void*) { return kOk; }
}
