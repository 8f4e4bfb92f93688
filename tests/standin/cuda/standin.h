// Declarations of CUDA's that ONNX Runtime's provider calls, and what the stand-in keeps.
//
// The layouts are those of CUDA 13. Nothing here takes NVIDIA's headers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

struct Dim3 {
  unsigned x, y, z;
};
using Stream = uintptr_t;  // 0 is CUDA's legacy stream

enum Status {
  kOk = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotReady = 600,
  kUnsupportedInCapture = 900,
  kCaptureInvalid = 901,
};

// Keep in step with trace.py.
enum Kind : int32_t {
  kToDevice,
  kToHost,
  kOnDevice,
  kOnHost,
  kSet,
  kLaunch,
  kGraphLaunch,
  kWait,
  kQuery,
  kAllocate,
  kFree,
  kBeginCapture,
  kEndCapture,
  kInstantiate,
  kRace,  // memory that a copy was still to read has changed
  kHandle,  // of cuBLAS, with memory of its own
};

enum Flag : int32_t {
  kAsync = 1,
  kPageable = 2,   // the host's side of the copy is not pinned
  kCaptured = 4,   // noted in a recording and not done
  kReplayed = 8,   // done by the launch of a recording
  kIllegal = 16,   // CUDA would refuse it, and so does the stand-in
  kEscaped = 32,   // by a thread that records, on a stream that does not: no replay does it
};

struct Event {
  int32_t kind;
  int32_t flags;
  int64_t bytes;  // of a copy; nodes of a graph's launch
  uint64_t stream;
  int64_t thread;
  const char* name;  // lives as long as the library
};

enum class Memory { kDevice, kPinned, kPageable };

// What a stream is to do, in the order of the calls.
struct Work {
  enum { kCopy, kFill } kind;
  char* to;
  const char* from;
  size_t bytes;
  int value;
  Stream stream;
  std::vector<char> given;  // what was to be read when the copy was asked for
  long number = 0;          // in the order of the calls
};

struct Recording {
  std::vector<Work> work;
  int64_t nodes = 0;
};

// One lock for all: the stand-in is never what is measured.
extern std::recursive_mutex lock;
using Guard = std::lock_guard<std::recursive_mutex>;

// trace.cc
void note(Kind kind, const char* name, int64_t bytes = 0, Stream stream = 0, int flags = 0);
int64_t thread_id();
int failure();             // the error that the device has failed with, or 0
void count_down_failure();  // of each launch

// memory.cc
Memory memory_of(const void* address);
void do_work(const Work& work);

// streams.cc
Recording* recording_of(Stream stream);  // null: it does not record
bool records_here();                     // the calling thread records something
// Refuse what CUDA refuses while there is a recording, and note that; true if it was.
bool refused(Kind kind, const char* name, int64_t bytes = 0, Stream stream = 0);
void enqueue(Work work);          // to be done by the next wait
void finish(Stream stream);       // all that this stream is to do
void finish_all();

// kernels.cc; also of cuBLAS, whose products are launches
extern "C" int standin_launch(const char* name, Stream stream);
// A library makes a handle.
extern "C" void standin_handle(const char* name);
