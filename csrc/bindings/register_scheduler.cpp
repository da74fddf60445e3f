#include "../scheduler.hpp"
#include "arrays.hpp"
#include "engine_inputs.hpp"

namespace kvsim::bindings {

namespace {

// A scheduler driven a step at a time, with the arrays it reads.
template <class S>
class SteppedScheduler {
 public:
  SteppedScheduler(const py::handle& settings, const py::handle& contexts)
      : contexts_(contexts), scheduler_(settings_from(settings), contexts_.columns) {}

  void arrive(i64 row) {
    if (row < 0 || row >= contexts_.columns.rows) throw std::out_of_range("no such row");
    scheduler_.arrive(row);
  }

  py::tuple schedule() {
    const i64 evicted = scheduler_.pool().evicted();
    scheduler_.schedule();
    py::list work, preempted;
    for (const Work& part : scheduler_.work()) {
      const typename S::Request& request = scheduler_.seat(part.seat);
      work.append(py::make_tuple(request.row, part.before, part.tokens));
      cached_[request.row] = request.cached;
    }
    for (const i64 row : scheduler_.preempted()) preempted.append(row);
    return py::make_tuple(work, preempted, scheduler_.pool().evicted() - evicted, scheduler_.pool().free_blocks(),
                          scheduler_.running().size(), scheduler_.waiting());
  }

  py::list update() {
    py::list finished;
    scheduler_.update([](const auto&) {}, [&](const auto& request) { finished.append(request.row); });
    return finished;
  }

  i64 cached_tokens(i64 row) const {
    const auto known = cached_.find(row);
    return known == cached_.end() ? -1 : known->second;
  }

 private:
  HeldContexts contexts_;
  S scheduler_;
  std::unordered_map<i64, i64> cached_;
};

template <class S>
void define(py::module_& module, const char* name) {
  using Stepped = SteppedScheduler<S>;
  py::class_<Stepped>(module, name, "See kvsim.backends.stepping.Stepper.")
      .def(py::init<py::handle, py::handle>(), py::arg("settings"), py::arg("contexts"))
      .def("arrive", &Stepped::arrive, py::arg("row"))
      .def("schedule", &Stepped::schedule,
           "(work, preempted, evicted, free blocks, running, waiting) of the next step.")
      .def("update", &Stepped::update, "Ends the step; the rows that finished.")
      .def("cached_tokens", &Stepped::cached_tokens, py::arg("row"));
}

}  // namespace

void register_scheduler(py::module_& module) {
  define<Scheduler>(module, "Scheduler");
  define<GroupScheduler>(module, "GroupScheduler");
}

}  // namespace kvsim::bindings
