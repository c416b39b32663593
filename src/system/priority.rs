//! Which threads run first where a CPU is short.

use rustix::process::setpriority_process;

/// Nine times the share of an ordinary thread (nice(2), sched(7)). What matters more: one that wakes need not wait until
/// an ordinary one has had its turn, which takes milliseconds.
const FIRST: i32 = -10;

/// From now on the calling thread runs before ordinary ones: for those that packets wait for, or that would take
/// their own slowness for a fault. Without the right to do so (`CAP_SYS_NICE`) it stays an ordinary one.
pub fn go_first() {
    if let Err(error) = setpriority_process(None, FIRST) {
        tracing::debug!("a thread that packets wait for runs no sooner than others: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn the_thread_that_asks_goes_first_and_no_other() {
        let before = getpriority_process(None).unwrap();
        let asked = thread::spawn(|| {
            go_first();
            getpriority_process(None).unwrap()
        });
        let expected = if nix::unistd::geteuid().is_root() { FIRST } else { before };
        assert_eq!(asked.join().unwrap(), expected);
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
