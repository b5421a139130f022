// What Python sees: `Network`, `Batch`, `Source` and `Sentence` for decoding, and training's
// functions. What takes long releases Python's lock.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "batch.h"
#include "training.h"

namespace py = pybind11;
using namespace seqvis;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Release = py::call_guard<py::gil_scoped_release>;

Weights weights_of(const std::map<std::string, Floats>& arrays) {
  Weights weights;
  for (const auto& [name, array] : arrays) {
    const bool flat = array.ndim() == 1;
    weights[name] = {array.data(), flat ? 1 : static_cast<int>(array.shape(0)),
                     static_cast<int>(array.shape(flat ? 0 : 1))};
  }
  return weights;
}

// (words, score, attention (words, length) or None, whether it is finished) of each.
py::list results(const Sentence& sentence) {
  py::list found;
  for (const Hypothesis& one : sentence.hypotheses()) {
    py::object attention = py::none();
    if (!one.attention.empty()) {
      const int length = sentence.source().length;
      Floats array({static_cast<int>(one.attention.size()), length});
      for (size_t word = 0; word < one.attention.size(); ++word)
        std::copy_n(one.attention[word], length, array.mutable_data(word, 0));
      attention = array;
    }
    found.append(py::make_tuple(one.words, one.score, attention, one.finished));
  }
  return found;
}

}  // namespace

PYBIND11_MODULE(library, module) {
  py::enum_<Precision>(module, "Precision")
      .value("float32", Precision::float32)
      .value("bfloat16", Precision::bfloat16)
      .value("int8", Precision::int8);
  module.def("supports", &supports);
  py::class_<Source, std::shared_ptr<Source>>(module, "Source");
  py::class_<Network, std::shared_ptr<Network>>(module, "Network")
      // It reads the tables of words where they are, so these must stay.
      .def(py::init([](const std::map<std::string, Floats>& weights, Precision precision,
                       bool rectify, bool reads_context) {
             return std::make_shared<Network>(weights_of(weights), precision, rectify,
                                              reads_context);
           }),
           py::keep_alive<1, 2>(), py::arg().noconvert(), py::arg(), py::arg(), py::arg())
      .def("read", &Network::read, Release());
  py::class_<Sentence, std::shared_ptr<Sentence>>(module, "Sentence")
      .def(py::init<std::shared_ptr<Source>, int, int64_t, int, double>())
      .def("best_so_far", &Sentence::best_so_far)
      .def("hypotheses", &results);
  py::class_<Batch>(module, "Batch")
      .def(py::init<std::shared_ptr<Network>>())
      .def_readonly("steps", &Batch::steps)
      .def_readonly("extended", &Batch::extended)
      .def("join", &Batch::join)
      .def("drop", &Batch::drop)
      .def("run", &Batch::run, Release())
      .def("interrupt", &Batch::interrupt);
  py::class_<Attention>(module, "Attention")
      .def(py::init<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool>());
  module.def("run_gru", &run_gru, Release());
  module.def("run_gru_backward", &run_gru_backward, Release());
  module.def("run_attending", &run_attending, Release());
  module.def("run_attending_backward", &run_attending_backward, Release());
  module.def("cross_entropy", &cross_entropy, Release());
}
