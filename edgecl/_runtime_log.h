// How a call leaves Python for ExecuTorch and comes back: without the GIL, with the lines it logged, with its error.
#pragma once

#include <nanobind/nanobind.h>

#include <executorch/runtime/core/error.h>
#include <executorch/runtime/platform/platform.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace edgecl {

namespace nb = nanobind;
using executorch::runtime::Error;

// ---- The GIL -------------------------------------------------------------------------------------------------------
// A daemon thread that asks for the GIL once the interpreter shuts down is ended there and then, which aborts the
// process when it is inside C++. So Python runs `finish_calls` before that: it waits for the calls under way, and from
// then on only its own thread gets through. After a fork no call is under way: Python runs `forget_calls`.

inline size_t g_calls = 0;  // this and the next two are touched with the GIL held
inline bool g_exiting = false;
inline std::thread::id g_exiting_thread;

class WithoutGil {
 public:
  WithoutGil() {
    const bool too_late = g_exiting && std::this_thread::get_id() != g_exiting_thread;
    if (!too_late) ++g_calls;
    state_ = PyEval_SaveThread();
    while (too_late) ::pause();
  }
  ~WithoutGil() {
    PyEval_RestoreThread(state_);
    --g_calls;
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

inline void finish_calls() {
  g_exiting = true;
  g_exiting_thread = std::this_thread::get_id();
  while (g_calls > 0) {
    nb::gil_scoped_release no_gil;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

inline void forget_calls() { g_calls = 0; }

// ---- ExecuTorch's log ----------------------------------------------------------------------------------------------
// ExecuTorch logs from any thread, without the GIL, even while the interpreter shuts down. So a line is only kept here;
// the call that caused it hands it to Python when it is back.

struct Line {
  et_pal_log_level_t level;
  std::string text;
  std::string where;
};

constexpr size_t kStrayLines = 100;  // kept of threads that are in no call of ours
inline std::mutex g_stray_mutex;
inline std::deque<Line> g_stray;
inline thread_local std::vector<Line>* t_lines = nullptr;

// While it lives, what this thread makes ExecuTorch log goes to `lines`.
class Listen {
 public:
  explicit Listen(std::vector<Line>& lines) { t_lines = &lines; }
  ~Listen() { t_lines = nullptr; }
  Listen(const Listen&) = delete;
  Listen& operator=(const Listen&) = delete;
};

inline void keep_line(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, size_t line,
                      const char* message, size_t length) {
  Line kept{level, {message, length}, std::string(file) + ":" + std::to_string(line)};
  if (level == et_pal_log_level_t::kFatal) {  // abort() comes next, Python never runs again
    std::fprintf(stderr, "edgecl: ExecuTorch aborts: %s (%s)\n", kept.text.c_str(), kept.where.c_str());
  } else if (t_lines != nullptr) {
    t_lines->push_back(std::move(kept));
  } else {
    std::lock_guard lock(g_stray_mutex);
    g_stray.push_back(std::move(kept));
    if (g_stray.size() > kStrayLines) g_stray.pop_front();
  }
}

// A damaged file can put any bytes into a message.
inline nb::object decoded(const std::string& text) {
  return nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

// Nobody can have asked for these lines before someone imported `logging`, and with no handler it would write them to
// stderr.
inline void publish(const std::vector<Line>& lines) {
  const nb::object logging = nb::module_::import_("sys").attr("modules").attr("get")("logging");
  if (logging.is_none()) return;
  const nb::object logger = logging.attr("getLogger")("edgecl.executorch");
  if (!nb::cast<bool>(logger.attr("hasHandlers")())) return;
  for (const Line& line : lines) {
    const char* level = line.level == kError ? "ERROR" : line.level == kInfo ? "INFO" : "DEBUG";
    logger.attr("log")(logging.attr(level), "%s (%s)", decoded(line.text), decoded(line.where));
  }
}

// ---- Errors --------------------------------------------------------------------------------------------------------

// Raised in Python as edgecl.errors.ProgramError.
class ProgramError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr size_t kLinesInAnError = 3;  // ExecuTorch reports a failure once on each level that it unwinds

// "what: Error::Name (its last log lines); cure", in one line.
inline std::string refusal(const std::string& what, Error error, const std::vector<Line>& lines) {
  std::vector<std::string> said;
  for (const Line& line : lines) {
    if (line.level == kError) said.push_back(line.text);
  }
  std::string text = what + ": " + executorch::runtime::to_string(error);
  const size_t first = said.size() - std::min(said.size(), kLinesInAnError);
  for (size_t i = first; i < said.size(); ++i) text += (i == first ? " (" : ", ") + said[i];
  text += first < said.size() ? "); " : "; ";
  text += "it needs a program made for ExecuTorch " EXECUTORCH_VERSION ", undamaged; install or build the bundle again";
  std::replace_if(text.begin(), text.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return text;
}

// Runs `work` without the GIL, passes on what ExecuTorch logged, and raises the error it returned.
template <typename Work>
void call(const std::string& what, Work work) {
  std::vector<Line> lines;
  Error error = Error::Ok;
  {
    WithoutGil no_gil;
    Listen listen(lines);
    try {
      error = work();
    } catch (const std::bad_alloc&) {
      error = Error::MemoryAllocationFailed;
    }
    std::lock_guard lock(g_stray_mutex);
    lines.insert(lines.end(), g_stray.begin(), g_stray.end());
    g_stray.clear();
  }
  if (!lines.empty()) publish(lines);
  if (error != Error::Ok) throw ProgramError(refusal(what, error, lines));
}

}  // namespace edgecl
