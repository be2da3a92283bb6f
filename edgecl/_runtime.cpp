// ExecuTorch without PyTorch: opens a .pte program, loads its methods, and executes them on numpy arrays.
//
// What ExecuTorch leaves to its caller is done here. Inputs are checked before it sees them: when one is missing it
// takes that of the call before. Outputs are copied out: the next call overwrites them. What it logs goes to Python's
// logging; what it refuses is raised as edgecl.errors.ProgramError.
//
// A Program has one lock. Nobody holds the GIL while waiting for it, or while ExecuTorch works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <malloc.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "_runtime_log.h"
#include "_runtime_tensors.h"

// The executorch package has these symbols but not their headers.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
struct NoThreadPoolGuard {
  static void set_enabled(bool enabled);
};
}  // namespace executorch::extension::threadpool

namespace edgecl {
namespace {

using namespace nb::literals;
using executorch::etdump::ETDumpGen;
using executorch::extension::Module;
using executorch::runtime::TensorInfo;
namespace threadpool = executorch::extension::threadpool;

constexpr uint32_t kMaxThreads = 256;  // no board has as many cores; refuses a slip of the finger

std::mutex g_loading;  // guards the count, and the thread pool; taken after a Program's own lock
size_t g_loaded_methods = 0;

struct MethodSpec {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  size_t planned_bytes = 0;
  size_t delegates = 0;
  size_t instructions = 0;
};

// While it lives, and if `on`, ExecuTorch uses no other thread than this one.
class OnThisThread {
 public:
  explicit OnThisThread(bool on) : on_(on) { set(true); }
  ~OnThisThread() { set(false); }
  OnThisThread(const OnThisThread&) = delete;
  OnThisThread& operator=(const OnThisThread&) = delete;

 private:
  void set(bool enabled) const {
    if (on_) threadpool::NoThreadPoolGuard::set_enabled(enabled);
  }
  const bool on_;
};

class Program {
 public:
  Program(const std::filesystem::path& path, bool trace) : path_(path.string()) {
    std::unique_ptr<ETDumpGen> tracer = trace ? std::make_unique<ETDumpGen>() : nullptr;
    tracer_ = tracer.get();
    // Not mapped: a mapped file that somebody cuts short ends the process with SIGBUS.
    module_ = std::make_unique<Module>(path_, Module::LoadMode::File, std::move(tracer));
    call(path_, [&] { return module_->load(executorch::runtime::Program::Verification::InternalConsistency); });
  }

  ~Program() {
    std::vector<Line> dropped;
    Listen listen(dropped);
    release();
  }

  std::vector<std::string> method_names() {
    std::vector<std::string> names;
    call(path_, [&] {
      std::lock_guard lock(mutex_);
      const auto found = open().method_names();
      if (found.ok()) names.assign(found->begin(), found->end());
      return found.error();
    });
    std::sort(names.begin(), names.end());
    return names;
  }

  MethodSpec describe(const std::string& name) {
    MethodSpec method;
    call(path_ + ": " + name, [&] {
      std::lock_guard lock(mutex_);
      return describe(name, method);
    });
    return method;
  }

  // `isolated`: nothing is shared with other programs, so that both run at the same time: the method has its own
  // workspace and uses the calling thread alone. Otherwise all methods of the process share one workspace, as large as
  // the largest of them, behind one lock, and use the thread pool.
  void load(const std::string& name, bool isolated) {
    call(path_ + ": " + name, [&] {
      std::lock_guard lock(mutex_);
      if (loaded_.count(name)) throw ProgramError(path_ + ": " + name + " is loaded already; load it once");
      Loaded method{{}, isolated};
      if (const Error error = describe(name, method.spec); error != Error::Ok) return error;

      executorch::runtime::BackendOptions<2> options;
      options.set_option("workspace_sharing_mode", isolated ? 0 : 2);  // WorkspaceSharingMode: Disabled, Global
      // In 1.5.1 the cache frees constants that are not packed, like a scale per channel: silently wrong results.
      options.set_option("weight_cache_enabled", false);
      executorch::runtime::LoadBackendOptionsMap backends;
      if (const Error error = backends.set_options("XnnpackBackend", options.view()); error != Error::Ok) return error;

      std::lock_guard loading(g_loading);
      OnThisThread guard(isolated);
      const Error error = open().load_method(name, nullptr, nullptr, &backends);
      if (error == Error::Ok) {
        loaded_.emplace(name, std::move(method));
        ++g_loaded_methods;
      }
      return error;
    });
  }

  nb::list execute(const std::string& name, const nb::sequence& inputs) {
    const std::vector<Array> given = arrays(name, inputs);
    std::vector<Copy> copies;
    call(path_ + ": " + name, [&] {
      std::lock_guard lock(mutex_);
      Module& module = open();
      const auto found = loaded_.find(name);
      if (found == loaded_.end()) throw ProgramError(name + ": not loaded; name it when opening the program");
      check(name, found->second.spec.inputs, given);

      std::vector<executorch::extension::TensorPtr> tensors;
      std::vector<executorch::runtime::EValue> values;
      for (const Array& array : given) {
        // ExecuTorch copies inputs into memory of its own and does not write to these.
        tensors.push_back(executorch::extension::from_blob(const_cast<void*>(array.data()),
                                                           {array.shape_ptr(), array.shape_ptr() + array.ndim()},
                                                           find_dtype(array.dtype())->type));
        values.emplace_back(*tensors.back());
      }
      OnThisThread guard(found->second.isolated);
      const auto results = module.execute(name, values);
      if (results.ok()) {
        for (const auto& result : *results) copies.emplace_back(result.toTensor());
      }
      return results.error();
    });
    nb::list outputs;
    for (Copy& copy : copies) outputs.append(copy.array());
    return outputs;
  }

  nb::bytes trace() {
    executorch::etdump::ETDumpResult dump{nullptr, 0};
    call(path_, [&] {
      std::lock_guard lock(mutex_);
      open();
      if (tracer_ == nullptr) throw ProgramError(path_ + ": nothing was recorded; open the program with trace=True");
      dump = tracer_->get_etdump_data();
      tracer_->reset();  // or the next get_etdump_data() aborts, unless something was executed in between
      return Error::Ok;
    });
    const std::unique_ptr<void, decltype(&std::free)> owner(dump.buf, &std::free);
    return nb::bytes(dump.buf, dump.size);
  }

  void close() {
    call(path_, [&] {
      release();
      return Error::Ok;
    });
  }

 private:
  struct Loaded {
    MethodSpec spec;
    bool isolated;
  };

  Module& open() {
    if (module_ == nullptr) throw ProgramError(path_ + ": the program is closed; open it again");
    return *module_;
  }

  Error describe(const std::string& name, MethodSpec& method) {
    const auto names = open().method_names();
    if (!names.ok()) return names.error();
    if (names->count(name) == 0) {
      std::string all;
      for (const std::string& one : std::set<std::string>(names->begin(), names->end())) all += " " + one;
      throw ProgramError(path_ + ": no method " + name + "; it has" + all);
    }
    const auto meta = open().method_meta(name);
    if (!meta.ok()) return meta.error();
    for (size_t i = 0; i < meta->num_inputs(); ++i) {
      const auto info = meta->input_tensor_meta(i);
      if (!info.ok()) return info.error();
      method.inputs.push_back(spec(name + ": input " + std::to_string(i), *info));
    }
    for (size_t i = 0; i < meta->num_outputs(); ++i) {
      const auto info = meta->output_tensor_meta(i);
      if (!info.ok()) return info.error();
      method.outputs.push_back(spec(name + ": output " + std::to_string(i), *info));
    }
    for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
      const auto bytes = meta->memory_planned_buffer_size(i);
      if (!bytes.ok()) return bytes.error();
      method.planned_bytes += static_cast<size_t>(*bytes);
    }
    method.delegates = meta->num_backends();
    method.instructions = meta->num_instructions();
    return Error::Ok;
  }

  static TensorSpec spec(const std::string& where, const TensorInfo& info) {
    const Dtype* dtype = find_dtype(info.scalar_type());
    if (dtype == nullptr) throw ProgramError(where + " has a dtype other than " + kAllDtypes + "; export it as one");
    // Without it ExecuTorch writes outputs through a null pointer, and keeps pointers to the caller's inputs.
    if (!info.is_memory_planned()) {
      throw ProgramError(where + " has no memory; export it with alloc_graph_input and alloc_graph_output");
    }
    return {dtype->name, {info.sizes().begin(), info.sizes().end()}};
  }

  void release() {
    std::lock_guard lock(mutex_);
    std::lock_guard loading(g_loading);
    module_.reset();
    g_loaded_methods -= loaded_.size();
    loaded_.clear();
  }

  const std::string path_;
  std::mutex mutex_;
  std::unique_ptr<Module> module_;
  ETDumpGen* tracer_ = nullptr;  // owned by module_
  std::map<std::string, Loaded> loaded_;
};

threadpool::ThreadPool& pool() {
  threadpool::ThreadPool* pool = threadpool::get_threadpool();
  if (pool == nullptr) throw ProgramError("threads: ExecuTorch does not recognise this processor; use another engine");
  return *pool;
}

size_t threads() { return pool().get_thread_count(); }

void set_threads(uint32_t count) {
  if (count < 1 || count > kMaxThreads) {
    throw ProgramError("threads: " + std::to_string(count) + "; give 1 to " + std::to_string(kMaxThreads));
  }
  call("threads", [&] {
    std::lock_guard loading(g_loading);
    if (count == threads()) return Error::Ok;
    if (g_loaded_methods > 0) {  // they would go on using the pool that this deletes
      throw ProgramError("threads: " + std::to_string(g_loaded_methods) + " methods are loaded for " +
                         std::to_string(threads()) + "; set the count before opening a program");
    }
    pool()._unsafe_reset_threadpool(count);
    return Error::Ok;
  });
}

size_t heap_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace
}  // namespace edgecl

NB_MODULE(_runtime, m) {
  using namespace edgecl;
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_line, __FILE__));
  nb::set_leak_warnings(false);  // a program that is open when the process ends is no leak
  nb::module_::import_("atexit").attr("register")(nb::cpp_function(&finish_calls));
  nb::module_::import_("os").attr("register_at_fork")("after_in_child"_a = nb::cpp_function(&forget_calls));
  nb::register_exception_translator(
      [](const std::exception_ptr& error, void* type) {
        try {
          std::rethrow_exception(error);
        } catch (const ProgramError& refused) {
          PyErr_SetObject(static_cast<PyObject*>(type), decoded(refused.what()).ptr());
        }
      },
      nb::object(nb::module_::import_("edgecl.errors").attr("ProgramError")).release().ptr());

  m.attr("EXECUTORCH_VERSION") = EXECUTORCH_VERSION;

  nb::class_<TensorSpec>(m, "TensorSpec")
      .def(nb::init<std::string, std::vector<int64_t>>(), "dtype"_a, "shape"_a)
      .def_ro("dtype", &TensorSpec::dtype)
      .def_prop_ro("shape", [](const TensorSpec& spec) { return nb::tuple(nb::cast(spec.shape)); })
      .def("__repr__", &TensorSpec::shown);

  nb::class_<MethodSpec>(m, "MethodSpec")
      .def_ro("inputs", &MethodSpec::inputs)
      .def_ro("outputs", &MethodSpec::outputs)
      .def_ro("planned_bytes", &MethodSpec::planned_bytes)
      .def_ro("delegates", &MethodSpec::delegates)
      .def_ro("instructions", &MethodSpec::instructions);

  nb::class_<Program>(m, "Program")
      .def(nb::init<const std::filesystem::path&, bool>(), "path"_a, "trace"_a = false)
      .def("method_names", &Program::method_names)
      .def("describe", nb::overload_cast<const std::string&>(&Program::describe), "method"_a)
      .def("load", &Program::load, "method"_a, "isolated"_a)
      .def("execute", &Program::execute, "method"_a, "inputs"_a)
      .def("trace", &Program::trace)
      .def("close", &Program::close);

  m.def("check_inputs",
        [](const std::string& method, const std::vector<TensorSpec>& wanted, const nb::sequence& inputs) {
          check(method, wanted, arrays(method, inputs));
        },
        "method"_a, "wanted"_a, "inputs"_a);
  m.def("threads", &threads);
  m.def("set_threads", &set_threads, "count"_a);
  m.def("heap_bytes", &heap_bytes);
  m.def("trim", [] { malloc_trim(0); }, nb::call_guard<WithoutGil>());
  m.def("to_planar", &to_planar, "pixels"_a.noconvert(), "scale"_a.noconvert(), "shift"_a.noconvert());
}
