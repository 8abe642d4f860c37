// Products of bfloat16 rows with bfloat16 weights, for processors that multiply pairs of them (AVX-512 BF16).
//
// An output is summed in one float32 number over its inputs in their order, two at a time, so that a row has the same
// bits however many stand beside it, and whichever thread computes them.
#pragma once

#include <cstdint>

// y [rows, out] = x [rows, in] times w plus bias [out] or null; all are the bits of bfloat16 numbers.
//
// Weights lie in panels of PANEL outputs, the last filled up with noughts. Each 256 bytes of a panel are two inputs of
// every output, side by side; beside an odd last input is a nought.
struct Bfloat16Linear {
    static constexpr int64_t PANEL = 64;
    static constexpr int64_t ROWS = 6;            // at once: as many as there are registers for
    static constexpr int64_t MOST_ROWS = 32 * ROWS;  // of a task
    static constexpr int64_t KEPT = 400 << 10;  // bytes of rows that stay in a core's second cache while weights pass by

    const uint16_t *x, *weight, *bias;
    uint16_t* out;
    int64_t num_rows, in, out_features, x_stride;

    int64_t num_panels() const { return (out_features + PANEL - 1) / PANEL; }
    int64_t num_chunks() const {
        const int64_t kept = KEPT / (2 * in * ROWS) * ROWS;
        const int64_t most = kept < 4 * ROWS ? 4 * ROWS : kept < MOST_ROWS ? kept : MOST_ROWS;
        return (num_rows + most - 1) / most;
    }
    // A task is a chunk of rows with a panel. Threads share tasks by their number, in runs.
    int64_t num_tasks() const { return num_panels() * num_chunks(); }
};

struct Bfloat16Kernels {
    // Panels [first, last) of weights [out, in], rows `stride` apart.
    void (*lay_out)(const uint16_t* weight, int64_t stride, int64_t out_features, int64_t in, uint16_t* to,
                    int64_t first, int64_t last);
    // Tasks [first, last).
    void (*multiply)(const Bfloat16Linear&, int64_t first, int64_t last);
};

// Null where the processor has no such products, or has faster ones than these (AMX).
const Bfloat16Kernels* bfloat16_kernels();
