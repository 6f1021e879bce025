/* The shared-memory ABI between the sidecar and a worker, and the messages of the fd socket. Plain C, little endian; an
 * engine developer needs no other file. Sizes are fixed by the assertions at the end.
 *
 * Life of a lease
 *   1. The worker connects a SOCK_SEQPACKET socket to its tenant's fd socket path. The first datagram it receives is a
 *      kvs_fd_message of type KVS_FD_TICKET. The connection is the lease: when it ends, the memory goes back.
 *   2. It calls Attach over gRPC with the ticket. Every memory object of the lease then arrives on the socket as one
 *      KVS_FD_OBJECT datagram with one descriptor, always before the reply that first needs it.
 *   3. It maps the objects (MADV_DONTFORK, close-on-exec), writes the self-test into the statistics region and
 *      opens Hold. If Attach named a device, extent 0 has come, too, and its first 16 bytes must hold the self-test's.
 *   4. To end in order: unmap everything, send KVS_FD_DETACH, close. A process that just dies is as good.
 *
 * Objects
 *   extents     KV blocks, read and written by the worker. Extent i holds blocks [i * n, (i + 1) * n), n from Attach;
 *               mapped one behind the other, block b lies at base + b * block_bytes. A file that cannot shrink; if Attach
 *               named a device, an allocation of that device's memory instead, as its driver exports it.
 *   tables      rows of blocks, read-only to the worker; grows by further chunks.
 *   statistics  the self-test, words, window slots and the inputs area, written by the worker.
 *   plans       what the last eviction of a sequence kept, read-only to the worker.
 *
 * A block is 16 tokens of one (layer, kv head): K [16, head_dim], then V [16, head_dim], in the lease's dtype, C order.
 */
#ifndef KVSTEWARD_SHM_H_
#define KVSTEWARD_SHM_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVS_SHM_MAGIC 0x3154534bu /* "KST1" */
#define KVS_SHM_VERSION 1u
#define KVS_BLOCK_TOKENS 16u
#define KVS_ALIGNMENT 64u

enum kvs_object_kind { KVS_EXTENT = 1, KVS_TABLES = 2, KVS_STATISTICS = 3, KVS_PLANS = 4 };

/* ---- The fd socket ---------------------------------------------------------------------------------------------- */
enum kvs_fd_message_type {
  KVS_FD_TICKET = 1, /* sidecar -> worker, once, first: `ticket` */
  KVS_FD_OBJECT = 2, /* sidecar -> worker, with one descriptor: kind, index, bytes */
  KVS_FD_DETACH = 3  /* worker -> sidecar: everything is unmapped */
};

struct kvs_fd_message {
  uint32_t magic;     /* KVS_SHM_MAGIC */
  uint32_t version;   /* KVS_SHM_VERSION */
  uint32_t type;      /* enum kvs_fd_message_type */
  uint32_t kind;      /* KVS_FD_OBJECT: enum kvs_object_kind */
  uint32_t index;     /* KVS_FD_OBJECT: counts objects of this kind from 0 */
  uint32_t reserved;  /* 0 */
  uint64_t bytes;     /* KVS_FD_OBJECT: size of the object */
  uint8_t ticket[16]; /* KVS_FD_TICKET: give it to Attach */
};

/* ---- Every region but extents begins with this ------------------------------------------------------------------ */
struct kvs_region_header {
  uint32_t magic;       /* KVS_SHM_MAGIC */
  uint32_t version;     /* KVS_SHM_VERSION */
  uint32_t kind;        /* enum kvs_object_kind */
  uint32_t index;       /* counts objects of this kind from 0 */
  uint64_t bytes;       /* size of the region */
  uint64_t lease;       /* public id, for logs */
  uint8_t reserved[32]; /* 0 */
};

/* ---- Table region ---------------------------------------------------------------------------------------------------
 * CreateSequence says in which chunk and at which offset a sequence's table lies:
 *   kvs_sequence_table | one uint64_t `current` word per unit, padded to 64 | rows: unit 0 slot 0, unit 0 slot 1, ...
 * A unit is layer * kv_heads + kv_head. Each has two row slots; bit 0 of its word says which is valid, the other bits
 * are its version. The sidecar fills the other slot and then stores the word with release; a reader loads it with
 * acquire. So a unit is always entirely old or entirely new, whenever the sidecar dies.
 * Residents of the unit after T tokens of the sequence: row_len + (T - base_tokens); the next token's slot is that
 * number. `blocks` of a row says how many are its own, room for tokens to come included. */
struct kvs_sequence_table {
  uint32_t magic;        /* KVS_SHM_MAGIC */
  uint32_t units;        /* layers * kv_heads */
  uint32_t row_capacity; /* blocks a row can hold */
  uint32_t reserved0;    /* 0 */
  uint64_t row_stride;   /* bytes from one row slot to the next */
  uint64_t rows_offset;  /* bytes from this struct to the first row slot */
  uint8_t reserved[32];  /* 0 */
};

/* Standard C++ has no flexible array members, every compiler of it does. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
struct kvs_row {
  uint32_t row_len;     /* residents when the row was settled */
  uint32_t base_tokens; /* tokens the sequence had seen then */
  uint32_t blocks;      /* entries that follow; Reserve appends in place, eviction and Truncate cut */
  uint32_t reserved;    /* 0 */
  uint32_t block[];     /* index of each block of 16 tokens, in order of position */
};
#pragma GCC diagnostic pop

/* ---- Statistics region ----------------------------------------------------------------------------------------------
 *   kvs_region_header | self-test | ready words | done words | window slots | inputs area (at inputs_offset from
 *   Attach, of its input_bytes)
 * A window slot holds the queries of the last rows, after RoPE: [layers, query_heads, rows, head_dim], C order,
 * packed. The inputs area is the worker's to divide: Evict names where in it each input lies, at multiples of
 * KVS_ALIGNMENT, as packed uint8_t (classes) or float (the others), C order. What a call names must not change from
 * the call, or once its ready word has reached its value, until its reply. */
#define KVS_SELF_TEST_OFFSET 64u /* 16 bytes: the ticket, each byte xor 0x5a */
#define KVS_WINDOWS_OFFSET 4096u /* window slot s at KVS_WINDOWS_OFFSET + s * window_slot_bytes (from Attach) */

/* Words let a worker's CUDA stream and the sidecar wait for each other while no CPU thread of the worker does. They are
 * 32 bits wide, begin as 0, and are divided by the worker as it likes; one slot serves one item at a time. A word has
 * reached a value if kvs_word_reached says so, which goes around at 2^32 and is what CU_STREAM_WAIT_VALUE_GEQ asks. (Of
 * the stream's operations those on 32 bits exist wherever any does; those on 64 depend on the device.)
 *
 * ready  An item of Evict or Observe that names one is begun once the word has reached the value. So its call may be
 *        made while the stream still writes K, V, the window slot or the inputs: the sidecar's host looks at the word
 *        and reads nothing else of the item before. Stored behind those writes
 *          by a stream: cuStreamWriteValue32(stream, word, value, CU_STREAM_WRITE_VALUE_DEFAULT)
 *          by a thread: __atomic_store_n(kvs_ready_word(region, slot), value, __ATOMIC_RELEASE)
 *
 * done   The sidecar stores the item's value, with release, when the sequence is the worker's again: behind the last
 *        row that changes and before the reply. Waited for
 *          by a stream: cuStreamWaitValue32(stream, word, value, CU_STREAM_WAIT_VALUE_GEQ)
 *          by a thread: kvs_word_reached(__atomic_load_n(kvs_done_word(region, slot), __ATOMIC_ACQUIRE), value)
 *        It is stored however a begun item ends, also if its call was cancelled, and for an item that is answered
 *        without being begun; but not while an earlier item of the same sequence is under way, nor if the call was
 *        refused as a whole. Then, and when the sidecar has died, nobody comes: the worker stores the value, and its
 *        stream goes on.
 *
 * For a stream, once: cuMemHostRegister(region, KVS_WINDOWS_OFFSET, CU_MEMHOSTREGISTER_DEVICEMAP), and
 * cuMemHostGetDevicePointer of each word; cuMemHostUnregister before the region is unmapped. */
#define KVS_WORDS 256u         /* of each kind */
#define KVS_READY_OFFSET 1024u /* ready word s at KVS_READY_OFFSET + 4 * s */
#define KVS_DONE_OFFSET 2048u  /* done word s at KVS_DONE_OFFSET + 4 * s */

/* ---- Plan region ----------------------------------------------------------------------------------------------------
 * Evict says at which offset its plan lies, if one was asked for. Valid until the next call that names the sequence.
 *   kvs_plan | kvs_unit_plan per unit | masks, index lists and scores where kvs_unit_plan says */
struct kvs_plan {
  uint32_t magic;         /* KVS_SHM_MAGIC */
  uint32_t units;         /* layers * kv_heads: as many kvs_unit_plan follow */
  uint64_t sequence;      /* the worker's id of it */
  uint64_t bytes;         /* all of the plan, from here on */
  uint32_t budget_tokens; /* the budget in tokens per unit, mean over the units */
  uint32_t no_op;         /* 1: all was within budget and stays; else 0 */
  uint8_t reserved[32];   /* 0 */
};

struct kvs_unit_plan {
  uint32_t residents;      /* tokens resident before */
  uint32_t kept;           /* tokens that stay */
  uint64_t mask_offset;    /* from kvs_plan: uint64_t words, bit j % 64 of word j / 64 is set if resident j stays */
  uint64_t indices_offset; /* likewise, uint32_t [kept]: residents that stay, ascending */
  uint64_t scores_offset;  /* likewise, float [residents]: refined scores, 0 for protected tokens; 0: not asked for */
};

/* ---- Arithmetic ------------------------------------------------------------------------------------------------- */
static inline uint64_t kvs_align(uint64_t bytes) { return (bytes + KVS_ALIGNMENT - 1) / KVS_ALIGNMENT * KVS_ALIGNMENT; }
static inline uint64_t kvs_row_stride(uint32_t row_capacity) {
  return kvs_align(sizeof(struct kvs_row) + (uint64_t)row_capacity * sizeof(uint32_t));
}
static inline uint64_t kvs_rows_offset(uint32_t units) {
  return sizeof(struct kvs_sequence_table) + kvs_align((uint64_t)units * sizeof(uint64_t));
}
static inline uint64_t kvs_table_bytes(uint32_t units, uint32_t row_capacity) {
  return kvs_rows_offset(units) + 2 * (uint64_t)units * kvs_row_stride(row_capacity);
}
static inline const uint64_t* kvs_unit_word(const struct kvs_sequence_table* table, uint32_t unit) {
  return (const uint64_t*)((const uint8_t*)table + sizeof(struct kvs_sequence_table)) + unit;
}
static inline const struct kvs_row* kvs_row_slot(const struct kvs_sequence_table* table, uint32_t unit, uint32_t slot) {
  return (const struct kvs_row*)((const uint8_t*)table + table->rows_offset +
                                 (2 * (uint64_t)unit + slot) * table->row_stride);
}
/* The valid row of a unit. Its blocks stay valid until the worker names the sequence in its next call. */
static inline const struct kvs_row* kvs_current_row(const struct kvs_sequence_table* table, uint32_t unit) {
  const uint64_t word = __atomic_load_n(kvs_unit_word(table, unit), __ATOMIC_ACQUIRE);
  return kvs_row_slot(table, unit, (uint32_t)(word & 1));
}
static inline int kvs_word_reached(uint32_t word, uint32_t value) { return word - value <= 0x7fffffffu; }
/* Of a statistics region. REQUIRES: slot < KVS_WORDS. */
static inline uint32_t* kvs_ready_word(void* statistics, uint32_t slot) {
  return (uint32_t*)((uint8_t*)statistics + KVS_READY_OFFSET) + slot;
}
static inline uint32_t* kvs_done_word(void* statistics, uint32_t slot) {
  return (uint32_t*)((uint8_t*)statistics + KVS_DONE_OFFSET) + slot;
}
static inline const struct kvs_unit_plan* kvs_unit_plan_of(const struct kvs_plan* plan, uint32_t unit) {
  return (const struct kvs_unit_plan*)((const uint8_t*)plan + sizeof(struct kvs_plan)) + unit;
}

#ifdef __cplusplus
} /* extern "C" */
#define KVS_STATIC_ASSERT static_assert
#else
#define KVS_STATIC_ASSERT _Static_assert
#endif

KVS_STATIC_ASSERT(sizeof(struct kvs_fd_message) == 48, "ABI");
KVS_STATIC_ASSERT(sizeof(struct kvs_region_header) == 64, "ABI");
KVS_STATIC_ASSERT(KVS_SELF_TEST_OFFSET + 16 <= KVS_READY_OFFSET, "ABI");
KVS_STATIC_ASSERT(KVS_READY_OFFSET + 4 * KVS_WORDS <= KVS_DONE_OFFSET, "ABI");
KVS_STATIC_ASSERT(KVS_DONE_OFFSET + 4 * KVS_WORDS <= KVS_WINDOWS_OFFSET, "ABI");
KVS_STATIC_ASSERT(sizeof(struct kvs_sequence_table) == 64, "ABI");
KVS_STATIC_ASSERT(sizeof(struct kvs_row) == 16, "ABI");
KVS_STATIC_ASSERT(sizeof(struct kvs_plan) == 64, "ABI");
KVS_STATIC_ASSERT(sizeof(struct kvs_unit_plan) == 32, "ABI");

#endif /* KVSTEWARD_SHM_H_ */
