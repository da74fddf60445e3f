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
  virtual void arrive(i64 row, i64 now_ns) = 0;
  virtual py::tuple schedule(i64 now_ns) = 0;
  virtual py::list update(i64 now_ns) = 0;
  virtual i64 cached_tokens(i64 row) const = 0;
  virtual i64 loaded_tokens(i64 row) const = 0;
  virtual i64 next_event_ns() const = 0;
};

// With the arrays it reads. S: Scheduler or GroupScheduler.
template <class S>
class Stepped final : public SteppedScheduler {
 public:
  Stepped(const Settings& settings, const py::handle& contexts, const py::handle& plan)
      : contexts_(contexts),
        plan_(plan, contexts_.columns.rows),
        chains_(contexts_.columns),
        scheduler_(settings, contexts_.columns, chains_, plan_.plan) {}

  void arrive(i64 row, i64 now_ns) override {
    if (row < 0 || row >= contexts_.columns.rows) throw std::out_of_range("no such row");
    scheduler_.arrive(row, now_ns);
  }

  py::tuple schedule(i64 now_ns) override {
    const i64 evicted = scheduler_.pool().evicted();
    scheduler_.schedule(now_ns);
    py::list work, preempted;
    scheduler_.each_part(scheduler_.work(), [&](const Work& part) {
      work.append(py::make_tuple(scheduler_.seat(part.seat).row, part.before, part.tokens));
    });
    const SeatList& running = scheduler_.running();
    for (i32 seat = running.first(); seat != kNone; seat = running.after(seat)) {
      const auto& request = scheduler_.seat(seat);
      hits_[request.row] = {request.cached, request.loaded};
    }
    for (const i64 row : scheduler_.preempted()) preempted.append(row);
    return py::make_tuple(work, preempted, scheduler_.pool().evicted() - evicted, scheduler_.pool().free_blocks(),
                          running.size(), scheduler_.waiting());
  }

  py::list update(i64 now_ns) override {
    py::list finished;
    scheduler_.update(now_ns, [](const auto&) {}, [&](const auto& request) { finished.append(request.row); });
    return finished;
  }

  i64 cached_tokens(i64 row) const override { return hits_of(row).cached; }
  i64 loaded_tokens(i64 row) const override { return hits_of(row).loaded; }
  i64 next_event_ns() const override { return scheduler_.next_event_ns(); }

 private:
  struct Hits {
    i64 cached = -1;
    i64 loaded = 0;
  };

  Hits hits_of(i64 row) const {
    const auto known = hits_.find(row);
    return known == hits_.end() ? Hits{} : known->second;
  }

  HeldContexts contexts_;
  HeldPlan plan_;
  Chains chains_;
  S scheduler_;
  std::unordered_map<i64, Hits> hits_;
};

std::unique_ptr<SteppedScheduler> stepped(const py::handle& given, const py::handle& contexts, const py::handle& plan) {
  const Settings settings = settings_from(given);
  if (settings.one_full_group()) return std::make_unique<Stepped<Scheduler>>(settings, contexts, plan);
  return std::make_unique<Stepped<GroupScheduler>>(settings, contexts, plan);
}

}  // namespace

void register_scheduler(py::module_& module) {
  py::class_<SteppedScheduler>(module, "Scheduler", "See kvsim.backends.stepping.Stepper.")
      .def(py::init(&stepped), py::arg("settings"), py::arg("contexts"), py::arg("plan"))
      .def("arrive", &SteppedScheduler::arrive, py::arg("row"), py::arg("now_ns"))
      .def("schedule", &SteppedScheduler::schedule, py::arg("now_ns"),
           "(work, preempted, evicted, free blocks, running, waiting) of the next step.")
      .def("update", &SteppedScheduler::update, py::arg("now_ns"),
           "Ends the oldest step in flight; the rows that finished.")
      .def("cached_tokens", &SteppedScheduler::cached_tokens, py::arg("row"))
      .def("loaded_tokens", &SteppedScheduler::loaded_tokens, py::arg("row"))
      .def("next_event_ns", &SteppedScheduler::next_event_ns);
}

}  // namespace kvsim::bindings
