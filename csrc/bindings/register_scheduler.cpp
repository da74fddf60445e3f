#include <memory>

#include "../scheduler.hpp"
#include "arrays.hpp"
#include "engine_inputs.hpp"

namespace kvsim::bindings {

namespace {

// A scheduler driven a step at a time, whatever its pool.
class SteppedScheduler {
 public:
  virtual ~SteppedScheduler() = default;
  virtual void arrive(i64 row) = 0;
  virtual py::tuple schedule() = 0;
  virtual py::list update() = 0;
  virtual i64 cached_tokens(i64 row) const = 0;
};

// With the arrays it reads. S: Scheduler or GroupScheduler.
template <class S>
class Stepped final : public SteppedScheduler {
 public:
  Stepped(const Settings& settings, const py::handle& contexts)
      : contexts_(contexts),
        chains_(contexts_.columns, settings.block_size),
        scheduler_(settings, contexts_.columns, chains_) {}

  void arrive(i64 row) override {
    if (row < 0 || row >= contexts_.columns.rows) throw std::out_of_range("no such row");
    scheduler_.arrive(row, 0);
  }

  py::tuple schedule() override {
    const i64 evicted = scheduler_.pool().evicted();
    scheduler_.schedule(0);
    py::list work, preempted;
    for (const Work& part : scheduler_.work()) {
      const auto& request = scheduler_.seat(part.seat);
      work.append(py::make_tuple(request.row, part.before, part.tokens));
      cached_[request.row] = request.cached;
    }
    for (const i64 row : scheduler_.preempted()) preempted.append(row);
    return py::make_tuple(work, preempted, scheduler_.pool().evicted() - evicted, scheduler_.pool().free_blocks(),
                          scheduler_.running().size(), scheduler_.waiting());
  }

  py::list update() override {
    py::list finished;
    scheduler_.update(0, [](const auto&) {}, [&](const auto& request) { finished.append(request.row); });
    return finished;
  }

  i64 cached_tokens(i64 row) const override {
    const auto known = cached_.find(row);
    return known == cached_.end() ? -1 : known->second;
  }

 private:
  HeldContexts contexts_;
  Chains chains_;
  S scheduler_;
  std::unordered_map<i64, i64> cached_;
};

std::unique_ptr<SteppedScheduler> stepped(const py::handle& given, const py::handle& contexts) {
  const Settings settings = settings_from(given);
  if (settings.one_full_group()) return std::make_unique<Stepped<Scheduler>>(settings, contexts);
  return std::make_unique<Stepped<GroupScheduler>>(settings, contexts);
}

}  // namespace

void register_scheduler(py::module_& module) {
  py::class_<SteppedScheduler>(module, "Scheduler", "See kvsim.backends.stepping.Stepper.")
      .def(py::init(&stepped), py::arg("settings"), py::arg("contexts"))
      .def("arrive", &SteppedScheduler::arrive, py::arg("row"))
      .def("schedule", &SteppedScheduler::schedule,
           "(work, preempted, evicted, free blocks, running, waiting) of the next step.")
      .def("update", &SteppedScheduler::update, "Ends the oldest step in flight; the rows that finished.")
      .def("cached_tokens", &SteppedScheduler::cached_tokens, py::arg("row"));
}

}  // namespace kvsim::bindings
