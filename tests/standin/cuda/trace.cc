// The trace: every call in memory, for whoever has the library loaded to take.
#include "standin.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

std::recursive_mutex lock;

static std::vector<Event> events;
static long launches_left = -1;  // until the device fails; -1: it does not
static int failed_with = 0;
static int fails_with = 0;

int64_t thread_id() {
  thread_local int64_t mine = syscall(SYS_gettid);
  return mine;
}

void note(Kind kind, const char* name, int64_t bytes, Stream stream, int flags) {
  Guard guard(lock);
  if (kind != kRace && records_here() && !recording_of(stream) &&
      (kind <= kGraphLaunch))
    flags |= kEscaped;
  events.push_back({kind, flags, bytes, stream, thread_id(), name});
}

int failure() {
  Guard guard(lock);
  return failed_with;
}

void count_down_failure() {
  Guard guard(lock);
  if (launches_left > 0) --launches_left;
  else if (launches_left == 0) failed_with = fails_with;
}

extern "C" {
// Forget what was traced; returns how much that was.
long standin_clear() {
  Guard guard(lock);
  long count = static_cast<long>(events.size());
  events.clear();
  return count;
}

// Copy what was traced, at most so much; returns how much there is.
long standin_take(Event* into, long most) {
  Guard guard(lock);
  long count = static_cast<long>(events.size());
  std::copy_n(events.data(), std::min(count, most), into);
  return count;
}

// After so many further launches the device fails for good; code 0 mends it.
void standin_fail(long launches, int code) {
  Guard guard(lock);
  launches_left = code ? launches : -1;
  fails_with = code;
  failed_with = 0;
}
}
