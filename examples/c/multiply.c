/* Matrices of int8 and int4 times a vector, with edge-lfm's kernels and nothing else.
 *
 *   edge-lfm compile --target x86-64-v3 -o kernels
 *   cc -Ikernels examples/c/multiply.c kernels/x86-64-v3.so -lm -o multiply && LD_LIBRARY_PATH=kernels ./multiply
 */
#include <math.h>
#include <stdio.h>

#include "edge_lfm_kernels.h"

enum { ROWS = 64, COLS = 256, GROUPS = COLS / EDGE_LFM_GROUP, TILES = ROWS / EDGE_LFM_TILE_ROWS };

#define ADDRESS(p) ((int64_t)(intptr_t)(p))

static float weights[ROWS * COLS], x[COLS], decoded[COLS], out[ROWS], errors[TILES * 2 * EDGE_LFM_TILE_ROWS];
static int8_t q[COLS];      /* the vector as int8 ... */
static float s[GROUPS * 4]; /* ... and its groups: scale, scale * sum, and that of both halves */
static unsigned char packed[ROWS * COLS * 4], scratch[EDGE_LFM_ENCODE_SCRATCH_BYTES(COLS)], area[EDGE_LFM_SCRATCH_BYTES(COLS)];
static int64_t sync_area[EDGE_LFM_SYNC_BYTES / 8];

/* Encode, multiply, and compare with the decoded weights times the rounded vector. */
static int check(const char *name, int scheme, double least_db) {
    edge_lfm_context ctx = {.threads = 1, .sync = ADDRESS(sync_area)};
    edge_lfm_matrix matrix = {.scheme = scheme, .address = ADDRESS(packed), .rows = ROWS, .cols = COLS};
    if (edge_lfm_encode_rows(scheme, 0, 0, ADDRESS(weights), 0, TILES, COLS, ADDRESS(packed), ADDRESS(errors),
                             ADDRESS(scratch)) != 0)
        return 1;
    sync_area[EDGE_LFM_COUNTER / 8] = 0; /* rows that are given out so far */
    edge_lfm_round_activations(ADDRESS(&ctx), ADDRESS(x), ADDRESS(q), ADDRESS(s), COLS);
    edge_lfm_product product = {.matrix = ADDRESS(&matrix), .q = ADDRESS(q), .s = ADDRESS(s), .out = ADDRESS(out),
                                .out_stride = ROWS * 4, .tokens = 1};
    edge_lfm_multiply(ADDRESS(&ctx), ADDRESS(&product), ADDRESS(area));
    double worst = 0, lost = 0, size = 0;
    for (int row = 0; row < ROWS; row++) {
        double want = 0;
        edge_lfm_unpack_row(ADDRESS(&matrix), row, ADDRESS(decoded));
        for (int k = 0; k < COLS; k++) {
            double w = weights[row * COLS + k];
            want += (double)decoded[k] * q[k] * s[k / EDGE_LFM_GROUP * 4];
            lost += (decoded[k] - w) * (decoded[k] - w);
            size += w * w;
        }
        worst = fmax(worst, fabs(want - out[row]));
    }
    double db = 10 * log10(size / lost);
    printf("%-14s %d x %d: off by %.0e at most; rounding lost %.1f dB\n", name, ROWS, COLS, worst, db);
    return !(worst < 1e-5 && db > least_db);
}

int main(void) {
    for (int i = 0; i < ROWS * COLS; i++) weights[i] = sinf(0.7f * (float)i) / 8;
    for (int k = 0; k < COLS; k++) x[k] = cosf(0.3f * (float)k);
    return check("int8_g32", EDGE_LFM_INT8_G32, 40) | check("int4_g32", EDGE_LFM_INT4_G32, 20) |
           check("codebook4_g32", EDGE_LFM_CODEBOOK4_G32, 20) | check("codebook4_g16", EDGE_LFM_CODEBOOK4_G16, 20);
}
