// All layers of a decoder whose weights have kernels of ours, by one group of threads.
//
// Each stage of a layer is the kernel that the layer's modules call one by one, given to the threads by shares with a
// barrier behind it, so that results have the same bits either way. What goes is the time between the kernels, of a
// single row a fifth of the step.

#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>

#include "bfloat16.h"
#include "decode_attention.h"
#include "layers.h"
#include "quantized.h"

// Of a quantized weight, see `quantized.h`; without scales of one of bfloat16 numbers, see `bfloat16.h`.
struct Product {
    const uint8_t* weight;
    const void *scales, *bias;
    int64_t in, padded, out, group;
};

// Norms are null where there are none. `rotation` is the place of the layer's kind among the angles.
struct Layer {
    const void *self_norm, *query_norm, *key_norm, *self_post_norm, *mlp_norm, *mlp_post_norm;
    Product inputs, output, wide, down;  // wide: up, then gate
    int64_t window, rotation;
};

struct Decoder {
    const Layer* layers;
    const void* final_norm;
    int64_t num_layers, hidden, heads, kv, d, intermediate;
    float scale, eps, offset;
    int32_t is_gelu, is_bfloat16;
};

// Rows x [n, hidden] to out [n, hidden], or of these the `num_wanted` rows `wanted`, where it is not null; cosines and
// sines [n, d], one of each kind; each layer's cache. `tiles` are null where each row is attended by itself.
struct DecoderStep {
    const void* x;
    void* out;
    const void *const *cosines, *const *sines;
    void* const* caches;
    const int64_t *tables, *num_keys, *blocks, *offsets, *tiles, *wanted;
    int64_t num_rows, num_tiles, num_wanted, block, num_blocks, page_stride;
    int32_t num_threads, cache_is_bfloat16;
};

namespace {

constexpr int64_t EARLY = 16384;  // bytes of each thread's share that are fetched while it would wait
constexpr int PATIENCE = 1 << 14;

// Threads that come back in less than a microsecond: OpenMP's own barrier asks the system to wake them.
class Barrier {
   public:
    void wait(int64_t num_threads) {
        const int64_t round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
            if (spins < PATIENCE)
                pause();
            else
                std::this_thread::yield();  // another process may have taken a core
        }
    }

   private:
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    alignas(64) std::atomic<int64_t> arrived_{0};
    alignas(64) std::atomic<int64_t> round_{0};
};

struct Free {
    void operator()(void* place) const { std::free(place); }
};

// From a cache line's border on.
template <typename T>
using Room = std::unique_ptr<T, Free>;

template <typename T = char>
Room<T> room_for(int64_t count) {
    return Room<T>(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
}

// Rows between the stages, which all threads of a step share.
struct Rooms {
    Room<char> total, normed, heads, attended, wide, gated, update;
    Room<int8_t> codes;
    Room<float> scales;
    Room<int32_t> sums;
    std::unique_ptr<std::atomic<int64_t>[]> attended_pieces;  // [layers], that somebody took
};

// One thread's part in a step.
class Worker {
   public:
    Worker(const Decoder& decoder, const DecoderStep& step, const Rooms& rooms, Barrier& barrier, int64_t own,
           int64_t count)
        : a_(decoder), step_(step), rooms_(rooms), barrier_(barrier), kernels_(kernels_for(0)), own_(own),
          count_(count), size_(decoder.is_bfloat16 ? 2 : 4), num_rows_(step.num_rows) {}

    void run() {
        const char* x = static_cast<const char*>(step_.x);
        const void* update = nullptr;
        for (int64_t i = 0; i < a_.num_layers; ++i) {
            const Layer& layer = a_.layers[i];
            add_norm(x, update, layer.self_norm, rooms_.normed.get());
            x = update == nullptr ? x : rooms_.total.get();
            multiply(layer.inputs, rooms_.normed.get(), rooms_.heads.get());
            turn_and_write(layer, step_.caches[i]);
            attend(layer, step_.caches[i], rooms_.attended_pieces[i]);
            const char* attended = rooms_.attended.get();
            if (i + 1 == a_.num_layers && step_.wanted != nullptr) {
                x = pick(x, a_.hidden, rooms_.wide.get());
                attended = pick(attended, a_.heads * a_.d, rooms_.heads.get());
                barrier_.wait(count_);
                num_rows_ = step_.num_wanted;
            }
            multiply(layer.output, attended, rooms_.update.get());
            norm_update(layer.self_post_norm);
            add_norm(x, rooms_.update.get(), layer.mlp_norm, rooms_.normed.get());
            x = rooms_.total.get();
            multiply(layer.wide, rooms_.normed.get(), rooms_.wide.get());
            gate();
            multiply(layer.down, rooms_.gated.get(), rooms_.update.get());
            norm_update(layer.mlp_post_norm);
            update = rooms_.update.get();
        }
        add_norm(x, update, a_.final_norm, static_cast<char*>(step_.out));
    }

   private:
    // Calls body(first, row after the last) for this thread's share, and waits for the others.
    template <typename Body>
    void share(int64_t amount, const Body& body) {
        const int64_t first = amount * own_ / count_, last = amount * (own_ + 1) / count_;
        if (first < last) body(first, last);
        barrier_.wait(count_);
    }

    // total = x + update where there is one, out = its norm.
    void add_norm(const char* x, const void* update, const void* weight, char* out) {
        share(num_rows_, [&](int64_t first, int64_t last) {
            const int64_t skip = first * a_.hidden * size_;
            const char* more = update == nullptr ? nullptr : static_cast<const char*>(update) + skip;
            char* total = update == nullptr ? nullptr : rooms_.total.get() + skip;
            rms_norm(x + skip, more, weight, total, out + skip, last - first, a_.hidden, a_.eps, a_.offset,
                     a_.is_bfloat16, 1);
        });
    }

    void norm_update(const void* weight) {
        if (weight == nullptr) return;
        share(num_rows_, [&](int64_t first, int64_t last) {
            char* update = rooms_.update.get() + first * a_.hidden * size_;
            rms_norm(update, nullptr, weight, nullptr, update, last - first, a_.hidden, a_.eps, a_.offset,
                     a_.is_bfloat16, 1);
        });
    }

    void multiply(const Product& product, const char* x, char* out) {
        if (product.scales != nullptr)
            multiply_quantized(product, x, out);
        else
            multiply_bfloat16(product, x, out);
    }

    void multiply_bfloat16(const Product& product, const char* x, char* out) {
        const auto numbers = [](const void* from) { return static_cast<const uint16_t*>(from); };
        const Bfloat16Linear linear{
            numbers(x), numbers(product.weight), numbers(product.bias), reinterpret_cast<uint16_t*>(out), num_rows_,
            product.in, product.out, product.in,
        };
        share(linear.num_tasks(), [&](int64_t first, int64_t last) { bfloat16_kernels()->multiply(linear, first, last); });
    }

    void multiply_quantized(const Product& product, const char* x, char* out) {
        const int64_t num_groups = product.group > 0 ? product.padded / product.group : 1;
        const int64_t num_panels = (product.out + PANEL - 1) / PANEL;
        const QuantizedLinear linear{
            x, product.weight, product.scales, product.bias, out, rooms_.codes.get(), rooms_.scales.get(),
            rooms_.sums.get(), num_rows_, product.in, product.padded, product.out, product.in, product.group,
            num_groups, num_panels, a_.is_bfloat16 != 0, nullptr,
        };
        fetch_early(product, num_panels);
        share(num_rows_, [&](int64_t first, int64_t last) { kernels_.quantize(linear, first, last); });
        share(num_panels * ((num_rows_ + CHUNK - 1) / CHUNK),
              [&](int64_t first, int64_t last) { kernels_.multiply(linear, first, last); });
    }

    void fetch_early(const Product& product, int64_t num_panels) {
        const int64_t bytes = PANEL * product.padded / (product.group > 0 ? 2 : 1);
        const uint8_t* first = product.weight + num_panels * own_ / count_ * bytes;
        for (int64_t i = 0; i < EARLY && i < bytes; i += 64) __builtin_prefetch(first + i);
    }

    // Queries and keys are turned in place; heads lie side by side: queries, keys, values.
    void turn_and_write(const Layer& layer, void* cache) {
        const int64_t width = (a_.heads + 2 * a_.kv) * a_.d;
        share(num_rows_, [&](int64_t first, int64_t last) {
            const int64_t count = last - first, skip = first * a_.d * size_;
            char* query = rooms_.heads.get() + first * width * size_;
            char* key = query + a_.heads * a_.d * size_;
            for (int64_t row = 0; layer.query_norm != nullptr && row < count; ++row) {
                norm_heads(query + row * width * size_, a_.heads, layer.query_norm);
                norm_heads(key + row * width * size_, a_.kv, layer.key_norm);
            }
            const char* cosine = static_cast<const char*>(step_.cosines[layer.rotation]) + skip;
            const char* sine = static_cast<const char*>(step_.sines[layer.rotation]) + skip;
            rotate(query, cosine, sine, count, a_.heads + a_.kv, a_.d, width, a_.is_bfloat16, 1);
            write_cache(key, key + a_.kv * a_.d * size_, cache, step_.blocks + first, step_.offsets + first, count,
                        a_.kv, a_.d, width, width, step_.page_stride, step_.cache_is_bfloat16, a_.is_bfloat16, 1);
        });
    }

    void norm_heads(char* heads, int64_t count, const void* weight) {
        rms_norm(heads, nullptr, weight, nullptr, heads, count, a_.d, a_.eps, a_.offset, a_.is_bfloat16, 1);
    }

    // Keys are of different numbers, so that whoever is done takes the next piece.
    void attend(const Layer& layer, const void* cache, std::atomic<int64_t>& taken) {
        const DecodeAttention attention{
            rooms_.heads.get(), cache, step_.tables, step_.num_keys, nullptr, rooms_.attended.get(), num_rows_,
            a_.heads, a_.kv, a_.d, step_.block, step_.num_blocks, (a_.heads + 2 * a_.kv) * a_.d, step_.page_stride,
            0, 0, layer.window, a_.scale, step_.cache_is_bfloat16 != 0,
        };
        const int64_t amount = (step_.tiles == nullptr ? num_rows_ : step_.num_tiles) * a_.kv;
        for (int64_t i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < amount;) {
            if (step_.tiles == nullptr)
                attend_groups(attention, i, i + 1, a_.is_bfloat16 != 0, room_);
            else
                attend_tiles(attention, step_.tiles, i, i + 1, 0, a_.is_bfloat16 != 0, room_);
        }
        barrier_.wait(count_);
    }

    // This thread's share of the wanted rows of x [n, width], one behind the other.
    const char* pick(const char* x, int64_t width, char* out) {
        const int64_t bytes = width * size_;
        for (int64_t i = step_.num_wanted * own_ / count_; i < step_.num_wanted * (own_ + 1) / count_; ++i)
            std::memcpy(out + i * bytes, x + step_.wanted[i] * bytes, bytes);
        return out;
    }

    // By columns, since there may be a single row.
    void gate() {
        const int64_t width = a_.intermediate, num_pieces = (width + PANEL - 1) / PANEL;
        share(num_pieces, [&](int64_t first, int64_t last) {
            const int64_t start = first * PANEL, stop = last * PANEL < width ? last * PANEL : width;
            for (int64_t row = 0; row < num_rows_; ++row) {
                const char* up = rooms_.wide.get() + (row * 2 * width + start) * size_;
                char* out = rooms_.gated.get() + (row * width + start) * size_;
                const auto kernel = a_.is_gelu ? gelu_tanh_gate : silu_gate;
                kernel(up + width * size_, up, out, 1, stop - start, width, width, a_.is_bfloat16, 1);
            }
        });
    }

    const Decoder& a_;
    const DecoderStep& step_;
    const Rooms& rooms_;
    Barrier& barrier_;
    const QuantizedKernels& kernels_;
    const int64_t own_, count_, size_;
    int64_t num_rows_;  // of the last layer the wanted ones
    AttentionRoom room_;
};

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

Rooms rooms_for(const Decoder& a, int64_t n) {
    int64_t padded = 0, num_groups = 1;
    for (int64_t i = 0; i < a.num_layers; ++i) {
        const Layer& layer = a.layers[i];
        for (const Product* product : {&layer.inputs, &layer.output, &layer.wide, &layer.down}) {
            padded = larger(padded, product->padded);
            if (product->group > 0) num_groups = larger(num_groups, product->padded / product->group);
        }
    }
    const int64_t row = n * (a.is_bfloat16 ? 2 : 4);
    return Rooms{
        room_for(row * a.hidden),
        room_for(row * a.hidden),
        room_for(row * (a.heads + 2 * a.kv) * a.d),
        room_for(row * a.heads * a.d),
        room_for(row * larger(2 * a.intermediate, a.hidden)),  // where the wanted rows of x are picked to, too
        room_for(row * a.intermediate),
        room_for(row * a.hidden),
        room_for<int8_t>(n * padded),
        room_for<float>(n),
        room_for<int32_t>(n * num_groups),
        std::make_unique<std::atomic<int64_t>[]>(a.num_layers),
    };
}

}  // namespace

extern "C" void decode_layers(const Decoder* decoder, const DecoderStep* step) {
    const Rooms rooms = rooms_for(*decoder, step->num_rows);
    Barrier barrier;
#pragma omp parallel num_threads(step->num_threads)
    Worker(*decoder, *step, rooms, barrier, omp_get_thread_num(), omp_get_num_threads()).run();
}
