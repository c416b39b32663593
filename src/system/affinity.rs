//! On which CPUs a thread may run.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::plan::workers::Cpus;

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// The CPUs that the calling thread may run on; none where the kernel has more than it tells.
#[must_use]
pub fn allowed() -> Cpus {
    let Ok(set) = sched_getaffinity(THIS) else { return Cpus::new() };
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).map(|cpu| cpu as u16).collect()
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// When there is no such CPU, or the thread may not run there.
pub fn bind(cpu: u16) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu.into())?;
    Ok(sched_setaffinity(THIS, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_bound_may_run_on_its_cpu_alone() {
        let cpu = allowed().last().copied().unwrap();
        let bound = std::thread::spawn(move || bind(cpu).map(|()| allowed())).join().unwrap();
        assert_eq!(bound.unwrap(), [cpu].into());
        assert!(bind(u16::MAX).is_err());
    }
}
