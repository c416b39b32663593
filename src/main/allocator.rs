//! The allocator, which gives back to the machine what lists of a million names took when they are read
//! anew; the C library's keeps twice as much.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` (mimalloc 2, include/mimalloc.h): milliseconds for which freed memory is kept.
const PURGE_DELAY: mi_option_t = 15;

/// Freed memory goes back when it is freed. Usually it goes back with a later allocation, and a router that
/// has read its lists makes hardly any. What allocates all the time takes twice as long with it.
#[expect(unsafe_code, reason = "the allocator's options can be set by its C interface alone")]
pub fn give_back_at_once() {
    const AT_ONCE: c_long = 0;
    // SAFETY: stores a number in the allocator's table of options, of which this is one.
    unsafe { mi_option_set(PURGE_DELAY, AT_ONCE) }
}
