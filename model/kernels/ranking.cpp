// What a search over the vocabulary asks of each row of logits: all log-probabilities, and the largest few.

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t PIECE = 512, WIDTH = 4 * LANES;
constexpr float LEAST = -std::numeric_limits<float>::infinity();

INLINE float largest(const float* x, int64_t count) {
    float most = LEAST;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; ++i) most = x[i] > most ? x[i] : most;
    return most;
}

struct LogSoftmax {
    float* x;
    int64_t size;
};

// Sums are cut into columns, not left to the compiler: their order is the same wherever a row begins.
FOR_EACH_PROCESSOR void soften_rows(const LogSoftmax& a, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        float* x = a.x + row * a.size;
        const float most = largest(x, a.size);
        float sums[WIDTH] = {};
        int64_t start = 0;
        for (; start + WIDTH <= a.size; start += WIDTH)
#pragma omp simd
            for (int64_t i = 0; i < WIDTH; ++i) sums[i] += exponential(x[start + i] - most);
        for (int64_t i = 0; start + i < a.size; ++i) sums[i] += exponential(x[start + i] - most);
        double total = 0.0;
        for (const float sum : sums) total += sum;
        const float shift = static_cast<float>(std::log(total));
#pragma omp simd
        for (int64_t i = 0; i < a.size; ++i) x[i] = x[i] - most - shift;
    }
}

// The `count` largest of each row, the largest first and of equal ones the first; NaN counts as minus infinity.
struct Largest {
    const float* x;
    float* values;
    int64_t* places;
    int64_t size, count;
};

// The largest numbers of its pieces bound what can be among the first few, so that most pieces are read once.
FOR_EACH_PROCESSOR void find_rows(const Largest& a, int64_t first, int64_t last) {
    const int64_t num_pieces = (a.size + PIECE - 1) / PIECE;
    std::vector<float> most(num_pieces), ordered;
    std::vector<std::pair<float, int64_t>> found;
    for (int64_t row = first; row < last; ++row) {
        const float* x = a.x + row * a.size;
        for (int64_t i = 0; i < num_pieces; ++i)
            most[i] = largest(x + i * PIECE, std::min(PIECE, a.size - i * PIECE));
        float bound = LEAST;
        if (a.count <= num_pieces) {
            ordered = most;
            std::nth_element(ordered.begin(), ordered.begin() + (a.count - 1), ordered.end(), std::greater<float>());
            bound = ordered[a.count - 1];
        }
        found.clear();
        for (int64_t i = 0; i < num_pieces; ++i) {
            if (most[i] < bound) continue;
            const int64_t stop = std::min(a.size, (i + 1) * PIECE);
            for (int64_t place = i * PIECE; place < stop; ++place)
                if (!(x[place] < bound)) found.emplace_back(x[place] == x[place] ? x[place] : LEAST, place);
        }
        std::partial_sort(found.begin(), found.begin() + a.count, found.end(), [](const auto& one, const auto& other) {
            return one.first > other.first || (one.first == other.first && one.second < other.second);
        });
        for (int64_t i = 0; i < a.count; ++i) {
            a.places[row * a.count + i] = found[i].second;
            a.values[row * a.count + i] = x[found[i].second];
        }
    }
}

}  // namespace

extern "C" void log_softmax(void* x, int64_t num_rows, int64_t size, int32_t, int32_t num_threads) {
    const LogSoftmax a{static_cast<float*>(x), size};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) { soften_rows(a, first, last); });
}

extern "C" void largest_numbers(const void* x, void* values, int64_t* places, int64_t num_rows, int64_t size,
                                int64_t count, int32_t, int32_t num_threads) {
    const Largest a{static_cast<const float*>(x), static_cast<float*>(values), places, size, count};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) { find_rows(a, first, last); });
}
