// Streams, events, recordings, and everything that waits.
//
// What streams are to do stands in one queue, in the order of the calls; a wait does what stands
// before it. That is one of the orders in which a device may do it, and the latest one: who reads
// an answer, or writes over what is still to be copied, without having waited is found out.
#include "standin.h"

#include <deque>
#include <map>
#include <set>

struct Capture {
  Recording recording;
  int mode;  // 0: global, 1: of the thread, 2: relaxed
  int64_t thread;
  Stream origin;
};
struct Marker {
  Stream stream = 0;
  Capture* capture = nullptr;
  long number = 0;  // of the last work before it
};

static std::deque<Work> queue;
static std::map<Stream, Capture*> capturing;
static std::set<Stream> streams;
static uintptr_t next_stream = 16;
static long last_number = 0;

void prepare(Work& work);  // memory.cc

Recording* recording_of(Stream stream) {
  auto found = capturing.find(stream);
  return found == capturing.end() ? nullptr : &found->second->recording;
}

bool records_here() {
  for (auto& [stream, capture] : capturing)
    if (capture->thread == thread_id()) return true;
  return false;
}

bool refused(Kind kind, const char* name, int64_t bytes, Stream stream) {
  Guard guard(lock);
  for (auto& [captured, capture] : capturing) {
    bool is_own = capture->thread == thread_id();
    bool waits_for_it = kind == kWait && captured == stream;
    if (waits_for_it || capture->mode == 0 || (capture->mode == 1 && is_own)) {
      note(kind, name, bytes, stream, kIllegal);
      return true;
    }
  }
  return false;
}

void enqueue(Work work) {
  prepare(work);
  work.number = ++last_number;
  queue.push_back(std::move(work));
}

static long last_of(Stream stream) {
  for (auto work = queue.rbegin(); work != queue.rend(); ++work)
    if (work->stream == stream) return work->number;
  return 0;
}

static void finish_to(long number) {
  for (; !queue.empty() && queue.front().number <= number; queue.pop_front())
    do_work(queue.front());
}

void finish(Stream stream) { finish_to(last_of(stream)); }

void finish_all() { finish_to(last_number); }

static int create(Stream* found) {
  Guard guard(lock);
  *found = next_stream += 16;
  streams.insert(*found);
  return failure();
}

static int wait_for(const char* name, Stream stream, long number) {
  Guard guard(lock);
  if (refused(kWait, name, 0, stream)) return kUnsupportedInCapture;
  note(kWait, name, 0, stream);
  finish_to(number);
  return failure();
}

static int query(const char* name, Stream stream, long number) {
  Guard guard(lock);
  if (refused(kQuery, name, 0, stream)) return kUnsupportedInCapture;
  note(kQuery, name, 0, stream);
  finish_to(number);
  return failure();
}

extern "C" {
int cudaStreamCreate(Stream* found) { return create(found); }
int cudaStreamCreateWithFlags(Stream* found, unsigned) { return create(found); }
int cudaStreamCreateWithPriority(Stream* found, unsigned, int) { return create(found); }
int cudaStreamDestroy(Stream stream) {
  Guard guard(lock);
  finish(stream);
  return streams.erase(stream) ? kOk : kInvalidValue;
}
int cudaStreamSynchronize(Stream stream) {
  Guard guard(lock);
  return wait_for("cudaStreamSynchronize", stream, stream ? last_of(stream) : last_number);
}
int cudaDeviceSynchronize() {
  Guard guard(lock);
  return wait_for("cudaDeviceSynchronize", 0, last_number);
}
int cudaStreamQuery(Stream stream) {
  Guard guard(lock);
  return query("cudaStreamQuery", stream, last_of(stream));
}

int cudaEventCreateWithFlags(Marker** found, unsigned) {
  *found = new Marker;
  return failure();
}
int cudaEventCreate(Marker** found) { return cudaEventCreateWithFlags(found, 0); }
int cudaEventDestroy(Marker* marker) {
  delete marker;
  return kOk;
}
int cudaEventRecord(Marker* marker, Stream stream) {
  Guard guard(lock);
  auto found = capturing.find(stream);
  *marker = {stream, found == capturing.end() ? nullptr : found->second, last_of(stream)};
  return failure();
}
int cudaEventRecordWithFlags(Marker* marker, Stream stream, unsigned) {
  return cudaEventRecord(marker, stream);
}
int cudaEventSynchronize(Marker* marker) {
  return wait_for("cudaEventSynchronize", marker->stream, marker->number);
}
int cudaEventQuery(Marker* marker) { return query("cudaEventQuery", marker->stream, marker->number); }
int cudaEventElapsedTime(float* found, Marker*, Marker*) {
  *found = 1;
  return failure();
}
int cudaStreamWaitEvent(Stream stream, Marker* marker, unsigned) {
  Guard guard(lock);
  // A stream that waits for one that records, records with it.
  auto found = capturing.find(marker->stream);
  bool is_open = found != capturing.end() && found->second == marker->capture;
  if (is_open && !capturing.count(stream)) capturing[stream] = marker->capture;
  return failure();
}

int cudaStreamBeginCapture(Stream stream, int mode) {
  Guard guard(lock);
  bool is_illegal = stream == 0 || capturing.count(stream);
  note(kBeginCapture, "cudaStreamBeginCapture", 0, stream, is_illegal ? kIllegal : 0);
  if (is_illegal) return kUnsupportedInCapture;
  capturing[stream] = new Capture{{}, mode, thread_id(), stream};
  return failure();
}
int cudaStreamEndCapture(Stream stream, Recording** found) {
  Guard guard(lock);
  auto at = capturing.find(stream);
  bool is_illegal = at == capturing.end() || at->second->origin != stream;
  note(kEndCapture, "cudaStreamEndCapture", 0, stream, is_illegal ? kIllegal : 0);
  *found = nullptr;
  if (is_illegal) return kCaptureInvalid;
  Capture* capture = at->second;
  for (auto each = capturing.begin(); each != capturing.end();)
    each = each->second == capture ? capturing.erase(each) : std::next(each);
  *found = new Recording(std::move(capture->recording));
  delete capture;
  return failure();
}
int cudaStreamIsCapturing(Stream stream, int* found) {
  Guard guard(lock);
  *found = recording_of(stream) != nullptr;
  return failure();
}
int cudaThreadExchangeStreamCaptureMode(int*) { return kOk; }

int cudaGraphInstantiate(Recording** found, Recording* graph, unsigned long long) {
  Guard guard(lock);
  if (refused(kInstantiate, "cudaGraphInstantiate")) return kUnsupportedInCapture;
  note(kInstantiate, "cudaGraphInstantiate", graph->nodes);
  *found = new Recording(*graph);
  return failure();
}
int cudaGraphUpload(Recording*, Stream) { return failure(); }
int cudaGraphLaunch(Recording* graph, Stream stream) {
  Guard guard(lock);
  count_down_failure();
  if (int error = failure()) return error;
  if (Recording* recording = recording_of(stream)) {  // a graph in a graph
    note(kGraphLaunch, "cudaGraphLaunch", graph->nodes, stream, kCaptured);
    recording->work.insert(recording->work.end(), graph->work.begin(), graph->work.end());
    recording->nodes += graph->nodes;
    return kOk;
  }
  note(kGraphLaunch, "cudaGraphLaunch", graph->nodes, stream);
  for (Work work : graph->work) {
    work.stream = stream;
    if (work.kind == Work::kCopy) {
      bool from = memory_of(work.from) == Memory::kDevice;
      bool to = memory_of(work.to) == Memory::kDevice;
      Kind kind = from ? (to ? kOnDevice : kToHost) : to ? kToDevice : kOnHost;
      note(kind, "cudaGraphLaunch", work.bytes, stream, kAsync | kReplayed);
    }
    enqueue(std::move(work));
  }
  return kOk;
}
int cudaGraphDestroy(Recording* graph) {
  delete graph;
  return kOk;
}
int cudaGraphExecDestroy(Recording* graph) {
  delete graph;
  return kOk;
}
int cudaLaunchHostFunc(Stream stream, void (*function)(void*), void* data) {
  Guard guard(lock);
  finish(stream);
  function(data);
  return failure();
}
}
