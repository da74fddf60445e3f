// Where prices go: arrays that the caller made.
#pragma once

#include "../estimate.hpp"
#include "arrays.hpp"

namespace kvsim::bindings {

static_assert(sizeof(Totals) == 8 * sizeof(i64), "Totals is a row of eight integers");

template <typename Value>
Value* writable(const py::handle& column, i64 rows) {
  auto array = py::array_t<Value, py::array::c_style>::ensure(column);
  if (!array || array.ptr() != column.ptr() || array.size() != rows) {
    throw std::invalid_argument("columns must be contiguous arrays of the right type and one value a turn");
  }
  return array.mutable_data();
}

inline PriceColumns price_columns(const py::tuple& columns, i64 rows) {
  if (columns.size() != 8) throw std::invalid_argument("there are 8 columns of prices");
  return {writable<i64>(columns[0], rows),    writable<i64>(columns[1], rows),        writable<i64>(columns[2], rows),
          writable<i64>(columns[3], rows),    writable<i64>(columns[4], rows),        writable<i64>(columns[5], rows),
          writable<double>(columns[6], rows), writable<std::int8_t>(columns[7], rows)};
}

}  // namespace kvsim::bindings
