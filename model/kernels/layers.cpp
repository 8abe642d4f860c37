// What stands between the products of a layer: the norm of a sum, rotary positions, the write to the paged cache, the
// gate of a feed-forward network. For the few rows of a decode step each of torch's operations takes longer to call
// than to compute; here each of these is one call.
//
// Sizes and strides are counted in elements. Arithmetic is float32, rounded to the dtype when it is stored.

#include "layers.h"
#include "vectors.h"

namespace {

// out = x / rms(x) * (offset + weight), all [rows, size]. With an `update`, x + update is stored in `sum` and normed.
struct RmsNorm {
    const void *x, *update, *weight;
    void *sum, *out;
    int64_t size;
    float eps, offset;
};

template <typename T>
INLINE void norm(const RmsNorm& a, int64_t first, int64_t last) {
    const T* weight = static_cast<const T*>(a.weight);
    for (int64_t row = first; row < last; ++row) {
        const T* x = static_cast<const T*>(a.x) + row * a.size;
        if (a.update != nullptr) {
            const T* update = static_cast<const T*>(a.update) + row * a.size;
            T* sum = static_cast<T*>(a.sum) + row * a.size;
#pragma omp simd
            for (int64_t i = 0; i < a.size; ++i) narrow(widened(x[i]) + widened(update[i]), sum + i);
            x = sum;
        }
        float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < a.size; ++i) squares += widened(x[i]) * widened(x[i]);
        const float scale = 1.0f / std::sqrt(squares / static_cast<float>(a.size) + a.eps);
        T* out = static_cast<T*>(a.out) + row * a.size;
#pragma omp simd
        for (int64_t i = 0; i < a.size; ++i) narrow(widened(x[i]) * scale * (a.offset + widened(weight[i])), out + i);
    }
}

// Turns x [rows, heads, d] in place by cosine and sine [rows, d], whose sines carry the signs; heads lie side by side.
struct Rotation {
    void* x;
    const void *cosine, *sine;
    int64_t heads, d, row_stride;
};

template <typename T>
INLINE void turn(const Rotation& a, int64_t first, int64_t last) {
    const int64_t half = a.d / 2;
    for (int64_t row = first; row < last; ++row) {
        const T* cosine = static_cast<const T*>(a.cosine) + row * a.d;
        const T* sine = static_cast<const T*>(a.sine) + row * a.d;
        T* low = static_cast<T*>(a.x) + row * a.row_stride;
        for (int64_t head = 0; head < a.heads; ++head, low += a.d) {
            T* high = low + half;
#pragma omp simd
            for (int64_t i = 0; i < half; ++i) {
                const float x = widened(low[i]), y = widened(high[i]);
                narrow(x * widened(cosine[i]) + y * widened(sine[i]), low + i);
                narrow(y * widened(cosine[half + i]) + x * widened(sine[half + i]), high + i);
            }
        }
    }
}

// key and value [rows, kv, d] to cache [pages, block, kv, 2 d] at (blocks, offsets) [rows]; heads lie side by side.
// Numbers of the cache (C) are the rows' (T), or bfloat16.
struct CacheWrite {
    const void *key, *value;
    void* cache;
    const int64_t *blocks, *offsets;
    int64_t kv, d, key_stride, value_stride, page_stride;
};

INLINE void copy(const float* from, int64_t count, float* to) { std::memcpy(to, from, count * sizeof *from); }
INLINE void copy(const bfloat16* from, int64_t count, bfloat16* to) { std::memcpy(to, from, count * sizeof *from); }

INLINE void copy(const float* from, int64_t count, bfloat16* to) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) narrow(from[i], to + i);
}

template <typename T, typename C>
INLINE void write(const CacheWrite& a, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        const T* key = static_cast<const T*>(a.key) + row * a.key_stride;
        const T* value = static_cast<const T*>(a.value) + row * a.value_stride;
        C* place = static_cast<C*>(a.cache) + a.blocks[row] * a.page_stride + a.offsets[row] * a.kv * 2 * a.d;
        for (int64_t head = 0; head < a.kv; ++head, key += a.d, value += a.d, place += 2 * a.d) {
            copy(key, a.d, place);
            copy(value, a.d, place + a.d);
        }
    }
}

// out [rows, width] = act(gate) * up, each of these with a stride from row to row.
struct Gate {
    const void *gate, *up;
    void* out;
    int64_t width, gate_stride, up_stride;
};

INLINE float sigmoid(float x) {
    const float opposite = x < -87.0f ? 87.0f : -x;
    return 1.0f / (1.0f + exponential(opposite));
}

struct Silu {
    static INLINE float of(float x) { return x * sigmoid(x); }
};

struct GeluTanh {  // (1 + tanh(x)) / 2 is the sigmoid of 2 x
    static INLINE float of(float x) { return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x)); }
};

// x times the share of a normal distribution that is below it. By Abramowitz and Stegun's 7.1.26: that share is within
// 1e-7 of the truth, which bfloat16 does not see.
struct Gelu {
    static INLINE float of(float x) {
        const float z = std::fabs(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
        float p = 1.061405429f;
        p = p * t - 1.453152027f;
        p = p * t + 1.421413741f;
        p = p * t - 0.284496736f;
        p = p * t + 0.254829592f;
        const float above = 0.5f * p * t * exponential(-z * z);
        return x * (x < 0.0f ? above : 1.0f - above);
    }
};

// out [rows, width] = the activation of x, both without gaps.
template <typename T, typename Activation>
INLINE void activate(const void* x, void* out, int64_t width, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        const T* numbers = static_cast<const T*>(x) + row * width;
        T* results = static_cast<T*>(out) + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) narrow(Activation::of(widened(numbers[i])), results + i);
    }
}

template <typename T, typename Activation>
INLINE void gate(const Gate& a, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        const T* gates = static_cast<const T*>(a.gate) + row * a.gate_stride;
        const T* up = static_cast<const T*>(a.up) + row * a.up_stride;
        T* out = static_cast<T*>(a.out) + row * a.width;
#pragma omp simd
        for (int64_t i = 0; i < a.width; ++i) narrow(Activation::of(widened(gates[i])) * widened(up[i]), out + i);
    }
}

FOR_EACH_PROCESSOR void norm_float32(const RmsNorm& a, int64_t i, int64_t j) { norm<float>(a, i, j); }
FOR_EACH_PROCESSOR void norm_bfloat16(const RmsNorm& a, int64_t i, int64_t j) { norm<bfloat16>(a, i, j); }
FOR_EACH_PROCESSOR void turn_float32(const Rotation& a, int64_t i, int64_t j) { turn<float>(a, i, j); }
FOR_EACH_PROCESSOR void turn_bfloat16(const Rotation& a, int64_t i, int64_t j) { turn<bfloat16>(a, i, j); }
FOR_EACH_PROCESSOR void write_narrower(const CacheWrite& a, int64_t i, int64_t j) { write<float, bfloat16>(a, i, j); }
FOR_EACH_PROCESSOR void silu_float32(const Gate& a, int64_t i, int64_t j) { gate<float, Silu>(a, i, j); }
FOR_EACH_PROCESSOR void silu_bfloat16(const Gate& a, int64_t i, int64_t j) { gate<bfloat16, Silu>(a, i, j); }
FOR_EACH_PROCESSOR void gelu_float32(const Gate& a, int64_t i, int64_t j) { gate<float, GeluTanh>(a, i, j); }
FOR_EACH_PROCESSOR void gelu_bfloat16(const Gate& a, int64_t i, int64_t j) { gate<bfloat16, GeluTanh>(a, i, j); }

FOR_EACH_PROCESSOR void gelu_each(const void* x, void* out, int64_t width, int64_t i, int64_t j) {
    activate<bfloat16, Gelu>(x, out, width, i, j);
}
FOR_EACH_PROCESSOR void silu_each_float32(const void* x, void* out, int64_t width, int64_t i, int64_t j) {
    activate<float, Silu>(x, out, width, i, j);
}
FOR_EACH_PROCESSOR void silu_each_bfloat16(const void* x, void* out, int64_t width, int64_t i, int64_t j) {
    activate<bfloat16, Silu>(x, out, width, i, j);
}

}  // namespace

extern "C" {

void rms_norm(const void* x, const void* update, const void* weight, void* sum, void* out, int64_t num_rows,
              int64_t size, float eps, float offset, int32_t is_bfloat16, int32_t num_threads) {
    const RmsNorm a{x, update, weight, sum, out, size, eps, offset};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        is_bfloat16 ? norm_bfloat16(a, first, last) : norm_float32(a, first, last);
    });
}

void rotate(void* x, const void* cosine, const void* sine, int64_t num_rows, int64_t heads, int64_t d,
            int64_t row_stride, int32_t is_bfloat16, int32_t num_threads) {
    const Rotation a{x, cosine, sine, heads, d, row_stride};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        is_bfloat16 ? turn_bfloat16(a, first, last) : turn_float32(a, first, last);
    });
}

void write_cache(const void* key, const void* value, void* cache, const int64_t* blocks, const int64_t* offsets,
                 int64_t num_rows, int64_t kv, int64_t d, int64_t key_stride, int64_t value_stride,
                 int64_t page_stride, int64_t cache_is_bfloat16, int32_t is_bfloat16, int32_t num_threads) {
    const CacheWrite a{key, value, cache, blocks, offsets, kv, d, key_stride, value_stride, page_stride};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        if (is_bfloat16)
            write<bfloat16, bfloat16>(a, first, last);
        else
            cache_is_bfloat16 ? write_narrower(a, first, last) : write<float, float>(a, first, last);
    });
}

void silu_gate(const void* gate, const void* up, void* out, int64_t num_rows, int64_t width, int64_t gate_stride,
               int64_t up_stride, int32_t is_bfloat16, int32_t num_threads) {
    const Gate a{gate, up, out, width, gate_stride, up_stride};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        is_bfloat16 ? silu_bfloat16(a, first, last) : silu_float32(a, first, last);
    });
}

void gelu_tanh_gate(const void* gate, const void* up, void* out, int64_t num_rows, int64_t width,
                    int64_t gate_stride, int64_t up_stride, int32_t is_bfloat16, int32_t num_threads) {
    const Gate a{gate, up, out, width, gate_stride, up_stride};
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        is_bfloat16 ? gelu_bfloat16(a, first, last) : gelu_float32(a, first, last);
    });
}

// In bfloat16 alone.
void gelu(const void* x, void* out, int64_t num_rows, int64_t width, int32_t, int32_t num_threads) {
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        gelu_each(x, out, width, first, last);
    });
}

void silu(const void* x, void* out, int64_t num_rows, int64_t width, int32_t is_bfloat16, int32_t num_threads) {
    share_rows(num_rows, num_threads, [&](int64_t first, int64_t last) {
        is_bfloat16 ? silu_each_bfloat16(x, out, width, first, last) : silu_each_float32(x, out, width, first, last);
    });
}

}  // extern "C"
