// LayerNorm of rows, or of the sums of two: what closes each half of an encoder's layer, in one pass over memory.
//
// Arithmetic is float32 for all dtypes; the sum is rounded to the dtype first, as two operations would.

#include "vectors.h"

namespace {

// out = (x - mean(x)) / deviation(x) * weight + bias, all [rows, size], `bias` [size] or null. With an `update`,
// x + update is stored in `sum`, which may be `out`, and normed.
struct LayerNorm {
    const void *x, *update, *weight, *bias;
    void *sum, *out;
    int64_t size;
    float eps;
};

template <typename T>
INLINE void norm(const LayerNorm& a, int64_t first, int64_t last) {
    const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
    const int64_t size = a.size, whole = size / LANES * LANES;
    for (int64_t row = first; row < last; ++row) {
        const T* x = static_cast<const T*>(a.x) + row * size;
        if (a.update != nullptr) {
            const T* update = static_cast<const T*>(a.update) + row * size;
            T* sum = static_cast<T*>(a.sum) + row * size;
            for (int64_t i = 0; i < whole; i += LANES) store(load(x + i) + load(update + i), sum + i);
            for (int64_t i = whole; i < size; ++i) narrow(widened(x[i]) + widened(update[i]), sum + i);
            x = sum;
        }
        Vector totals{}, squares{};
        for (int64_t i = 0; i < whole; i += LANES) totals += load(x + i);
        float total = sum_of(totals);
        for (int64_t i = whole; i < size; ++i) total += widened(x[i]);
        const float mean = total / static_cast<float>(size);
        for (int64_t i = 0; i < whole; i += LANES) {
            const Vector away = load(x + i) - mean;
            squares += away * away;
        }
        float square = sum_of(squares);
        for (int64_t i = whole; i < size; ++i) square += (widened(x[i]) - mean) * (widened(x[i]) - mean);
        const float scale = 1.0f / std::sqrt(square / static_cast<float>(size) + a.eps);
        T* out = static_cast<T*>(a.out) + row * size;
        for (int64_t i = 0; i < whole; i += LANES) {
            const Vector y = (load(x + i) - mean) * scale * load(weight + i);
            store(bias == nullptr ? y : y + load(bias + i), out + i);
        }
        for (int64_t i = whole; i < size; ++i) {
            const float y = (widened(x[i]) - mean) * scale * widened(weight[i]);
            narrow(bias == nullptr ? y : y + widened(bias[i]), out + i);
        }
    }
}

FOR_EACH_PROCESSOR void norm_float32(const LayerNorm& a, int64_t i, int64_t j) { norm<float>(a, i, j); }
FOR_EACH_PROCESSOR void norm_bfloat16(const LayerNorm& a, int64_t i, int64_t j) { norm<bfloat16>(a, i, j); }

}  // namespace

extern "C" void layer_norm(const void* x, const void* update, const void* weight, const void* bias, void* sum,
                           void* out, int64_t num_rows, int64_t size, float eps, int32_t is_bfloat16,
                           int32_t num_threads) {
    const LayerNorm a{x, update, weight, bias, sum, out, size, eps};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        is_bfloat16 ? norm_bfloat16(a, first, last) : norm_float32(a, first, last);
    });
}
