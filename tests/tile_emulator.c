/* AMX's tiles in software: a handler of SIGILL that does what the instruction says on tiles of its own, one set per
 * thread, and steps over it. All other machine code runs as it is.
 *
 * Written from Intel's manual (volume 2: LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBSUD and its kin).
 * What the manual says faults, ends the process with a message; so does a load or a product with sizes that do not fit.
 * An instruction that is not AMX's goes to the handler that there was before.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, MAX_ROWS = 16, MAX_BYTES = 64, CONFIG_BYTES = 64 };

typedef struct {
    int configured;
    unsigned rows[TILES], bytes[TILES];
    uint8_t data[TILES][MAX_ROWS][MAX_BYTES];
} State;

static __thread State state;
static struct sigaction before;
static int64_t executed; /* instructions, of all threads */

static void die(const char *why) {
    char line[128];
    int n = snprintf(line, sizeof line, "tile emulator: %s\n", why);
    if (write(2, line, n) < 0) {
    }
    _exit(71);
}

/* The general register n of a context, by its number in machine code. */
static uint64_t reg(const ucontext_t *context, unsigned n) {
    static const int place[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)context->uc_mcontext.gregs[place[n]];
}

/* A decoded instruction: VEX.128, map 0F38, W0. */
typedef struct {
    unsigned prefix, opcode, mod, reg, rm, vvvv, length;
    int has_sib;
    uint64_t address, stride; /* of a memory operand; stride: the scaled index */
} Instruction;

enum { NONE, P66, PF3, PF2 };

static int32_t displacement(const uint8_t *at, int bytes) {
    int32_t wide;
    if (bytes == 1)
        return (int8_t)at[0];
    memcpy(&wide, at, 4);
    return wide;
}

/* Whether the bytes at `code` may be one of AMX's instructions, decoded into `in`. */
static int decode(const uint8_t *code, const ucontext_t *context, Instruction *in) {
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0)
        return 0; /* not three bytes of VEX, map 2, W0, 128 bits */
    unsigned r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
    in->prefix = code[2] & 3;
    in->vvvv = ~(code[2] >> 3) & 15;
    in->opcode = code[3];
    in->mod = code[4] >> 6;
    in->reg = (code[4] >> 3 & 7) | r << 3;
    in->rm = (code[4] & 7) | b << 3;
    in->length = 5;
    in->has_sib = 0;
    in->address = in->stride = 0;
    if (in->mod == 3)
        return 1;
    const uint8_t *next = code + 5;
    int bytes = in->mod == 1 ? 1 : in->mod == 2 ? 4 : 0;
    uint64_t base;
    if ((code[4] & 7) == 4) { /* a byte of scale, index and base */
        unsigned scale = *next >> 6, index = (*next >> 3 & 7) | x << 3, low = *next & 7;
        in->has_sib = 1;
        next++;
        in->stride = index == 4 ? 0 : reg(context, index) << scale;
        if (low == 5 && in->mod == 0) {
            base = 0;
            bytes = 4;
        } else
            base = reg(context, low | b << 3);
    } else if ((code[4] & 7) == 5 && in->mod == 0) { /* from the end of the instruction */
        base = (uint64_t)(next + 4);
        bytes = 4;
    } else
        base = reg(context, in->rm);
    in->length = (unsigned)(next + bytes - code);
    in->address = base + (bytes ? (uint64_t)(int64_t)displacement(next, bytes) : 0);
    return 1;
}

static void configure(const uint8_t *config) {
    static const uint8_t zeros[16];
    State fresh;
    memset(&fresh, 0, sizeof fresh);
    if (config[0] > 1 || (config[0] == 1 && (config[1] != 0 || memcmp(config + 2, zeros, 14))))
        die("#GP: palette, start row or reserved bytes of a configuration");
    for (int t = 0; config[0] == 1 && t < 16; t++) {
        unsigned rows = config[48 + t], bytes = config[16 + 2 * t] | config[17 + 2 * t] << 8;
        if (rows > MAX_ROWS || bytes > MAX_BYTES || (rows == 0) != (bytes == 0) || (t >= TILES && rows))
            die("#GP: rows or bytes of a tile");
        if (t < TILES)
            fresh.rows[t] = rows, fresh.bytes[t] = bytes;
    }
    fresh.configured = config[0] == 1;
    state = fresh;
}

static void used(unsigned tile) {
    if (!state.configured || tile >= TILES || state.rows[tile] == 0)
        die("#UD: a tile without a shape");
}

/* A row at a time; rows and bytes that a tile does not have become zero. */
static void load(unsigned tile, uint64_t address, uint64_t stride) {
    used(tile);
    memset(state.data[tile], 0, sizeof state.data[tile]);
    for (unsigned m = 0; m < state.rows[tile]; m++)
        memcpy(state.data[tile][m], (const void *)(address + m * stride), state.bytes[tile]);
}

static void store(unsigned tile, uint64_t address, uint64_t stride) {
    used(tile);
    for (unsigned m = 0; m < state.rows[tile]; m++)
        memcpy((void *)(address + m * stride), state.data[tile][m], state.bytes[tile]);
}

/* c[m][n] += sum over fours k and bytes i of a[m][4k + i] * b[k][4n + i], modulo 2**32. */
static void multiply(unsigned c, unsigned a, unsigned b, int a_is_signed, int b_is_signed) {
    used(c), used(a), used(b);
    if (c == a || c == b || a == b)
        die("#UD: a product of one tile twice");
    if (state.rows[c] != state.rows[a] || state.bytes[c] != state.bytes[b] || state.bytes[a] / 4 != state.rows[b])
        die("#UD: shapes of a product that do not fit");
    if (state.bytes[a] % 4 || state.bytes[b] % 4 || state.bytes[c] % 4)
        die("#UD: bytes of a row that are no fours");
    for (unsigned m = 0; m < state.rows[c]; m++)
        for (unsigned n = 0; n < state.bytes[c] / 4; n++) {
            uint32_t sum;
            memcpy(&sum, &state.data[c][m][4 * n], 4);
            for (unsigned k = 0; k < state.bytes[a] / 4; k++)
                for (unsigned i = 0; i < 4; i++) {
                    uint8_t x = state.data[a][m][4 * k + i], w = state.data[b][k][4 * n + i];
                    sum += (uint32_t)((a_is_signed ? (int8_t)x : x) * (b_is_signed ? (int8_t)w : w));
                }
            memcpy(&state.data[c][m][4 * n], &sum, 4);
        }
}

/* Whether it was one of AMX's. */
static int execute(const Instruction *in) {
    unsigned tile = in->reg;
    if (in->opcode == 0x49) {
        if (in->prefix == NONE && in->mod != 3 && in->reg == 0)
            configure((const uint8_t *)in->address);
        else if (in->prefix == NONE && in->mod == 3 && in->reg == 0 && in->rm == 0)
            memset(&state, 0, sizeof state);
        else if (in->prefix == PF2 && in->mod == 3 && in->rm == 0)
            used(tile), memset(state.data[tile], 0, sizeof state.data[tile]);
        else
            return 0;
    } else if (in->opcode == 0x4B && in->mod != 3 && in->has_sib) {
        if (in->prefix == PF2 || in->prefix == P66)
            load(tile, in->address, in->stride);
        else if (in->prefix == PF3)
            store(tile, in->address, in->stride);
        else
            return 0;
    } else if (in->opcode == 0x5E && in->mod == 3)
        multiply(tile, in->rm, in->vvvv, in->prefix == PF2 || in->prefix == PF3,
                 in->prefix == PF2 || in->prefix == P66);
    else
        return 0;
    return 1;
}

static void on_illegal(int number, siginfo_t *info, void *raw) {
    (void)number, (void)info;
    ucontext_t *context = raw;
    greg_t *at = &context->uc_mcontext.gregs[REG_RIP];
    Instruction in;
    if (decode((const uint8_t *)*at, context, &in) && execute(&in)) {
        *at += in.length;
        __atomic_add_fetch(&executed, 1, __ATOMIC_RELAXED);
    } else
        sigaction(SIGILL, &before, NULL); /* which the same instruction then meets */
}

int emulate_tiles(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGILL, &action, &before);
}

int64_t emulated_instructions(void) { return __atomic_load_n(&executed, __ATOMIC_RELAXED); }
