#include "arrays.hpp"

namespace kvsim::bindings {

void register_rates(py::module_& module) {
  py::class_<GroupRates>(module, "GroupRates", py::module_local(), "See kvsim.backends.kernels.GroupRates.")
      .def(py::init(
               [](i64 pair, i64 context, i64 decode, i64 beside) { return GroupRates{pair, context, decode, beside}; }),
           py::arg("pair"), py::arg("context"), py::arg("decode"), py::arg("beside"));

  auto rates = py::class_<Rates>(module, "Rates", py::module_local(),
                                 "See kvsim.backends.kernels.Rates; set every field by name.");
  rates.def(py::init<>());
#define KVSIM_FIELD(name) rates.def_readwrite(#name, &Rates::name)
  KVSIM_FIELD(fraction_bits);
  KVSIM_FIELD(chunk);
  KVSIM_FIELD(chunk_step);
  KVSIM_FIELD(prefill_step);
  KVSIM_FIELD(decode_step);
  KVSIM_FIELD(full);
  KVSIM_FIELD(windowed);
  KVSIM_FIELD(window);
  KVSIM_FIELD(others);
  KVSIM_FIELD(mean_context);
  KVSIM_FIELD(block_size);
  KVSIM_FIELD(block_shift);
  KVSIM_FIELD(usable_blocks);
  KVSIM_FIELD(max_model_len);
  KVSIM_FIELD(survival);
  KVSIM_FIELD(ttl_ns);
  KVSIM_FIELD(churn_ns);
#undef KVSIM_FIELD
}

}  // namespace kvsim::bindings
