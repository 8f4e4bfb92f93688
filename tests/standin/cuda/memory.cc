// Memory of the device, which is the host's, and copies, which are done when they are waited for.
#include "standin.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>

static constexpr size_t kTotal = size_t(140) << 30;
static constexpr size_t kPage = 4096;
static constexpr unsigned char kPoison = 0xA5;  // what an answer is until it was waited for

struct Range {
  size_t bytes;
  Memory memory;
  bool is_ours;
};
static std::map<const char*, Range> ranges;
static size_t taken = 0;

static const std::pair<const char* const, Range>* range_of(const void* address) {
  auto found = ranges.upper_bound(static_cast<const char*>(address));
  if (found == ranges.begin()) return nullptr;
  --found;
  return static_cast<const char*>(address) < found->first + found->second.bytes ? &*found : nullptr;
}

Memory memory_of(const void* address) {
  Guard guard(lock);
  auto* range = range_of(address);
  return range ? range->second.memory : Memory::kPageable;
}

static bool is_inside(const void* address, size_t bytes) {
  auto* range = range_of(address);
  return !range || static_cast<const char*>(address) + bytes <= range->first + range->second.bytes;
}

static int allocate(const char* name, void** found, size_t bytes, Memory memory) {
  Guard guard(lock);
  *found = nullptr;
  if (refused(kAllocate, name, bytes)) return kUnsupportedInCapture;
  if (int error = failure()) return error;
  size_t whole = (bytes + kPage - 1) / kPage * kPage;
  if (!whole) return kOk;
  if (memory == Memory::kDevice && taken + whole > kTotal) return kOutOfMemory;
  void* at = mmap(nullptr, whole, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return kOutOfMemory;
  ranges[static_cast<char*>(at)] = {whole, memory, true};
  if (memory == Memory::kDevice) taken += whole;
  *found = at;
  note(kAllocate, name, bytes);
  return kOk;
}

static int release(const char* name, void* at) {
  Guard guard(lock);
  if (!at) return kOk;
  if (refused(kFree, name)) return kUnsupportedInCapture;
  auto found = ranges.find(static_cast<char*>(at));
  if (found == ranges.end() || !found->second.is_ours) return kInvalidValue;
  finish_all();
  if (found->second.memory == Memory::kDevice) taken -= found->second.bytes;
  munmap(at, found->second.bytes);
  ranges.erase(found);
  note(kFree, name);
  return kOk;
}

void do_work(const Work& work) {
  if (work.kind == Work::kFill) memset(work.to, work.value, work.bytes);
  if (work.kind != Work::kCopy) return;
  if (!work.given.empty() && memcmp(work.given.data(), work.from, work.bytes))
    note(kRace, "a copy's source changed", work.bytes, work.stream);
  // From device to device is the device's own work, as a kernel is: it takes no time of the host's.
  if (memory_of(work.from) != Memory::kDevice || memory_of(work.to) != Memory::kDevice)
    memmove(work.to, work.from, work.bytes);
}

// Ask for a copy. One of pageable memory is done at once, as CUDA does it (or as good as).
static int copy(const char* name, void* to, const void* from, size_t bytes, int direction,
                Stream stream, bool async) {
  Guard guard(lock);
  Memory source = memory_of(from), target = memory_of(to);
  bool from_device = source == Memory::kDevice, to_device = target == Memory::kDevice;
  Kind kind = from_device ? (to_device ? kOnDevice : kToHost) : to_device ? kToDevice : kOnHost;
  int flags = async ? kAsync : 0;
  Memory host = from_device ? target : source;
  bool is_pageable = kind != kOnDevice && host == Memory::kPageable;
  if (is_pageable) flags |= kPageable;
  static const Kind kKinds[] = {kOnHost, kToDevice, kToHost, kOnDevice};
  bool is_wrong = direction < 4 && kKinds[direction] != kind;
  if (is_wrong || !is_inside(from, bytes) || !is_inside(to, bytes)) {
    note(kind, name, bytes, stream, flags | kIllegal);
    return kInvalidValue;
  }
  if (!async && refused(kind, name, bytes, stream)) return kUnsupportedInCapture;
  if (int error = failure()) return error;
  Work work{Work::kCopy, static_cast<char*>(to), static_cast<const char*>(from), bytes, 0, stream,
            {}, 0};
  if (Recording* recording = recording_of(stream)) {
    // A replay reads the same address, where by then anything may be.
    if (is_pageable) {
      note(kind, name, bytes, stream, flags | kIllegal);
      return kUnsupportedInCapture;
    }
    note(kind, name, bytes, stream, flags | kCaptured);
    recording->work.push_back(std::move(work));
    ++recording->nodes;
    return kOk;
  }
  note(kind, name, bytes, stream, flags);
  if (!async || is_pageable) {
    if (async) finish(stream);
    else finish_all();
    do_work(work);
  } else {
    enqueue(std::move(work));
  }
  return kOk;
}

static int set(const char* name, void* to, int value, size_t bytes, Stream stream, bool async) {
  Guard guard(lock);
  if (memory_of(to) != Memory::kDevice || !is_inside(to, bytes)) {
    note(kSet, name, bytes, stream, kIllegal);
    return kInvalidValue;
  }
  if (!async && refused(kSet, name, bytes, stream)) return kUnsupportedInCapture;
  if (int error = failure()) return error;
  Work work{Work::kFill, static_cast<char*>(to), nullptr, bytes, value, stream, {}, 0};
  Recording* recording = recording_of(stream);
  note(kSet, name, bytes, stream, (async ? kAsync : 0) | (recording ? kCaptured : 0));
  if (recording) {
    recording->work.push_back(std::move(work));
    ++recording->nodes;
  } else {
    enqueue(std::move(work));
  }
  return kOk;
}

// What is copied must still be there when it is, and nobody may read what has not arrived.
void prepare(Work& work) {
  if (work.kind != Work::kCopy) return;
  if (memory_of(work.from) == Memory::kPinned)
    work.given.assign(work.from, work.from + work.bytes);
  if (memory_of(work.to) == Memory::kPinned) memset(work.to, kPoison, work.bytes);
}

extern "C" {
int cudaMalloc(void** at, size_t n) { return allocate("cudaMalloc", at, n, Memory::kDevice); }
int cudaMallocAsync(void** at, size_t n, Stream) {
  return allocate("cudaMallocAsync", at, n, Memory::kDevice);
}
int cudaMallocFromPoolAsync(void** at, size_t n, void*, Stream) {
  return allocate("cudaMallocFromPoolAsync", at, n, Memory::kDevice);
}
int cudaMallocHost(void** at, size_t n) {
  return allocate("cudaMallocHost", at, n, Memory::kPinned);
}
int cudaHostAlloc(void** at, size_t n, unsigned) {
  return allocate("cudaHostAlloc", at, n, Memory::kPinned);
}
int cudaFree(void* at) { return release("cudaFree", at); }
int cudaFreeAsync(void* at, Stream) { return release("cudaFreeAsync", at); }
int cudaFreeHost(void* at) { return release("cudaFreeHost", at); }
int cudaHostRegister(void* at, size_t n, unsigned) {
  Guard guard(lock);
  ranges[static_cast<char*>(at)] = {n, Memory::kPinned, false};
  return kOk;
}
int cudaHostUnregister(void* at) {
  Guard guard(lock);
  finish_all();
  return ranges.erase(static_cast<char*>(at)) ? kOk : kInvalidValue;
}
int cudaMemGetInfo(size_t* free, size_t* total) {
  Guard guard(lock);
  *total = kTotal;
  *free = kTotal - taken;
  return failure();
}
int cudaMemcpy(void* to, const void* from, size_t n, int direction) {
  return copy("cudaMemcpy", to, from, n, direction, 0, false);
}
int cudaMemcpyAsync(void* to, const void* from, size_t n, int direction, Stream stream) {
  return copy("cudaMemcpyAsync", to, from, n, direction, stream, true);
}
int cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                      size_t height, int direction, Stream stream) {
  for (size_t row = 0; row < height; ++row) {
    int error = copy("cudaMemcpy2DAsync", static_cast<char*>(to) + row * to_pitch,
                     static_cast<const char*>(from) + row * from_pitch, width, direction, stream,
                     true);
    if (error) return error;
  }
  return kOk;
}
int cudaMemcpyFromSymbol(void* to, const void*, size_t n, size_t, int) {
  memset(to, 0, n);
  return failure();
}
int cudaMemset(void* to, int value, size_t n) {
  return set("cudaMemset", to, value, n, 0, false);
}
int cudaMemsetAsync(void* to, int value, size_t n, Stream stream) {
  return set("cudaMemsetAsync", to, value, n, stream, true);
}
struct PointerAttributes {
  int type, device;
  void *on_device, *on_host;
  long reserved[8];
};
int cudaPointerGetAttributes(PointerAttributes* found, const void* at) {
  void* address = const_cast<void*>(at);
  Memory memory = memory_of(at);
  *found = {};
  found->type = memory == Memory::kDevice ? 2 : memory == Memory::kPinned ? 1 : 0;
  if (memory != Memory::kPageable) found->on_device = address;
  if (memory != Memory::kDevice) found->on_host = address;
  return kOk;
}
}
