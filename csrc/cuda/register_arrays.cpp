#include "register_arrays.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <utility>

#include "dlpack.hpp"
#include "error.hpp"

#ifdef KVSIM_CUDA_EMULATION
#include "emulation/emulation.hpp"
#endif

namespace kvsim::cuda {

namespace {

namespace py = pybind11;

#ifdef KVSIM_CUDA_EMULATION
constexpr dlpack::DeviceType kOwnType = dlpack::kCpu;  // what it is: memory of the host
#else
constexpr dlpack::DeviceType kOwnType = dlpack::kCuda;
#endif

bool reachable(std::int32_t type) {
  return type == kOwnType || type == dlpack::kCudaHost || type == dlpack::kCudaManaged;
}

dlpack::DataType type_of(Kind kind) {
  const dlpack::TypeCode code = kind == Kind::kFloat64 ? dlpack::kFloat : dlpack::kInt;
  return {code, static_cast<std::uint8_t>(8 * bytes_of(kind)), 1};
}

const char* numpy_name(Kind kind) { return kind == Kind::kInt64 ? "<i8" : kind == Kind::kFloat64 ? "<f8" : "|i1"; }

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw std::invalid_argument(name + ": " + problem);
}

// ---- In ----

// The array, its memory being the emulated device's for as long as it is held.
Array adopted(Array array) {
#ifdef KVSIM_CUDA_EMULATION
  emulation::adopt(array.data, array.bytes());
  array.owner = std::shared_ptr<void>(array.data, [held = array.owner](void* data) { emulation::let_go(data); });
#endif
  return array;
}

// The array on the device that its memory is on.
Array placed(Array array, const std::string& name) {
  array = adopted(std::move(array));
  if (array.length > 0) array.device = device_of(array.data);
  if (array.device < 0) refuse(name, "is not in memory that the device reaches");
  return array;
}

void require_shape(const std::string& name, i64 dimensions, i64 length, i64 stride) {
  if (dimensions != 1) refuse(name, "has " + std::to_string(dimensions) + " dimensions; give a one-dimensional array");
  if (length > 1 && stride != 1) refuse(name, "is not contiguous; give a contiguous copy of it");
}

Array from_tensor(const dlpack::Tensor& tensor, std::shared_ptr<void> owner, Kind kind, const std::string& name) {
  const dlpack::DataType type = type_of(kind);
  if (!reachable(tensor.device.type)) refuse(name, "is not in memory that the device reaches");
  if (tensor.type.code != type.code || tensor.type.bits != type.bits || tensor.type.lanes != 1) {
    refuse(name, "has another type than int64; convert it on the device");
  }
  require_shape(name, tensor.dimensions, tensor.shape[0], tensor.strides == nullptr ? 1 : tensor.strides[0]);
  char* const data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  return placed({std::move(owner), data, kind, tensor.shape[0], tensor.device.id}, name);
}

// Takes over what a capsule holds. `Held` is Managed or ManagedVersioned.
template <class Held>
Array from_capsule(const py::object& capsule, const char* used, Kind kind, const std::string& name) {
  auto* held = static_cast<Held*>(PyCapsule_GetPointer(capsule.ptr(), PyCapsule_GetName(capsule.ptr())));
  if (held == nullptr) throw py::error_already_set();
  if (PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
  std::shared_ptr<void> owner(held, [](void* one) {
    const py::gil_scoped_acquire locked;  // a deleter may be Python's
    auto* const whole = static_cast<Held*>(one);
    if (whole->deleter != nullptr) whole->deleter(whole);
  });
  if constexpr (std::is_same_v<Held, dlpack::ManagedVersioned>) {
    if (held->version.major != 1) refuse(name, "comes with a version of DLPack that is not known");
  }
  return from_tensor(held->tensor, std::move(owner), kind, name);
}

py::object capsule_of(const py::object& object) {
  // Whoever hands over an array for a stream makes that stream wait for it; memory of the host has none.
  const py::tuple device = object.attr("__dlpack_device__")();
  const auto type = device[0].cast<std::int32_t>();
  const bool streams = type == dlpack::kCuda || type == dlpack::kCudaManaged;
  const py::object stream = streams ? py::object(py::int_(import_stream())) : py::object(py::none());
  try {
    return object.attr("__dlpack__")(py::arg("stream") = stream, py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return object.attr("__dlpack__")(py::arg("stream") = stream);  // from before DLPack 1.0
}

Array from_dlpack(const py::object& object, Kind kind, const std::string& name) {
  const py::tuple device = object.attr("__dlpack_device__")();
  if (!reachable(device[0].cast<std::int32_t>())) refuse(name, "is not in memory that the device reaches");
  const py::object capsule = capsule_of(object);
  Array array = PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")
                    ? from_capsule<dlpack::ManagedVersioned>(capsule, "used_dltensor_versioned", kind, name)
                    : from_capsule<dlpack::Managed>(capsule, "used_dltensor", kind, name);
  wait_for_stream(import_stream());
  return array;
}

Array from_interface(const py::object& object, Kind kind, const std::string& name) {
  const py::dict said = object.attr("__cuda_array_interface__");
  if (said["typestr"].cast<std::string>() != numpy_name(kind)) {
    refuse(name, "has another type than int64; convert it on the device");
  }
  const py::tuple shape = said["shape"];
  const i64 length = shape.empty() ? 0 : shape[0].cast<i64>();
  i64 stride = 1;
  if (said.contains("strides") && !said["strides"].is_none() && !shape.empty()) {
    stride = said["strides"].cast<py::tuple>()[0].cast<i64>() / static_cast<i64>(bytes_of(kind));
  }
  require_shape(name, static_cast<i64>(shape.size()), length, stride);
  if (said.contains("mask") && !said["mask"].is_none()) refuse(name, "is masked; give an array without a mask");
  if (said.contains("stream") && !said["stream"].is_none()) wait_for_stream(said["stream"].cast<std::uintptr_t>());
  auto* const data = reinterpret_cast<void*>(said["data"].cast<py::tuple>()[0].cast<std::uintptr_t>());
  std::shared_ptr<void> owner(new py::object(object), [](void* held) {
    const py::gil_scoped_acquire locked;
    delete static_cast<py::object*>(held);
  });
  return placed({std::move(owner), data, kind, length, 0}, name);
}

// ---- Out ----

// An array on its way to somebody else. `Held` is Managed or ManagedVersioned.
template <class Held>
struct Sent {
  Held held{};
  Array array;
  std::int64_t shape = 0, stride = 1;
};

template <class Held>
py::capsule capsule_for(const Array& array, const char* name) {
  auto sent = std::make_unique<Sent<Held>>();
  sent->array = array;
  sent->shape = array.length;
  sent->stride = array.stride;
  sent->held.tensor = {array.data, {kOwnType, array.device}, 1, type_of(array.kind), &sent->shape, &sent->stride, 0};
  sent->held.context = sent.get();
  sent->held.deleter = [](Held* held) { delete static_cast<Sent<Held>*>(held->context); };
  if constexpr (std::is_same_v<Held, dlpack::ManagedVersioned>) sent->held.version = {1, 0};
  // Who takes the capsule renames it, and deletes what it holds.
  PyObject* const made = PyCapsule_New(&sent->held, name, [](PyObject* capsule) {
    for (const char* unused : {"dltensor", "dltensor_versioned"}) {
      if (!PyCapsule_IsValid(capsule, unused)) continue;
      auto* const held = static_cast<Held*>(PyCapsule_GetPointer(capsule, unused));
      held->deleter(held);
    }
  });
  if (made == nullptr) throw py::error_already_set();
  static_cast<void>(sent.release());
  return py::reinterpret_steal<py::capsule>(made);
}

// What is handed out is complete: pricing waits for its stream. So no stream of others has to wait.
py::capsule sent_dlpack(const Array& array, const py::object&, const std::optional<std::pair<int, int>>& max_version,
                        const std::optional<std::pair<int, int>>& device, const std::optional<bool>& copy) {
  const bool elsewhere = device && *device != std::pair<int, int>(kOwnType, array.device);
  if (elsewhere || copy.value_or(false)) {
    throw py::buffer_error("is handed over where it is, without a copy; .numpy() copies it to the host");
  }
#ifdef KVSIM_CUDA_EMULATION
  emulation::expose(array.data);
#endif
  return max_version && max_version->first >= 1 ? capsule_for<dlpack::ManagedVersioned>(array, "dltensor_versioned")
                                                : capsule_for<dlpack::Managed>(array, "dltensor");
}

py::dict interface_of(const Array& array) {
#ifdef KVSIM_CUDA_EMULATION
  emulation::expose(array.data);
#endif
  py::dict said;
  said["shape"] = py::make_tuple(array.length);
  said["typestr"] = numpy_name(array.kind);
  said["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(array.data), false);
  said["version"] = 3;
  if (array.stride != 1) said["strides"] = py::make_tuple(array.stride * static_cast<i64>(bytes_of(array.kind)));
  said["stream"] = py::none();
  return said;
}

py::array to_numpy(const Array& array) {
  const py::ssize_t span = array.length == 0 ? 0 : (array.length - 1) * array.stride + 1;
  py::array made(py::dtype(numpy_name(array.kind)), std::vector<py::ssize_t>{span});
  void* const to = made.mutable_data();
  {
    const py::gil_scoped_release release;
    const OnDevice on(array.device);
    copy_to_host(to, array.data, array.bytes());
  }
  if (array.stride == 1) return made;
  return made[py::slice(py::none(), py::none(), py::int_(array.stride))].attr("copy")();
}

}  // namespace

Array taken(const py::handle& object, Kind kind, const std::string& name) {
  const auto given = py::reinterpret_borrow<py::object>(object);
  if (py::isinstance<Array>(given)) {
    const auto array = given.cast<Array>();
    if (array.kind != kind) refuse(name, "has another type than int64");
    require_shape(name, 1, array.length, array.stride);
    return array;
  }
  if (py::hasattr(given, "__dlpack__") && py::hasattr(given, "__dlpack_device__")) {
    return from_dlpack(given, kind, name);
  }
  if (py::hasattr(given, "__cuda_array_interface__")) return from_interface(given, kind, name);
  refuse(name, "has neither __dlpack__ nor __cuda_array_interface__; give an array on the device");
}

void register_arrays(py::module_& module) {
  py::class_<Array>(module, "Array", py::module_local(),
                    "One dimension of numbers on the device. DLPack and __cuda_array_interface__ hand it over without "
                    "a copy, numpy() copies it to the host.")
      .def("__len__", [](const Array& array) { return array.length; })
      .def_property_readonly("dtype", [](const Array& array) { return py::dtype(numpy_name(array.kind)); })
      .def_property_readonly("shape", [](const Array& array) { return py::make_tuple(array.length); })
      .def("numpy", &to_numpy, "A copy in host memory.")
      .def("__dlpack__", &sent_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const Array& array) { return py::make_tuple(static_cast<int>(kOwnType), array.device); })
      .def_property_readonly("__cuda_array_interface__", &interface_of);
}

}  // namespace kvsim::cuda
