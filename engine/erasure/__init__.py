"""Deletes a customer everywhere. Every transition may be repeated, and every state survives a crash.

    announced --> tombstoned --> swept --> swept again: the note of the erasure is removed
        |
        +--> log rewritten --> settled      each log, beside its collector
        |
        +--> learner files cleaned          each machine with a learner

| state | what is true from then on | transition | if the process dies before the next state |
|---|---|---|---|
| announced | a note and a stream entry in the store name the customer by digests and key hashes only | `profiles._begin` | `finish_erasures` on any server starts again from the note |
| tombstoned | every identifier's entry is a tombstone: late events are refused | `profiles._lay_tombstones` | as above |
| swept | messages to send, pending decisions and stored answers are deleted; holds in stocks and budgets are released | `profiles._sweep` | as above |
| swept again | what a decision wrote or held that had read the profile before is deleted or released as well | `profiles.finish_erasures` | the sweep is repeated |
| log rewritten | the checkpoint has the digests, so late rows are dropped; no file has a row of the customer | `log.erase_from_log`, `listener.LogEraser.step` | the eraser starts from its last settled position |
| learner files cleaned | SQLite files have no row of the customer, and the digests drop late records | `learner_files` | the digests are stored last, so the next round repeats it |
| settled | streams hold nothing from before the erasure, and the append-only file is being rewritten | `listener.LogEraser._settle` | the log is searched again |

Invariants:

1. The announcement comes before any deletion. A retry therefore still finds the customer's identifiers.
2. An announcement lives for `keyspace.ERASURES_LIFE`, longer than any spool or stream stores a record. A machine that was
   away for less than that misses no erasure.
3. Neither note nor announcement has an identifier: only keyed hashes and `identifier_digest`.

`recovery` repeats the unfinished erasures of the store; `announcements` writes and reads the announcements.
"""  # noqa: E501 (the table's rows stay whole)
