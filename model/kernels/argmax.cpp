// The most likely token of each row of logits: torch's own compares one number at a time.

#include <algorithm>
#include <limits>

#include "vectors.h"

namespace {

struct Argmax {
    const void* x;
    int64_t* out;
    int64_t size;
};

constexpr int64_t PIECE = 512;

// The largest number of each piece comes by vectors; only the piece that holds the row's is searched one by one.
template <typename T>
INLINE void find_largest(const Argmax& a, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        const T* x = static_cast<const T*>(a.x) + row * a.size;
        float most = -std::numeric_limits<float>::infinity();
        int64_t place = 0;
        for (int64_t start = 0; start < a.size; start += PIECE) {
            const int64_t stop = std::min(start + PIECE, a.size);
            float most_here = most;
#pragma omp simd reduction(max : most_here)
            for (int64_t i = start; i < stop; ++i) most_here = widened(x[i]) > most_here ? widened(x[i]) : most_here;
            if (most_here > most) {
                most = most_here;
                place = start;
            }
        }
        while (place + 1 < a.size && widened(x[place]) != most) ++place;
        a.out[row] = widened(x[place]) == most ? place : 0;
    }
}

FOR_EACH_PROCESSOR void largest_float32(const Argmax& a, int64_t i, int64_t j) { find_largest<float>(a, i, j); }
FOR_EACH_PROCESSOR void largest_bfloat16(const Argmax& a, int64_t i, int64_t j) { find_largest<bfloat16>(a, i, j); }

}  // namespace

extern "C" void argmax(const void* x, int64_t* out, int64_t num_rows, int64_t size, int32_t is_bfloat16,
                       int32_t num_threads) {
    const Argmax a{x, out, size};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        is_bfloat16 ? largest_bfloat16(a, first, last) : largest_float32(a, first, last);
    });
}
