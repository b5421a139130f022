// The end of a search: exact cosines of the rows that a graph found, and the best of them with id
// and metadata. A library of its own, because processes that only search load no PyTorch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Numbers = py::array_t<int64_t, py::array::c_style>;

// Strings by row: a list of bytes, or a pair of all bytes, end to end, and where each ends.
class Strings {
 public:
  explicit Strings(const py::object& source) {
    if (py::isinstance<py::list>(source)) {
      list_ = source;
      return;
    }
    const auto pair = source.cast<std::pair<py::buffer, Numbers>>();
    bytes_ = pair.first.request();
    ends_ = pair.second;
  }

  std::string_view operator[](int64_t row) const {
    if (list_) {
      const py::object one = py::list(list_)[row];
      char* begin;
      py::ssize_t size;
      if (PyBytes_AsStringAndSize(one.ptr(), &begin, &size)) throw py::error_already_set();
      return {begin, static_cast<size_t>(size)};
    }
    if (row >= ends_.size()) throw py::index_error("no such row");
    const int64_t begin = row ? ends_.data()[row - 1] : 0, end = ends_.data()[row];
    if (begin < 0 || end < begin || end > bytes_.size) throw py::index_error("strings are damaged");
    return {static_cast<const char*>(bytes_.ptr) + begin, static_cast<size_t>(end - begin)};
  }

 private:
  py::object list_;
  py::buffer_info bytes_;
  Numbers ends_;
};

struct Scored {
  float score;
  int64_t row;
};

// The sum of products in float64, added in the order of NumPy's `pairwise_sum`. A product of two
// float32 is exact there, so the result is NumPy's to the last bit.
double dot(const float* row, const float* query, int64_t size) {
  if (size > 128) {
    const int64_t half = size / 16 * 8;
    return dot(row, query, half) + dot(row + half, query + half, size - half);
  }
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8)
    for (int lane = 0; lane < 8; ++lane)
      sums[lane] += static_cast<double>(row[i + lane]) * query[i + lane];
  double sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
               ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  for (; i < size; ++i) sum += static_cast<double>(row[i]) * query[i];
  return sum;
}

std::vector<Scored> score(const Floats& vectors, const Numbers& rows, const float* query) {
  const int64_t dimension = vectors.shape(1);
  std::vector<Scored> scored(rows.size());
  for (size_t place = 0; place < scored.size(); ++place) {
    const int64_t row = rows.data()[place];
    if (row < 0 || row >= vectors.shape(0)) throw py::index_error("no such row");
    const float* vector = vectors.data() + row * dimension;
    scored[place] = {static_cast<float>(dot(vector, query, dimension)), row};
  }
  return scored;
}

// For each query a list of the `count` best of its rows as (id, score, metadata), which are made
// instances of `kind`, a subclass of tuple.
py::list best_matches(const py::object& kind, const Floats& vectors, const py::object& ids,
                      const py::object& metadata, const std::vector<Numbers>& rows,
                      const Floats& queries, size_t count) {
  if (vectors.ndim() != 2 || queries.ndim() != 2 || vectors.shape(1) != queries.shape(1) ||
      static_cast<size_t>(queries.shape(0)) != rows.size())
    throw py::value_error("queries, rows and vectors do not belong together");
  const Strings names(ids), contents(metadata);
  const py::object make = py::type::of(py::tuple()).attr("__new__");
  std::vector<std::vector<Scored>> scored(rows.size());
  {
    const py::gil_scoped_release release;
    for (size_t number = 0; number < rows.size(); ++number)
      scored[number] = score(vectors, rows[number], queries.data() + number * queries.shape(1));
  }
  py::list found;
  for (std::vector<Scored>& own : scored) {
    const size_t kept = std::min(count, own.size());
    std::partial_sort(own.begin(), own.begin() + kept, own.end(),
                      [&](const Scored& one, const Scored& other) {
                        return one.score != other.score ? one.score > other.score
                                                        : names[one.row] < names[other.row];
                      });
    py::list matches(kept);
    for (size_t place = 0; place < kept; ++place) {
      const auto [score, row] = own[place];
      const std::string_view name = names[row], content = contents[row];
      matches[place] = make(kind, py::make_tuple(py::str(name), score, py::bytes(content)));
    }
    found.append(matches);
  }
  return found;
}

}  // namespace

PYBIND11_MODULE(matches, module) {
  module.def("best_matches", &best_matches, py::arg("kind"), py::arg("vectors").noconvert(),
             py::arg("ids"), py::arg("metadata"), py::arg("rows"),
             py::arg("queries").noconvert(), py::arg("count"));
}
