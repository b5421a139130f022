#include "batch.h"

#include <cmath>
#include <limits>
#include <numeric>

namespace seqvis {

namespace {

constexpr int kBegin = 0, kEnd = 2;  // BOS and EOS of seqvis/text/vocabulary.py
constexpr double kImpossible = -std::numeric_limits<double>::infinity();

}  // namespace

Sentence::Sentence(std::shared_ptr<Source> source, int width, int64_t limit, int n_best,
                   double exponent)
    : source_(std::move(source)),
      width_(width),
      limit_(limit),
      n_best_(n_best),
      exponent_(exponent),
      scores_(width, kImpossible) {
  scores_[0] = 0.0;  // at first all hypotheses are the same, so only one is extended
}

void Sentence::begin_step(std::vector<Row>& rows) {
  steps_.emplace_back();
  // Of 2 * width extensions at most width end, so width continue.
  const int count = width_ == 1 ? 1 : 2 * width_;
  float* weights = steps_.back().weights.reserve(static_cast<int64_t>(width_) * source_->length);
  for (int row = 0; row < width_; ++row) {
    const int last = steps_.size() == 1 ? kBegin : steps_[steps_.size() - 2].words[row];
    rows.push_back({source_.get(), last, weights + row * source_->length, count});
  }
}

bool Sentence::end_step(const Best* best, std::vector<int>& origins) {
  std::vector<Candidate> candidates, extended;
  for (int row = 0; row < width_; ++row) {
    const double before = scores_[row] - best[row].maximum - std::log(best[row].sum);
    for (size_t place = 0; place < best[row].scores.size() && before != kImpossible; ++place)
      candidates.push_back({before + best[row].scores[place], row, best[row].words[place]});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](auto& left, auto& right) { return left.score > right.score; });
  const size_t before = steps_.size() - 1;
  for (size_t rank = 0; rank < candidates.size() && rank < 2u * width_; ++rank) {
    const Candidate& candidate = candidates[rank];
    if (candidate.word != kEnd) {
      if (extended.size() < static_cast<size_t>(width_)) extended.push_back(candidate);
    } else if (rank < static_cast<size_t>(width_)) {
      ends_.push_back({candidate.score / penalty(before + 1), before, candidate.row});
    }
  }
  const bool done = is_done(extended);
  if (done && ends_.empty()) {
    finished_ = false;
    for (size_t row = 0; row < extended.size(); ++row)
      ends_.push_back({extended[row].score / penalty(steps_.size()), steps_.size(),
                       static_cast<int>(row)});
  }
  while (!extended.empty() && extended.size() < static_cast<size_t>(width_))
    extended.push_back({kImpossible, extended[0].row, extended[0].word});
  for (size_t row = 0; row < extended.size(); ++row) {
    steps_.back().rows.push_back(extended[row].row);
    steps_.back().words.push_back(extended[row].word);
    scores_[row] = extended[row].score;
    origins.push_back(extended[row].row);
  }
  return done;
}

bool Sentence::is_done(const std::vector<Candidate>& extended) const {
  if (extended.empty() || static_cast<int64_t>(steps_.size()) >= limit_) return true;
  if (ends_.size() < n_best_) return false;
  // A longer hypothesis can only lose probability, but a length penalty may make up for it.
  const double bound = extended[0].score / penalty(exponent_ ? limit_ : 1);
  const auto better = std::count_if(ends_.begin(), ends_.end(),
                                    [&](const End& end) { return end.score >= bound; });
  return static_cast<size_t>(better) >= n_best_;
}

double Sentence::penalty(int64_t words) const { return std::pow((5.0 + words) / 6.0, exponent_); }

Hypothesis Sentence::follow(size_t steps, int row) const {
  Hypothesis hypothesis{std::vector<int>(steps), 0.0, finished_, {}};
  if (source_->keys[0]) hypothesis.attention.resize(steps);
  while (steps--) {
    const Step& step = steps_[steps];
    hypothesis.words[steps] = step.words[row];
    row = step.rows[row];
    if (source_->keys[0]) hypothesis.attention[steps] = step.weights.get() + row * source_->length;
  }
  return hypothesis;
}

std::vector<Hypothesis> Sentence::hypotheses() const {
  std::vector<End> ends = ends_;
  std::stable_sort(ends.begin(), ends.end(),
                   [](auto& left, auto& right) { return left.score > right.score; });
  std::vector<Hypothesis> found;
  for (size_t rank = 0; rank < std::min(n_best_, ends.size()); ++rank) {
    found.push_back(follow(ends[rank].steps, ends[rank].row));
    found.back().score = ends[rank].score;
  }
  return found;
}

Batch::Batch(std::shared_ptr<const Network> network)
    : network_(std::move(network)), hidden_(network_->layers()) {}

void Batch::join(const std::vector<std::shared_ptr<Sentence>>& sentences) {
  std::vector<int> origins(rows_);
  std::iota(origins.begin(), origins.end(), 0);
  keep(origins, sentences);
  running_.insert(running_.end(), sentences.begin(), sentences.end());
}

void Batch::drop(const Sentence* sentence) {
  std::vector<int> origins;
  int begin = 0;
  for (const auto& one : running_) {
    for (int row = 0; row < one->width() && one.get() != sentence; ++row)
      origins.push_back(begin + row);
    begin += one->width();
  }
  keep(origins);
  std::erase_if(running_, [&](const auto& one) { return one.get() == sentence; });
}

std::vector<std::shared_ptr<Sentence>> Batch::run(int most) {
  std::vector<std::shared_ptr<Sentence>> ended, staying;
  std::vector<Row> rows;
  std::vector<Best> best;
  std::vector<int> origins, own;
  for (int step = 0; step < most && !running_.empty() && ended.empty(); ++step) {
    rows.clear();
    for (const auto& sentence : running_) sentence->begin_step(rows);
    network_->step(rows, hidden_, best);
    staying.clear();
    origins.clear();
    int begin = 0;
    for (auto& sentence : running_) {
      own.clear();
      const bool done = sentence->end_step(&best[begin], own);
      (done ? ended : staying).push_back(sentence);
      if (!done)
        for (int row : own) origins.push_back(begin + row);
      begin += sentence->width();
    }
    std::swap(running_, staying);
    keep(origins);
    ++steps;
    extended += begin;
    if (interrupted_) break;
  }
  interrupted_ = false;
  return ended;
}

// Goes on with the rows `origins`, and with those of sentences that join.
void Batch::keep(const std::vector<int>& origins,
                 const std::vector<std::shared_ptr<Sentence>>& joining) {
  const int size = network_->size();
  rows_ = static_cast<int>(origins.size());
  for (const auto& sentence : joining) rows_ += sentence->width();
  for (size_t layer = 0; layer < hidden_.size(); ++layer) {
    kept_.reshape(rows_, size);
    int row = 0;
    for (int origin : origins) std::copy_n(hidden_[layer][origin], size, kept_[row++]);
    for (const auto& sentence : joining)
      for (int copy = 0; copy < sentence->width(); ++copy)
        std::copy_n(sentence->source().hidden[layer], size, kept_[row++]);
    std::swap(kept_, hidden_[layer]);
  }
}

}  // namespace seqvis
