//! The fuzzer: calls the target that `FUZZ_TARGET` names. See `fuzz/run`.
#![no_main]

mod targets;

use std::sync::LazyLock;

use targets::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    targets::named(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name}: there is no such target"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
