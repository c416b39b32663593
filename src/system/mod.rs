//! I/O: one file per outside thing.
